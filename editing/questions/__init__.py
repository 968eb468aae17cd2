"""Questions to a model, its answers, and their measures."""

from tracer.moved import former

from .ablation import ablate
from .answer import Answer, CaseAnswers
from .answers import Answers
from .asking import ask
from .asking_records import ask_records
from .match import says
from .measures import edit_scores
from .metric import Metric, Value
from .metrics import METRICS, case_metrics, harmonic
from .outcome import Outcome, measure
from .probes import Probes
from .question import Question
from .question_metrics import QUESTION_METRICS
from .record import EditRecord, Rewrite
from .target_scores import TargetScores, target_log_probs

__getattr__ = former(__name__, {"Ask": Question, "Measured": Answers})

__all__ = [
    "METRICS",
    "QUESTION_METRICS",
    "Answer",
    "Answers",
    "CaseAnswers",
    "EditRecord",
    "Metric",
    "Outcome",
    "Probes",
    "Question",
    "Rewrite",
    "TargetScores",
    "Value",
    "ablate",
    "ask",
    "ask_records",
    "case_metrics",
    "edit_scores",
    "harmonic",
    "measure",
    "says",
    "target_log_probs",
]
