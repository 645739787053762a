"""Strict loading of Qwen2-VL checkpoints into transformers' own class."""

from __future__ import annotations

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from ...checkpoint.stock import StockLoader

_LOADER = StockLoader(Qwen2VLConfig, Qwen2VLForConditionalGeneration)

read_config, check, load = _LOADER.read_config, _LOADER.check, _LOADER.load
