"""Qwen2.5-VL."""

from .family import FAMILY

__all__ = ["FAMILY"]
