"""Interpretability workbench for language models: find where a fact lives, and see it."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tracer.engine.generation import generate
from tracer.facts.fact import Alignment, Fact
from tracer.neurons.attribution import NeuronAttribution
from tracer.neurons.effects import amplify, neuron_effects, random_neurons, set_to, summarise_effects, suppress
from tracer.neurons.effects_result import NeuronEffects
from tracer.neurons.selection import attribute_neurons, knowledge_neurons, refine
from tracer.plots.export import export
from tracer.tracing.attribution_patching import attribution_trace
from tracer.tracing.average import average_traces
from tracer.tracing.average_trace import AverageTrace
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise, TokenReplacement, UniformNoise
from tracer.tracing.trace import CausalTrace

from . import factworld
from .engine import hooks, sweep
from .errors import TracerError, TracerNote
from .model import Available, DownProjection, Model, SiteMap, load, models
from .moved import keep_old_places
from .plots import plot_average, plot_effects, plot_layers, plot_neurons, plot_severed, plot_trace

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
    "SiteMap",
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
    "generate",
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
keep_old_places()


def __getattr__(name: str) -> Any:
    """The function `tracer.workbench` of the other package, which is loaded when it is asked for."""
    if name == "workbench":
        return import_module("editing.workbench").workbench
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
