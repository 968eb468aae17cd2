"""Transformer-Patcher: settings, losses, training, and the plan."""

from .plan import METHOD
from .settings import TPatcherSettings

__all__ = ["METHOD", "TPatcherSettings"]
