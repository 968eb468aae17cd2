"""Questions to a model, its answers, and their measures."""

from .answers import Answer, CaseAnswers, ask
from .match import says
from .measures import edit_scores
from .metrics import METRICS, Metric, case_metrics
from .outcome import Measured, Outcome, measure
from .probes import Probes, Question
from .record import Ask, EditRecord, Rewrite
from .target_scores import TargetScores, target_log_probs

__all__ = [
    "METRICS",
    "Answer",
    "Ask",
    "CaseAnswers",
    "EditRecord",
    "Measured",
    "Metric",
    "Outcome",
    "Probes",
    "Question",
    "Rewrite",
    "TargetScores",
    "ask",
    "case_metrics",
    "edit_scores",
    "measure",
    "says",
    "target_log_probs",
]
