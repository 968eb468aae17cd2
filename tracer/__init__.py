"""Interpretability workbench for language models: find where a fact lives, and see it."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tracer import factworld, hooks, sweep
from tracer.attributed import NeuronAttribution
from tracer.attribution import attribution_trace
from tracer.average import average_traces
from tracer.averaged import AverageTrace
from tracer.causal import causal_trace
from tracer.corruption import GaussianNoise, TokenReplacement, UniformNoise
from tracer.effect_result import NeuronEffects
from tracer.effects import amplify, neuron_effects, random_neurons, set_to, summarise_effects, suppress
from tracer.errors import TracerError, TracerNote
from tracer.export import export
from tracer.model import Available, DownProjection, Model, load, models
from tracer.neurons import attribute_neurons, knowledge_neurons, refine
from tracer.plots import plot_average, plot_effects, plot_layers, plot_neurons, plot_severed, plot_trace
from tracer.result import CausalTrace
from tracer.tokens import Alignment, Fact

__all__ = [
    "Alignment",
    "Available",
    "AverageTrace",
    "CausalTrace",
    "DownProjection",
    "Fact",
    "GaussianNoise",
    "Model",
    "NeuronAttribution",
    "NeuronEffects",
    "TokenReplacement",
    "TracerError",
    "TracerNote",
    "UniformNoise",
    "amplify",
    "attribute_neurons",
    "attribution_trace",
    "average_traces",
    "causal_trace",
    "export",
    "factworld",
    "hooks",
    "knowledge_neurons",
    "load",
    "models",
    "neuron_effects",
    "plot_average",
    "plot_effects",
    "plot_layers",
    "plot_neurons",
    "plot_severed",
    "plot_trace",
    "random_neurons",
    "refine",
    "set_to",
    "summarise_effects",
    "suppress",
    "sweep",
    "workbench",
]

workbench: Callable[..., Any]


def __getattr__(name: str) -> Any:
    """``tracer.workbench``: the page is the other package's, which is loaded when it is asked for."""
    if name == "workbench":
        return import_module("editing.workbench").workbench
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
