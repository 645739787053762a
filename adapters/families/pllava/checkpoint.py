"""PLLaVA's published checkpoints: what their tensors are called, and their LoRA.

The authors' checkpoint keeps the language model as PEFT saves it, low-rank updates beside the
weights, and leaves out the number that scales them: they trained with ``lora_alpha`` 32, and infer
with other values. So whoever loads it has to say which, and whoever loads merged weights must not.
Unmerged and merged, older and newer names of transformers are all told apart by the keys.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import Tensor

from ...checkpoint.files import CheckpointError
from ...checkpoint.loading import Recipe, rename

# Buffers that older versions saved, and the newline that only the image model uses.
IGNORED = (
    r".*\.position_ids",
    r".*\.rotary_emb\.inv_freq",
    r"(?:model\.)?image_newline",
)
_PEFT = r"language_model\.base_model\.model\."
_LORA_KEY = re.compile(r".*\.(\w+)\.lora_A(?:\.default)?\.weight")


def has_lora(keys: Collection[str]) -> bool:
    """Whether the language model is in PEFT layout, its updates not merged."""
    return any(_LORA_KEY.fullmatch(key) for key in keys)


def needed_options(keys: Collection[str]) -> tuple[str, ...]:
    """What loading these needs to be told: LoRA updates come without the number that scales
    them."""
    return ("lora_alpha",) if has_lora(keys) else ()


def require_lora_alpha(keys: Collection[str], lora_alpha: float | None) -> None:
    """Refuse a missing or a meaningless ``lora_alpha``.

    Raises:
        CheckpointError: None for a PEFT layout, a value for a merged one.
    """
    if has_lora(keys) and lora_alpha is None:
        raise CheckpointError(
            "lora_alpha is needed: this checkpoint holds LoRA updates that are not merged, and not "
            "how strong they are (PruneVid's results use 14, and 4 for VCG-Bench)"
        )
    if lora_alpha is not None and not has_lora(keys):
        raise CheckpointError(
            f"lora_alpha must be None, got {lora_alpha}: this checkpoint holds no LoRA updates, "
            "its weights are merged"
        )


def recipes(keys: Collection[str], lora_alpha: float) -> list[Recipe]:
    """Where the tensors of a checkpoint with these keys go in :class:`~.model.Pllava`.

    Args:
        keys: of the checkpoint.
        lora_alpha: strength of its LoRA updates; not used where there are none.
    """
    updated = {match[1] for match in map(_LORA_KEY.fullmatch, keys) if match}
    layout: list[Recipe] = []
    if updated:
        module = rf"{_PEFT}(.*\.(?:{'|'.join(sorted(updated))}))"
        layout.append(
            Recipe(
                (
                    rf"{module}(?:\.base_layer)?\.weight",
                    rf"{module}\.lora_A(?:\.default)?\.weight",
                    rf"{module}\.lora_B(?:\.default)?\.weight",
                ),
                r"language_model.\1.weight",
                lambda weight, down, up: fold_lora(weight, down, up, lora_alpha),
            )
        )
    return [
        *layout,
        rename(rf"{_PEFT}(.*)", r"language_model.\1"),
        rename(r"(?:model\.)?vision_tower\.(?:vision_model\.)?(.*)", r"vision_tower.\1"),
        rename(r"(?:model\.)?multi_modal_projector\.(.*)", r"multi_modal_projector.\1"),
        rename(r"(?:language_model\.)?lm_head\.weight", "language_model.lm_head.weight"),
        rename(
            r"(?:language_model\.model|model\.language_model)\.(.*)", r"language_model.model.\1"
        ),
    ]


def fold_lora(weight: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """``weight + alpha / r * up @ down`` in float32: [out, in], [r, in], [out, r] -> [out, in]."""
    return weight.float() + (alpha / down.shape[0]) * (up.float() @ down.float())
