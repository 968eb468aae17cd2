"""CaliNET: settings, training, and the plan."""

from .plan import METHOD
from .settings import CaliNETSettings

__all__ = ["METHOD", "CaliNETSettings"]
