"""Figures of edits, one module for each kind of result."""

from .attack import plot_attack
from .evaluation import plot_evaluation
from .health import plot_health
from .locate import plot_locate
from .memory import plot_memory
from .outcome import plot_outcome
from .radar import plot_radar
from .retention import plot_retention
from .tasks import plot_cosines, plot_scaled_losses
from .training import plot_training

__all__ = [
    "plot_attack",
    "plot_cosines",
    "plot_evaluation",
    "plot_health",
    "plot_locate",
    "plot_memory",
    "plot_outcome",
    "plot_radar",
    "plot_retention",
    "plot_scaled_losses",
    "plot_training",
]
