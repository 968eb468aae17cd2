"""The model of these commands, and edits that are drawn instead of computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edit_command import PROMPT, SUBJECT, Calls
from handmade import handmade

from editing.edits.edit import Edit
from editing.request import as_requests
from tracer import Model


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], Model]) -> Model:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path]) -> str:
    return str(tiny_folder("gpt2"))


@pytest.fixture(scope="module")
def basic(folder: str) -> list[str]:
    return ["edit", "rome", PROMPT, "-s", SUBJECT, "--to", "Paris", "--from", "Seattle", "-m", folder]


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stands in for the methods: edits are drawn at random. The list holds the calls."""
    calls: Calls = []

    def compute_edit(model: Model, requests: Any, method: str, **more: Any) -> Edit:
        more.pop("context", None)  # the editor's
        calls.append((as_requests(requests), method, more))
        return replace(handmade(model, (1,), (2,), seed=len(calls)), requests=calls[-1][0], method=method)

    monkeypatch.setattr("editing.methods.compute.compute_edit", compute_edit)
    return calls
