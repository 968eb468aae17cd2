"""Measured effects of edits: answers, metrics, protocols, and runs that survive interruption."""

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.joining import join
from editing.evaluation.run.protocol import Cell, Protocol
from editing.evaluation.run.start import begin, carry_on, cells_of, evaluate
from editing.health.drift import Drift, Drifted, perplexity
from editing.health.monitor import Limits, Monitor, Reading
from editing.questions.answer import Answer, CaseAnswers
from editing.questions.asking_records import ask_records
from editing.questions.metric import Metric, Value
from editing.questions.metrics import METRICS, case_metrics, harmonic
from tracer.moved import former

__getattr__ = former(__name__, {"ask": ask_records})

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
    "ask_records",
    "begin",
    "carry_on",
    "case_metrics",
    "cells_of",
    "evaluate",
    "harmonic",
    "join",
    "perplexity",
]
