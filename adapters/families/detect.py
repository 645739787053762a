"""Which of the supported models a checkpoint folder holds.

``model_type`` alone does not tell: PLLaVA's published config says "llava", as image models do, and
only its architecture and its pooling shape give it away. So the rule is here, once, for whoever
gets a folder from a user.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..checkpoint.files import CheckpointError, open_checkpoint, read_json

Family = Literal["llava_onevision", "pllava", "st_llm"]

FAMILIES: dict[Family, str] = {
    "llava_onevision": "LLaVA-OneVision",
    "pllava": "PLLaVA",
    "st_llm": "ST-LLM",
}


def detect_family(folder: Path) -> Family:
    """The family of a checkpoint folder, by its config.json, or else by its keys.

    Raises:
        CheckpointError: no config.json, or none of the three models.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such model folder")
    config = read_json(folder / "config.json")
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    if kind == "llava_onevision":
        return "llava_onevision"
    if kind == "pllava" or "PlavaForConditionalGeneration" in architectures:
        return "pllava"
    if kind == "llava" and "pooling_shape" in config:
        return "pllava"
    if kind in ("st_llm", "st_llm_hf") or "STLLMForCausalLM" in architectures:
        return "st_llm"
    if kind == "llama" and any("stllm_model." in key for key in open_checkpoint(folder).tensors):
        return "st_llm"
    raise CheckpointError(
        f"{folder}: must hold {', '.join(FAMILIES.values())}, got model_type {kind!r} with "
        f"architectures {architectures}"
    )
