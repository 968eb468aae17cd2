"""Arithmetic of edits: multiples and sums. Edits are passed as they are, so that their class can call these."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor, cat

from tracer.errors import EditOfOtherWeights, MemoryInTheWay


def scaled(edit: Any, factor: float) -> Any:
    """See [`editing.Edit.scale`][]."""
    if edit.memories:
        raise MemoryInTheWay(
            f"an edit of the memory {edit.memories[0].name!r} cannot be scaled: entries are there or not; make it "
            "with other hyper-parameters"
        )
    if not math.isfinite(factor):
        raise EditOfOtherWeights(f"an edit cannot be scaled by {factor}; give a finite number")
    factors = {name: (u * factor, v) for name, (u, v) in edit.factors.items()}
    deltas = {name: delta * factor for name, delta in edit.deltas.items()}
    settings = {**edit.settings, "scale": edit.settings.get("scale", 1.0) * factor}
    return replace(edit, factors=factors, deltas=deltas, settings=settings)


def composed(first: Any, *others: Any) -> Any:
    """See [`editing.Edit.compose`][]."""
    edits = (first, *others)
    for other in others:
        if other.fingerprint != first.fingerprint:
            raise EditOfOtherWeights(
                f"these edits were computed on different weights ({first.model} {first.fingerprint[:12]} and "
                f"{other.model} {other.fingerprint[:12]}), so that their sum means nothing; compute both on the "
                "same weights"
            )
    columns: dict[str, list[tuple[Tensor, Tensor]]] = {}
    deltas = {name: delta.double() * 0 for edit in edits for name, delta in edit.deltas.items()}
    for edit in edits:
        for name, (u, v) in edit.factors.items():
            if name in deltas:
                deltas[name] += u.double() @ v.double().T
            else:
                columns.setdefault(name, []).append((u, v))
        for name, delta in edit.deltas.items():
            deltas[name] += delta
    factors = {name: (cat([u for u, _ in of], 1), cat([v for _, v in of], 1)) for name, of in columns.items()}
    orientations = {edit.settings.get("orientation") for edit in edits}
    evidence = {f"{i}/{name}": t for i, edit in enumerate(edits) for name, t in (edit.evidence or {}).items()}
    return replace(
        first,
        factors=factors,
        deltas={name: delta.float() for name, delta in deltas.items()},
        method="+".join(edit.method for edit in edits),
        settings={
            "parts": [dict(edit.settings) for edit in edits],
            "orientation": orientations.pop() if len(orientations) == 1 else None,
        },
        requests=tuple(dict.fromkeys(request for edit in edits for request in edit.requests)),
        seconds=sum(edit.seconds for edit in edits),
        memory=max(edit.memory for edit in edits),
        evidence=evidence,
        note="; ".join(dict.fromkeys(edit.note for edit in edits if edit.note)),
        memories=tuple(change for edit in edits for change in edit.memories),
    )
