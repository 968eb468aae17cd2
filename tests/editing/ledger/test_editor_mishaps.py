"""Whatever goes wrong in an editor: what is cut off was never made, and what others changed is noticed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from editors import fails_at, three
from handmade import REQUEST, handmade

import editing.edits.edit as edit_module
import editing.edits.state as state_module
import editing.ledger.timeline as timeline_module
import editing.methods.compute
from editing.edits import weights
from editing.edits.edit import Edit
from editing.edits.weights import names_of, parameter
from editing.ledger.editor import Editor
from editing.ledger.folder import Ledger
from tracer.errors import TracerError
from tracer.model import Model, load

ERRORS = [RuntimeError("no"), KeyboardInterrupt(), MemoryError()]
# where an edit can be cut off: before the weights, between two of them, after them, before and after the ledger
PLACES: list[tuple[Any, str, int]] = [
    (editing.methods.compute, "compute_edit", 1),
    (weights, "added", 1),
    (weights, "added", 2),
    (timeline_module, "bits", 1),
    (state_module, "bits", 1),
    (state_module, "write", 1),
    (timeline_module, "digests", 1),
    (weights, "digest", 2),
    (Model, "weights_fingerprint", 2),
    (Edit, "save", 1),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("owner", "name", "call"), PLACES)
def test_an_edit_that_is_cut_off_was_never_made(
    owner: Any,
    name: str,
    call: int,
    error: BaseException,
    model: Model,
    computing: list[tuple],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    editor, states = three(model, folder=tmp_path / "l")
    editor.undo()
    files = {file.name: file.read_bytes() for file in (tmp_path / "l").iterdir()}
    history = editor.history
    with monkeypatch.context() as patch:
        fails_at(patch, owner, name, call, error)
        with pytest.raises(type(error)):
            editor.edit(REQUEST)
    assert model.fingerprint() == states[2]
    assert editor.position == 2
    assert [entry.edit for entry in editor.history] == [entry.edit for entry in history]
    assert {file.name: file.read_bytes() for file in (tmp_path / "l").iterdir()} == files
    for k in (3, 0, 2):  # and all still work
        editor.checkout(k)
        assert model.fingerprint() == states[k]
    editor.edit(REQUEST)
    assert editor.position == 3


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(edit_module, "added", 1), (state_module, "write", 1), (timeline_module, "digest", 4), (state_module, "bits", 1)],
)
def test_a_checkout_that_is_cut_off_was_never_made(
    owner: Any, name: str, call: int, error: BaseException, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor, states = three(model, budget=0)
    with monkeypatch.context() as patch:
        fails_at(patch, owner, name, call, error)
        with pytest.raises(type(error)):
            editor.checkout(1)
    assert (model.fingerprint(), editor.position) == (states[3], 3)
    editor.checkout(1)
    assert model.fingerprint() == states[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u, v: (u * float("nan"), v), "not finite"),
        (lambda u, v: (u * 1e38, v * 1e38), "not finite"),
        (lambda u, v: (v, u), "expected U"),
    ],
)
def test_a_computed_edit_that_is_not_usable(
    change: Callable, message: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor, states = three(model)

    def compute_edit(model: Model, *_: Any, **__: Any) -> Edit:
        good = handmade(model, (0, 1))
        (first, pair), (second, other) = good.factors.items()
        return Edit({first: pair, second: change(*other)}, "x", {}, (), good.fingerprint, "")

    monkeypatch.setattr(editing.methods.compute, "compute_edit", compute_edit)
    with pytest.raises(TracerError, match=message):
        editor.edit(REQUEST)
    with pytest.raises(TracerError, match=message), editor.preview(REQUEST):
        raise AssertionError("inside")
    assert (model.fingerprint(), editor.position) == (states[3], 3)


def test_ctrl_c_while_the_ledger_is_written_takes_effect_with_the_edit_made(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor, states = three(model, folder=tmp_path / "l")
    real = Ledger.write

    def pressed(*args: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", pressed)
        with pytest.raises(KeyboardInterrupt):
            editor.undo(2)
    assert (editor.position, model.fingerprint()) == (1, states[1])
    again = Editor.open(tmp_path / "l", load(Path(model.name)))
    assert (again.position, again.model.fingerprint()) == (1, states[1])


def test_editing_in_another_thread(model: Model) -> None:
    """Signals can be held back in the main thread only; elsewhere there are none."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(three(model)))
    thread.start()
    thread.join()
    editor, states = found[0]
    editor.reset()
    assert model.fingerprint() == states[0]


# --- changes from elsewhere ----------------------------------------------------------------------------------------
def test_a_weight_changed_behind_its_back_is_noticed(model: Model, computing: list[tuple]) -> None:
    editor, states = three(model)
    name = names_of(model, [2])[0]
    with torch.no_grad():
        parameter(model, name)[0, 0] += 1
    strange = model.fingerprint()
    for act in (
        lambda: editor.edit(REQUEST),
        lambda: editor.apply(handmade(model)),
        lambda: editor.undo(2),
        lambda: editor.checkout(0),
        lambda: editor.preview(REQUEST).__enter__(),
    ):
        with pytest.raises(TracerError, match=r"not as this editor left it: '.*h\.2\..*checkout\(3, force=True\)"):
            act()
        assert (model.fingerprint(), editor.position) == (strange, 3)
    assert computing == []  # before anything was computed
    editor.checkout(3, force=True)
    assert model.fingerprint() == states[3]
    with torch.no_grad():
        parameter(model, name)[0, 0] += 1
    editor.undo(3, force=True)
    assert model.fingerprint() == states[0]


def test_a_weight_no_edit_has_touched_is_noticed_too(model: Model) -> None:
    editor, states = three(model)
    with torch.no_grad():
        model.module("final_norm").weight[0] += 1  # type: ignore[index,operator]
    with pytest.raises(TracerError, match=r"a weight or buffer that no edit has touched .* Editor\(model\)"):
        editor.apply(handmade(model))
    editor.reset()  # what was edited is put back all the same
    assert model.fingerprint() != states[0]
    Editor(model).apply(handmade(model))


def test_a_state_that_comes_out_differently_is_not_taken(model: Model) -> None:
    editor, states = three(model, budget=0)
    editor.history[0].edit.factors[names_of(model, [1])[0]][0][3] += 1
    with pytest.raises(TracerError, match=r"state 1 .* cannot be made again: '.*h\.1\..*was changed"):
        editor.checkout(1)
    assert (model.fingerprint(), editor.position) == (states[3], 3)
    editor.checkout(0)  # needs none of it
    assert model.fingerprint() == states[0]


def test_a_handle_with_a_noted_fingerprint_is_no_trap(model: Model) -> None:
    editor, before = Editor(model.pinned()), model.fingerprint()
    editor.apply(handmade(model))
    editor.apply(handmade(model))
    editor.reset()
    assert editor.model.fingerprint() == model.fingerprint() == before
