"""``python -m prunevid_kernels.benchmarks.cli``."""

from .command import main

main()
