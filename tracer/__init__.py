"""Interpretability workbench for language models: find where a fact lives, and see it."""

from tracer import factworld, hooks, sweep
from tracer.causal import causal_trace
from tracer.corruption import GaussianNoise
from tracer.errors import TracerError
from tracer.export import export
from tracer.model import DownProjection, Model, load
from tracer.plots import plot_trace
from tracer.result import CausalTrace
from tracer.tokens import Alignment, Fact

__all__ = [
    "Alignment",
    "CausalTrace",
    "DownProjection",
    "Fact",
    "GaussianNoise",
    "Model",
    "TracerError",
    "causal_trace",
    "export",
    "factworld",
    "hooks",
    "load",
    "plot_trace",
    "sweep",
]
