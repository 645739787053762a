"""Strict loading of LLaVA-NeXT-Video checkpoints into transformers' own class."""

from __future__ import annotations

from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

from ...checkpoint.stock import StockLoader

_LOADER = StockLoader(LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration)

read_config, check, load = _LOADER.read_config, _LOADER.check, _LOADER.load
