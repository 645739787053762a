"""Strict loading of SmolVLM2 checkpoints into transformers' own class."""

from __future__ import annotations

from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from ...checkpoint.stock import StockLoader

_LOADER = StockLoader(SmolVLMConfig, SmolVLMForConditionalGeneration)

read_config, check, load = _LOADER.read_config, _LOADER.check, _LOADER.load
