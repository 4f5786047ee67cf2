"""daqca beside the other Channel Access clients for Python, and C on libca: ``python benchmarks/run.py``."""
