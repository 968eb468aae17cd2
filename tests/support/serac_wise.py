"""Memories of SERAC and WISE on tiny models: made by their methods, and hitting the first of `asked.TEXTS` alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from asked import TEXTS, ids_of

import editing
from editing.memories import Memory
from tracer import Model

KINDS = ("serac", "serac student", "serac soft", "wise", "wise published")
RECORDS: list[dict[str, Any]] = [
    {
        "requested_rewrite": {"prompt": "{} is in", "subject": subject, "target_new": {"str": "Spanish"}},
        "paraphrase_prompts": [f"{subject} stands in", f"To see {subject} go to"],
        "neighborhood_prompts": ["Smith Tower is in", "The Seine is in", "Miles Davis plays the"],
    }
    for subject in ("The Space Needle", "Big Ben", "Miles Davis", "Yo-Yo Ma")
]
QUICK: dict[str, Any] = {"steps": 20, "width": 8, "batch": 4, "lr": 1e-2, "cache": False}
STUDENT: dict[str, Any] = {"answers": "student", "student_steps": 2, "student_width": 16, "student_batch": 2}
REQUEST = editing.EditRequest("{} is in", "The Space Needle", " Spanish")


@lru_cache
def prepared(model: Model, **more: Any) -> editing.Prepared:
    """SERAC's models for a tiny one."""
    return editing.prepare(model, "serac", RECORDS, **{**QUICK, "answers": "self", **more})


def settings(model: Model, kind: str) -> tuple[str, dict[str, Any]]:
    """The method of a kind, and its hyper-parameters."""
    name, _, variant = kind.partition(" ")
    quick: dict[str, Any] = {"known": "edit", "check": None}
    if name == "serac":
        own = prepared(model, **(STUDENT if variant == "student" else {}))
        # a random model's states say little: only what is the same counts
        return name, {**quick, "prepared": own, "threshold": 0.999, "output": "soft" if variant == "soft" else "hard"}
    if variant:
        published = {"rule": "published", "steps": 3, "lr": 0.5, "alpha": 0.1, "beta": 1.0, "gamma": 0.5}
        return name, {**quick, **published, "threshold": 0.05}
    return name, {**quick, "steps": 8, "tokens": 64, "threshold": 0.999}


def memory(model: Model, kind: str) -> Memory:
    """A memory with one edit, of the first text."""
    name, more = settings(model, kind)
    request = editing.EditRequest("{} is in", "The Space Needle", " Spanish")
    edit = editing.compute_edit(model, request, name, **more)
    found = edit.memories[0].on(None)
    assert found is not None and TEXTS[0] == request.text
    return found


def hits(model: Model, made: Memory) -> list[bool]:
    """On which of the texts it acts."""
    return [route.hit for route in made.routes(model, [ids_of(model, text) for text in TEXTS])]
