"""LLaVA-NeXT-Video."""

from .family import FAMILY

__all__ = ["FAMILY"]
