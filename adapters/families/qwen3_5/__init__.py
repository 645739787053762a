"""Qwen3.5, dense and with experts."""

from .family import FAMILY

__all__ = ["FAMILY"]
