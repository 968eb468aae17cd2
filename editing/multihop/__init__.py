"""Questions whose answer takes several facts: MeLLo's loop, and a scripted decomposition for models that cannot ask."""

from .chains import Chain, chain_of, consistent
from .loop import Dialogue, finder, mello, writer
from .scripted import Solved, accuracy, overriding, saying, solved

__all__ = [
    "Chain",
    "Dialogue",
    "Solved",
    "accuracy",
    "chain_of",
    "consistent",
    "finder",
    "mello",
    "overriding",
    "saying",
    "solved",
    "writer",
]
