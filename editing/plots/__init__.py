"""Figures of edits, one module for each kind of result."""

from .locate import plot_locate
from .outcome import plot_outcome

__all__ = ["plot_locate", "plot_outcome"]
