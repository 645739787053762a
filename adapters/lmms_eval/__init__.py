"""What lmms-eval is told of this project's models: their names and where their classes are.

lmms-eval reads this through the entry point group ``lmms_eval.models`` whenever it starts, so
the classes are imported only when one of the models is asked for.
"""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

_HERE = "prunevid_kernels.adapters.lmms_eval"

MANIFESTS = [
    ModelManifest("prunevid_llava_onevision", f"{_HERE}.llava_onevision.PruneVidLlavaOnevision"),
    ModelManifest("prunevid_pllava", f"{_HERE}.video_llm.PruneVidPllava"),
    ModelManifest("prunevid_st_llm", f"{_HERE}.video_llm.PruneVidStLlm"),
]
