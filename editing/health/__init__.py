"""Health of an edited model: perplexity, drift, and warnings of an edit that ruins it."""

from .drift import Drift, Drifted, perplexity
from .harm import HarmWarning, check_harm
from .monitor import Limits, Monitor, Reading

__all__ = [
    "Drift",
    "Drifted",
    "HarmWarning",
    "Limits",
    "Monitor",
    "Reading",
    "check_harm",
    "perplexity",
]
