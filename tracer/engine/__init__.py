"""Running the model: sites and hooks, batches and caches, the branched sweep, forced tokens and generated text."""

from .answer import knows, own_answer, own_answers
from .arriving import Arrival, behind_norm
from .batch import Row, padded, states_at_lookups
from .follow import Followed, Line
from .forward import Stop
from .generation import generate
from .hooks import Add, Replace, capture, evaluating, frozen, intervene
from .partial import Suffix
from .sites import Site

__all__ = [
    "Add",
    "Arrival",
    "Followed",
    "Line",
    "Replace",
    "Row",
    "Site",
    "Stop",
    "Suffix",
    "behind_norm",
    "capture",
    "evaluating",
    "frozen",
    "generate",
    "intervene",
    "knows",
    "own_answer",
    "own_answers",
    "padded",
    "states_at_lookups",
]
