"""Interpretability workbench for language models: find where a fact lives, and see it."""

from typing import TYPE_CHECKING

from .first_use import at_first_use
from .moved import keep_old_places

if TYPE_CHECKING:  # what the names are to type checkers; the same names by place stand below
    from collections.abc import Callable
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
    from .plots import plot_average, plot_effects, plot_layers, plot_neurons, plot_severed, plot_trace

    workbench: Callable[..., Any]

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

__getattr__, __dir__ = at_first_use(
    __name__,
    {
        "editing.workbench": "workbench",
        "tracer.engine": "hooks sweep",
        "tracer.engine.generation": "generate",
        "tracer.errors": "TracerError TracerNote",
        "tracer.facts.fact": "Alignment Fact",
        "tracer.model": "Available DownProjection Model SiteMap load models",
        "tracer.neurons.attribution": "NeuronAttribution",
        "tracer.neurons.effects": "amplify neuron_effects random_neurons set_to summarise_effects suppress",
        "tracer.neurons.effects_result": "NeuronEffects",
        "tracer.neurons.selection": "attribute_neurons knowledge_neurons refine",
        "tracer.plots": "plot_average plot_effects plot_layers plot_neurons plot_severed plot_trace",
        "tracer.plots.export": "export",
        "tracer.tracing.attribution_patching": "attribution_trace",
        "tracer.tracing.average": "average_traces",
        "tracer.tracing.average_trace": "AverageTrace",
        "tracer.tracing.causal": "causal_trace",
        "tracer.tracing.corruption": "GaussianNoise TokenReplacement UniformNoise",
        "tracer.tracing.trace": "CausalTrace",
    },
)
keep_old_places()
