"""The model of this room's tests, and edits that are drawn instead of computed."""

from __future__ import annotations

from typing import Any

import pytest
from editors import Tiny
from handmade import handmade, own

import editing.methods.compute
from editing.edits.edit import Edit
from tracer.model import Model


@pytest.fixture
def model(tiny: Tiny) -> Model:
    return own(tiny("gpt2"))


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Stands in for the methods: ``edit`` gives handmade edits. The list holds the calls."""
    calls: list[tuple] = []

    def compute_edit(model: Model, requests: Any, method: str, **hparams: Any) -> Edit:
        calls.append((requests, method, hparams))
        return handmade(model, (1, 2), seed=len(calls))

    monkeypatch.setattr(editing.methods.compute, "compute_edit", compute_edit)
    return calls
