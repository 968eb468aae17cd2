"""An editor with three edits, and the state after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from handmade import handmade

from editing.ledger.editor import Editor
from tracer.model import Model

Tiny = Callable[[str], Model]


def three(model: Model, **settings: Any) -> tuple[Editor, list[str]]:
    """An editor after three edits, of which the first two share a weight, and the fingerprint of each state."""
    editor, states = Editor(model, **settings), [model.fingerprint()]
    for seed, layers in enumerate([(0, 1), (1, 2), (3,)]):
        editor.apply(handmade(model, layers, (2,), seed=seed))
        states.append(model.fingerprint())
    assert len(set(states)) == 4
    return editor, states


def fails_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: BaseException) -> None:
    """The ``call``-th call of a function does its work and then raises."""
    real, count = getattr(owner, name), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        found = real(*args, **kwargs)
        if count == call:
            raise error
        return found

    monkeypatch.setattr(owner, name, failing)
