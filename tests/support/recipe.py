"""RECIPE on tiny models: a preparation of a few steps, and memories that its method makes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from serac_wise import RECORDS

import editing
from editing.memories import Memory
from tracer import Model

READS = ("states", "encoder")
QUICK: dict[str, Any] = {
    "steps": 2,
    "rep": 8,
    "batch": 3,
    "sentinel": 2,
    "encoder_width": 8,
    "encoder_layers": 1,
    "cache": False,
}
REQUEST = editing.EditRequest("{} is in", "The Space Needle", " Spanish")
OTHER = editing.EditRequest("{} plays the", "Miles Davis", " drums")
AT_ONCE: dict[str, Any] = {"known": "edit", "check": None}


@lru_cache
def prepared(model: Model, reads: str = "states", **more: Any) -> editing.Prepared:
    """RECIPE's nets for a tiny model, almost as they were drawn."""
    return editing.prepare(model, "recipe", RECORDS, reads=reads, **{**QUICK, **more})


def memory(model: Model, reads: str = "states", **settings: Any) -> Memory:
    """A memory with one edit."""
    more = {"prepared": prepared(model, reads), "router": "string", **AT_ONCE, **settings}
    found = editing.compute_edit(model, REQUEST, "recipe", **more).memories[0].on(None)
    assert found is not None
    return found
