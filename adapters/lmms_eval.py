"""What lmms-eval is told of this project's models: their names and where their classes are.

lmms-eval reads this through the entry point group ``lmms_eval.models`` whenever it starts, so
nothing heavy is imported here. The classes, in :mod:`.lmms_eval_models`, are imported when one of
the models is asked for.
"""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

_CLASSES = "prunevid_kernels.adapters.lmms_eval_models"

MANIFESTS = [
    ModelManifest("prunevid_llava_onevision", f"{_CLASSES}.PruneVidLlavaOnevision"),
    ModelManifest("prunevid_pllava", f"{_CLASSES}.PruneVidPllava"),
    ModelManifest("prunevid_st_llm", f"{_CLASSES}.PruneVidStLlm"),
]
