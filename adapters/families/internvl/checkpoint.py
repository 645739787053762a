"""Strict loading of InternVL checkpoints into transformers' own class."""

from __future__ import annotations

from transformers import InternVLConfig, InternVLForConditionalGeneration

from ...checkpoint.stock import StockLoader

_LOADER = StockLoader(InternVLConfig, InternVLForConditionalGeneration)

read_config, check, load = _LOADER.read_config, _LOADER.check, _LOADER.load
