"""``python -m benchmarks`` is ``python benchmarks/run.py``."""

from .run import main

main()
