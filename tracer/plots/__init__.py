"""Figures, one module for each kind of result."""

from .average import plot_average
from .effects import plot_effects
from .layers import plot_layers
from .neurons import plot_neurons
from .severed import plot_severed
from .trace import plot_trace, strongest_sites

__all__ = [
    "plot_average",
    "plot_effects",
    "plot_layers",
    "plot_neurons",
    "plot_severed",
    "plot_trace",
    "strongest_sites",
]
