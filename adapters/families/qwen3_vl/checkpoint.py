"""Strict loading of Qwen3-VL checkpoints into transformers' own classes, dense and with experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from ...checkpoint.files import Checkpoint, read_json
from ...checkpoint.loading import LoadReport
from ...checkpoint.stock import StockLoader

_DENSE = StockLoader(Qwen3VLConfig, Qwen3VLForConditionalGeneration)
_EXPERTS = StockLoader(Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration)


def _loader(folder: Path) -> StockLoader:
    kind = read_json(folder / "config.json").get("model_type")
    return _EXPERTS if kind == Qwen3VLMoeConfig.model_type else _DENSE


def read_config(folder: Path) -> Any:
    """See :meth:`~...checkpoint.stock.StockLoader.read_config`."""
    return _loader(folder).read_config(folder)


def check(checkpoint: Checkpoint) -> LoadReport:
    """See :meth:`~...checkpoint.stock.StockLoader.check`."""
    return _loader(checkpoint.folder).check(checkpoint)


def load(folder: Path, **options: Any) -> Any:
    """See :meth:`~...checkpoint.stock.StockLoader.load`."""
    return _loader(folder).load(folder, **options)
