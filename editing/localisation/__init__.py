"""Layers to edit, by traces, by neurons, or by a sweep of edits."""

from .choose import locate

__all__ = [
    "locate",
]
