"""Qwen3-VL, dense and with experts."""

from .family import FAMILY

__all__ = ["FAMILY"]
