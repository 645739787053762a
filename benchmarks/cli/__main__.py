"""``python -m prunevid_kernels.benchmarks.cli``."""

from . import main

main()
