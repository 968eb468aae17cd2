"""Measured effects of edits: answers, metrics, protocols, and runs that survive interruption."""

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.joining import join
from editing.evaluation.run.protocol import Cell, Protocol
from editing.evaluation.run.start import begin, carry_on, cells_of, evaluate
from editing.health.drift import Drift, Drifted, perplexity
from editing.health.monitor import Limits, Monitor, Reading
from editing.questions.answers import Answer, CaseAnswers, ask
from editing.questions.metrics import METRICS, Metric, Value, case_metrics, harmonic

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
