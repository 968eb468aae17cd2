"""FactWorld: the embedded model, the facts it was taught, and edit records about them."""

from tracer.factworld.facts import facts, held_out_text, statements, training_text
from tracer.factworld.records import records
from tracer.factworld.world import Relation, WorldFact, aliases, relations, subjects

__all__ = [
    "Relation",
    "WorldFact",
    "aliases",
    "facts",
    "held_out_text",
    "records",
    "relations",
    "statements",
    "subjects",
    "training_text",
]
