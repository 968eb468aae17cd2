"""FactWorld: the embedded model, the facts it was taught, and edit records about them."""

from .facts import facts, held_out_text, statements, training_articles, training_text
from .records import fresh_records, records
from .related import find, neighbours, others_of, paraphrases
from .world import Relation, WorldFact, aliases, relations, subjects

__all__ = [
    "Relation",
    "WorldFact",
    "aliases",
    "facts",
    "find",
    "fresh_records",
    "held_out_text",
    "neighbours",
    "others_of",
    "paraphrases",
    "records",
    "relations",
    "statements",
    "subjects",
    "training_articles",
    "training_text",
]
