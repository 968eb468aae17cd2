"""Results of an evaluation: tables, summaries, comparisons, retention."""

from .comparison import Comparison, compare
from .evaluation import Evaluation
from .joining import join
from .retention import Retention
from .summary import score, summarise

__all__ = [
    "Comparison",
    "Evaluation",
    "Retention",
    "compare",
    "join",
    "score",
    "summarise",
]
