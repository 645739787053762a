"""Qwen2-VL."""

from .family import FAMILY

__all__ = ["FAMILY"]
