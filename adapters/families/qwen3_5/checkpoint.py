"""Strict loading of Qwen3.5 checkpoints into transformers' own classes, dense and with experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)

from ...checkpoint.files import Checkpoint, read_json
from ...checkpoint.loading import LoadReport
from ...checkpoint.stock import StockLoader

_DENSE = StockLoader(Qwen3_5Config, Qwen3_5ForConditionalGeneration)
_EXPERTS = StockLoader(Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration)


def _loader(folder: Path) -> StockLoader:
    kind = read_json(folder / "config.json").get("model_type")
    return _EXPERTS if kind == Qwen3_5MoeConfig.model_type else _DENSE


def read_config(folder: Path) -> Any:
    """See :meth:`~...checkpoint.stock.StockLoader.read_config`."""
    return _loader(folder).read_config(folder)


def check(checkpoint: Checkpoint) -> LoadReport:
    """See :meth:`~...checkpoint.stock.StockLoader.check`."""
    return _loader(checkpoint.folder).check(checkpoint)


def load(folder: Path, **options: Any) -> Any:
    """See :meth:`~...checkpoint.stock.StockLoader.load`."""
    return _loader(folder).load(folder, **options)
