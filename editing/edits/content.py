"""What an edit is made of, as named tensors and json values: for its file and its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from editing.memories.change import MemoryChange
from editing.request import EditRequest

FORMATS = "Edit/1", "Edit/2", "Edit/3"  # of factors alone; with changes of memories; with those of whole tensors


def format_of(edit: Any) -> str:
    """The oldest format that holds an [`editing.Edit`][]."""
    return FORMATS[2 if edit.deltas else bool(edit.memories)]


def header_of(edit: Any) -> dict[str, Any]:
    """The json values of an [`editing.Edit`][]."""
    kept = ("method", "fingerprint", "model", "seconds", "memory", "note")
    header = {
        **{name: getattr(edit, name) for name in kept},
        "settings": dict(edit.settings),
        "requests": [asdict(request) for request in edit.requests],
        "weights": list(edit.factors),
    }
    if edit.memories:
        header["memories"] = [change.described() for change in edit.memories]
    return {**header, "whole": list(edit.deltas)} if edit.deltas else header


def tensors_of(edit: Any) -> dict[str, Tensor]:
    """Its tensors, without evidence."""
    found = {
        f"{side}/{name}": part for name, pair in edit.factors.items() for side, part in zip("UV", pair, strict=True)
    }
    found |= {f"D/{name}": delta for name, delta in edit.deltas.items()}
    for change in edit.memories:
        found |= change.tensors()
    return found


def fields_of(tensors: Mapping[str, Tensor], header: dict[str, Any]) -> dict[str, Any]:
    """The fields of the edit that gave these tensors and this header."""
    evidence = {name.removeprefix("evidence/"): t for name, t in tensors.items() if name.startswith("evidence/")}
    factors = {name: (tensors[f"U/{name}"], tensors[f"V/{name}"]) for name in header.pop("weights")}
    deltas = {name: tensors[f"D/{name}"] for name in header.pop("whole", ())}
    requests = tuple(EditRequest(**request) for request in header.pop("requests"))
    memories = tuple(MemoryChange.of(change, tensors) for change in header.pop("memories", ()))
    return {
        **header,
        "factors": factors,
        "deltas": deltas,
        "requests": requests,
        "evidence": evidence,
        "memories": memories,
    }
