# Every target does its own set-up: see scripts/setup.sh. `make` alone explains.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
BIN := .venv/bin
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit soak bench format clean

help:  ## Show this
	@echo "make TARGET, where TARGET is one of"
	@sed -nE 's/^([a-z]+):.*## (.*)$$/\1|\2/p' Makefile | while IFS='|' read -r name what; do \
	  printf '  %-8s %s\n' "$$name" "$$what"; done
	@echo
	@echo "Each one installs what it needs into .venv first. Variables: PYTHON=python3.12 (any of 3.10 to 3.14),"
	@echo "DEMO_ARGS, PYTEST_ARGS, SOAK_ARGS, BENCH_ARGS: more arguments for the command, as in make test PYTEST_ARGS='-k snapshot'."

demo:  ## Snapshot 20,000 PVs and record a detector, on an IOC of its own
	@scripts/setup.sh demo
	@$(BIN)/daqca demo $(DEMO_ARGS)

test: lint  ## Every check and every test, two files at a time
	$(BIN)/pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint:  ## The checks without the tests: ruff, mypy --strict, import-linter
	@scripts/setup.sh test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo

unit:  ## The tests that need no IOC and no process
	@scripts/setup.sh test
	$(BIN)/pytest tests/unit $(PYTEST_ARGS)

soak:  ## Ten minutes of everything at once, while the IOC is stopped, killed and restarted
	@scripts/setup.sh test
	$(BIN)/python -W error tests/support/lowlevel_soak.py --seconds 600 $(SOAK_ARGS)

format:  ## Put the code into the form that the checks want
	@scripts/setup.sh test
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench:  ## Compare with other clients, side by side against one IOC
	@scripts/setup.sh bench
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

clean:  ## Remove .venv and all that was made here
	rm -rf .venv build dist ./*.egg-info demo-output benchmarks/build
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
