"""Which folder is which package; everything else is in pyproject.toml.

The folders ``adapters/`` and ``benchmarks/`` lie beside the core, so that the arrows between the
three are visible in the tree, and are installed inside it, because plain top-level names would
collide with other projects. The list is written out, it probes nothing:
``tests/project/test_packaging.py`` fails when a folder is missing from it. Only
``benchmarks/train_tiny`` stays out: it made the model that is packaged, and works in a checkout.
"""

from setuptools import setup

setup(
    packages=[
        "prunevid_kernels",
        "prunevid_kernels.kernels",
        "prunevid_kernels.kernels.means",
        "prunevid_kernels.kernels.selection",
        "prunevid_kernels.reference",
        "prunevid_kernels.adapters",
        "prunevid_kernels.adapters.checkpoint",
        "prunevid_kernels.adapters.engine",
        "prunevid_kernels.adapters.engine.prompt",
        "prunevid_kernels.adapters.families",
        "prunevid_kernels.adapters.families.internvl",
        "prunevid_kernels.adapters.families.llava_next_video",
        "prunevid_kernels.adapters.families.llava_onevision",
        "prunevid_kernels.adapters.families.pllava",
        "prunevid_kernels.adapters.families.qwen2_5_vl",
        "prunevid_kernels.adapters.families.qwen2_vl",
        "prunevid_kernels.adapters.families.qwen3_5",
        "prunevid_kernels.adapters.families.qwen3_vl",
        "prunevid_kernels.adapters.families.smolvlm",
        "prunevid_kernels.adapters.families.st_llm",
        "prunevid_kernels.adapters.families.video_llama_3",
        "prunevid_kernels.adapters.lmms_eval",
        "prunevid_kernels.adapters.methods",
        "prunevid_kernels.adapters.methods.baselines",
        "prunevid_kernels.adapters.methods.by_tokens",
        "prunevid_kernels.adapters.methods.by_tower",
        "prunevid_kernels.adapters.methods.in_decoder",
        "prunevid_kernels.adapters.video",
        "prunevid_kernels.adapters.vllm",
        "prunevid_kernels.adapters.vllm.guard",
        "prunevid_kernels.benchmarks",
        "prunevid_kernels.benchmarks.accuracy",
        "prunevid_kernels.benchmarks.app",
        "prunevid_kernels.benchmarks.cli",
        "prunevid_kernels.benchmarks.cli.bench",
        "prunevid_kernels.benchmarks.cost",
        "prunevid_kernels.benchmarks.cost.flops",
        "prunevid_kernels.benchmarks.cost.kernels",
        "prunevid_kernels.benchmarks.cost.kernels.estimate",
        "prunevid_kernels.benchmarks.cost.latency",
        "prunevid_kernels.benchmarks.cost.serve",
        "prunevid_kernels.benchmarks.datasets",
        "prunevid_kernels.benchmarks.embedded",
        "prunevid_kernels.benchmarks.on_gpu",
        "prunevid_kernels.benchmarks.report",
        "prunevid_kernels.benchmarks.run",
        "prunevid_kernels.benchmarks.support",
    ],
    package_dir={
        "prunevid_kernels": "prunevid_kernels",
        "prunevid_kernels.adapters": "adapters",
        "prunevid_kernels.benchmarks": "benchmarks",
    },
)
