"""What an edit really did: answers, metrics, protocols, and runs that survive."""

from ..drift import Drift, Drifted, perplexity
from .answers import Answer, CaseAnswers, ask
from .evaluate import begin, carry_on, cells_of, evaluate
from .evaluation import Evaluation
from .health import Limits, Monitor, Reading
from .joined import join
from .metrics import METRICS, Metric, Value, case_metrics, harmonic
from .plan import Cell, Protocol

__all__ = [
    "METRICS",
    "Answer",
    "CaseAnswers",
    "Cell",
    "Drift",
    "Drifted",
    "Evaluation",
    "Limits",
    "Metric",
    "Monitor",
    "Protocol",
    "Reading",
    "Value",
    "ask",
    "begin",
    "carry_on",
    "case_metrics",
    "cells_of",
    "evaluate",
    "harmonic",
    "join",
    "perplexity",
]
