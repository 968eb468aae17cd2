"""Where to edit, by traces, by neurons, or by trying."""

from .choose import locate

__all__ = [
    "locate",
]
