"""Whether an edited model is still well: perplexity, drift, and what is said of an edit that ruins it."""

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
