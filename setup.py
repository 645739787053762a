"""Which folder is which package; everything else is in pyproject.toml.

The folders ``adapters/`` and ``benchmarks/`` lie beside the core, so that the arrows between the
three are visible in the tree, and are installed inside it, because plain top-level names would
collide with other projects. The list is written out, it probes nothing:
``tests/test_packaging.py`` fails when a folder is missing from it.
"""

from setuptools import setup

setup(
    packages=[
        "prunevid_kernels",
        "prunevid_kernels.kernels",
        "prunevid_kernels.adapters",
        "prunevid_kernels.adapters.vllm",
        "prunevid_kernels.benchmarks",
        "prunevid_kernels.benchmarks.baselines",
        "prunevid_kernels.benchmarks.datasets",
    ],
    package_dir={
        "prunevid_kernels": "prunevid_kernels",
        "prunevid_kernels.adapters": "adapters",
        "prunevid_kernels.benchmarks": "benchmarks",
    },
)
