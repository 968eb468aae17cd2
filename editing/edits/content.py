"""What an edit is made of, as named tensors and json values: for its file and its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from editing.memories.change import MemoryChange
from editing.request import EditRequest

FORMATS = "Edit/1", "Edit/2"  # without changes of memories, and with


def header_of(edit: Any) -> dict[str, Any]:
    """The json values of an [`editing.Edit`][]."""
    kept = ("method", "fingerprint", "model", "seconds", "memory", "note")
    header = {
        **{name: getattr(edit, name) for name in kept},
        "settings": dict(edit.settings),
        "requests": [asdict(request) for request in edit.requests],
        "weights": list(edit.factors),
    }
    return {**header, "memories": [change.described() for change in edit.memories]} if edit.memories else header


def tensors_of(edit: Any) -> dict[str, Tensor]:
    """Its tensors, without evidence."""
    found = {
        f"{side}/{name}": part for name, pair in edit.factors.items() for side, part in zip("UV", pair, strict=True)
    }
    for change in edit.memories:
        found |= change.tensors()
    return found


def fields_of(tensors: Mapping[str, Tensor], header: dict[str, Any]) -> dict[str, Any]:
    """The fields of the edit that gave these tensors and this header."""
    evidence = {name.removeprefix("evidence/"): t for name, t in tensors.items() if name.startswith("evidence/")}
    factors = {name: (tensors[f"U/{name}"], tensors[f"V/{name}"]) for name in header.pop("weights")}
    requests = tuple(EditRequest(**request) for request in header.pop("requests"))
    memories = tuple(MemoryChange.of(change, tensors) for change in header.pop("memories", ()))
    return {**header, "factors": factors, "requests": requests, "evidence": evidence, "memories": memories}
