"""Strict loading of Qwen2.5-VL checkpoints into transformers' own class."""

from __future__ import annotations

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from ...checkpoint.stock import StockLoader

_LOADER = StockLoader(Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration)

read_config, check, load = _LOADER.read_config, _LOADER.check, _LOADER.load
