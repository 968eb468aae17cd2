"""What a method needs that is made once for a model: a trained editor, a classifier, states of a text; as a value."""

from .course import Course, Trained, train
from .default import prepared_for
from .identity import records_hash, tokenizer_hash
from .offered import Offer, offered
from .prepared import Prepared, load_prepared
from .store import Checkpoint
from .work import Made, Preparation, Work

__all__ = [
    "Checkpoint",
    "Course",
    "Made",
    "Offer",
    "Preparation",
    "Prepared",
    "Trained",
    "Work",
    "load_prepared",
    "offered",
    "prepared_for",
    "records_hash",
    "tokenizer_hash",
    "train",
]
