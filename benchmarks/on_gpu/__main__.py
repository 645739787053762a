"""``python -m prunevid_kernels.benchmarks.on_gpu``."""

import sys

from .command import main

sys.exit(main())
