"""Layers that a result suggests to write at."""

from .from_result import layers_from
from .located import Located, suggest

__all__ = [
    "Located",
    "layers_from",
    "suggest",
]
