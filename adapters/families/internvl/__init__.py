"""InternVL 3 and 3.5."""

from .family import FAMILY

__all__ = ["FAMILY"]
