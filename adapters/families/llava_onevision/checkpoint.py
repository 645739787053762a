"""Strict loading of LLaVA-OneVision checkpoints into transformers' own class."""

from __future__ import annotations

from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from ...checkpoint.stock import StockLoader

_LOADER = StockLoader(LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration)

read_config, check, load = _LOADER.read_config, _LOADER.check, _LOADER.load
