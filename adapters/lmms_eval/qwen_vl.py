"""Qwen2.5-VL, Qwen3-VL and Qwen3.5, pruned, as models of lmms-eval.

    lmms-eval --model prunevid_qwen3_vl --tasks videomme \\
        --model_args pretrained=DIR,max_num_frames=32,keep_ratio=0.4

Each is lmms-eval's own class of that name around a pruned model, in both of its interfaces:
``chat``, which it takes by itself, and ``simple``, with ``--force_simple``.
"""

from __future__ import annotations

from lmms_eval.models.chat.qwen2_5_vl import Qwen2_5_VL as Qwen25VlChat
from lmms_eval.models.chat.qwen3_vl import Qwen3_VL as Qwen3VlChat
from lmms_eval.models.simple.qwen2_5_vl import Qwen2_5_VL as Qwen25VlSimple
from lmms_eval.models.simple.qwen3_vl import Qwen3_VL as Qwen3VlSimple

from .pruning import PrunedClass


class PruneVidQwen25Vl(PrunedClass, Qwen25VlChat):
    """``prunevid_qwen2_5_vl``: lmms-eval's ``qwen2_5_vl`` with a pruned model."""


class PruneVidQwen25VlSimple(PrunedClass, Qwen25VlSimple):
    """``prunevid_qwen2_5_vl`` with ``--force_simple``."""


class PruneVidQwen3Vl(PrunedClass, Qwen3VlChat):
    """``prunevid_qwen3_vl``: lmms-eval's ``qwen3_vl`` with a pruned model, which may be a Qwen3.5;
    that one needs ``select=False``."""


class PruneVidQwen3VlSimple(PrunedClass, Qwen3VlSimple):
    """``prunevid_qwen3_vl`` with ``--force_simple``."""
