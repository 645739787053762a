"""Strict loading of VideoLLaMA3 checkpoints into transformers' own class."""

from __future__ import annotations

from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

from ...checkpoint.stock import StockLoader

_LOADER = StockLoader(VideoLlama3Config, VideoLlama3ForConditionalGeneration)

read_config, check, load = _LOADER.read_config, _LOADER.check, _LOADER.load
