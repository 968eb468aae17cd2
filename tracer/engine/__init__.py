"""Running the model: sites and hooks, batches and caches, the branched sweep, forced tokens and generated text."""

from .acts import Asked, Hook
from .answer import knows, own_answer, own_answers
from .arriving import Arrival, behind_norm
from .batch import Row, padded, states_at_lookups
from .forward import Stop
from .frame import Frame, evaluating
from .generation import generate
from .hooks import Add, Replace, capture, frozen, intervene
from .lens import logit_lens
from .line import Followed, Line
from .memories import remembering, resting, set_memories
from .partial import Suffix
from .sites import Site

__all__ = [
    "Add",
    "Arrival",
    "Asked",
    "Followed",
    "Frame",
    "Hook",
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
    "logit_lens",
    "own_answer",
    "own_answers",
    "padded",
    "remembering",
    "resting",
    "set_memories",
    "states_at_lookups",
]
