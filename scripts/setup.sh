#!/usr/bin/env bash
# Make .venv ready for one purpose: `scripts/setup.sh demo|test|bench`. Safe to run again and again.
#
# A stamp in .venv holds all that the installation was made from (pyproject.toml, this script, the folder,
# the interpreter), so it is done again when one of them differs and at no other time: contents
# and not file times, which a checkout of an older commit or a copied folder would make lie.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

purpose=${1:-}
case $purpose in
    demo) extras=sim,plot ;;
    test) extras=test ;;
    bench) extras=bench ;;
    *) echo "usage: scripts/setup.sh demo|test|bench" >&2; exit 2 ;;
esac
venv=.venv
stamp=$venv/.installed-$purpose

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Install Debian packages where we may; otherwise say all that is missing and how to get it.
need_packages() { # what is missing, packages...
    local why="missing: $1"
    shift
    local advice="$why. Install it, then run make again. On Debian and Ubuntu:
    sudo apt-get update && sudo apt-get install --no-install-recommends $*"
    local -a as_root=()
    command -v apt-get >/dev/null || die "$advice"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null || die "$advice"
        as_root=(sudo -n)
    fi
    say "$why: installing $* with apt-get"
    local log
    log=$(mktemp)
    # The list of packages may be old or absent on a fresh machine, so it is fetched first.
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get update -q && apt-get install -q -y --no-install-recommends "$@"' sh "$@" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get failed. $advice"
    fi
    rm -f "$log"
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' >/dev/null 2>&1; }
version() { "$1" -c 'import sys, platform; print(sys.version, platform.machine())'; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python3.14}; do
        if supported "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

wanted() { { cat pyproject.toml scripts/setup.sh; pwd; version "$1"; } | sha256sum; }

# One set-up at a time: `make -j demo test` or two terminals share the environment.
if [ -z "${DAQCA_SETUP_LOCKED:-}" ] && command -v flock >/dev/null; then
    export DAQCA_SETUP_LOCKED=1
    exec flock . "$PWD/scripts/setup.sh" "$@"
fi

# What the system must give. Tests and benchmarks compile small C programs against libca's headers (from a wheel).
python=$(find_python) || python=
[ -n "$python" ] || [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a Python from 3.10 to 3.14"
missing=() packages=()
if [ -z "$python" ]; then
    missing+=("Python 3.10 to 3.14") packages+=(python3 python3-venv)
fi
if [ "$purpose" != demo ] && ! echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1; then
    missing+=("a C compiler with headers") packages+=(gcc libc6-dev)
fi

if [ ${#missing[@]} = 0 ] && [ -f "$stamp" ] && supported "$venv/bin/python" &&
    [ "$(version "$venv/bin/python")" = "$(version "$python")" ] && [ "$(cat "$stamp")" = "$(wanted "$python")" ]; then
    exit 0
fi

if [ -n "$python" ] && ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    missing+=("virtual environments for $python (ensurepip)")
    packages+=("$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')")
fi
if [ ${#missing[@]} != 0 ]; then
    need_packages "$(printf '%s, ' "${missing[@]}" | sed 's/, $//')" "${packages[@]}"
    [ -n "$python" ] || python=$(find_python) ||
        die "this system's Python is not one from 3.10 to 3.14: set PYTHON=/path/to/python"
fi

# An environment of another interpreter, a half-made one, or one that was moved here (its scripts would run the
# Python of the old folder) is made anew.
made="$PWD $(version "$python")"
if [ "$(cat "$venv/.made" 2>/dev/null)" != "$made" ] || ! supported "$venv/bin/python"; then
    say "making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    printf '%s\n' "$made" >"$venv/.made"
fi

say "installing daqca[$extras] into $venv (a minute or two the first time)"
rm -f "$stamp"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable ".[$extras]" ||
    die "pip could not install daqca[$extras]; the reason is above. 'make clean' starts anew"
wanted "$venv/bin/python" >"$stamp.new"
mv "$stamp.new" "$stamp"
