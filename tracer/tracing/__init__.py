"""Causal tracing: corruption, restoration, metrics, averages over facts, and gradient estimates."""

from .attribution_patching import attribution_trace
from .average import average_traces
from .average_trace import AverageTrace
from .causal import causal_trace
from .corruption import Corruption, GaussianNoise, TokenReplacement, UniformNoise
from .metrics import TRACE_METRICS, Metric, TraceMetric
from .trace import CausalTrace

__all__ = [
    "TRACE_METRICS",
    "AverageTrace",
    "CausalTrace",
    "Corruption",
    "GaussianNoise",
    "Metric",
    "TokenReplacement",
    "TraceMetric",
    "UniformNoise",
    "attribution_trace",
    "average_traces",
    "causal_trace",
]
