"""The editor: every state of the history to the bit, in any order; edits, previews, copies and folders."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import pytest
import torch
from editors import Tiny, fails_at, three
from handmade import REQUEST, handmade, own

import editing.ledger.editor as editor_module
from editing.edits.edit import Edit
from editing.edits.weights import applied, names_of, parameter
from editing.ledger.editor import Editor
from tracer.errors import TracerError
from tracer.model import Model, load

Folder = Callable[[str], Path]
IDS = torch.arange(5, 25)[None]
WEIGHT = 4 * checkpoints.KEYS * checkpoints.WIDTH  # bytes of one


# --- there and back ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_apply_and_undo_is_the_same_bits(architecture: str, tiny: Tiny) -> None:
    model = own(tiny(architecture))
    editor, states = three(model)
    for state in reversed(states[:-1]):
        editor.undo()
        assert model.fingerprint() == state
    assert model.fingerprint() == tiny(architecture).fingerprint()


@pytest.mark.parametrize(
    ("architecture", "budget", "count"),
    [("gpt2", 3 * WEIGHT, 1000), ("llama", 3 * WEIGHT, 1000), ("llama", 0, 150), ("gpt2", editor_module.BUDGET, 150)],
)
def test_a_thousand_random_steps(architecture: str, budget: int, count: int, tiny: Tiny) -> None:
    """Every state has the fingerprint it had when it was made; with no budget, all are made again from the first."""
    model, draw = own(tiny(architecture)), random.Random(0)
    editor = Editor(model, budget=budget)
    states, longest = [model.fingerprint()], 0
    for step in range(count):
        choice = draw.choice(["apply", "apply", "undo", "checkout"])
        if choice == "apply" and editor.position < 12:
            layers = sorted(draw.sample(range(4), draw.choice([1, 1, 2])))
            editor.apply(handmade(model, layers, (draw.choice([1, 3]),), seed=step, size=0.1))
            states[editor.position :] = [model.fingerprint()]
            assert len(editor.history) == editor.position
        elif choice == "undo" and editor.position:
            n = draw.randint(1, editor.position)
            editor.undo(n)
        else:
            editor.checkout(draw.randint(0, len(editor.history)))
        assert model.fingerprint() == states[editor.position]
        assert len(states) == len(editor.history) + 1
        held = sum(bits.nbytes for bits in editor._timeline.versions._later.values())
        assert held == editor._timeline.versions._held <= budget
        longest = max(longest, editor.position)
    assert longest >= 8
    editor.reset()
    assert model.fingerprint() == states[0] == tiny(architecture).fingerprint()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sequential_edits_in_half_precision(dtype: str, tiny_folder: Folder) -> None:
    model = load(tiny_folder("llama"), dtype=dtype)
    editor, states = three(model, budget=0)
    for k in (1, 3, 0, 2):
        editor.checkout(k)
        assert model.fingerprint() == states[k]


def test_the_model_is_the_callers_own_and_weights_stay_where_they_are(model: Model) -> None:
    weight = parameter(model, names_of(model, [1])[0])
    place, head = weight.data_ptr(), model.hf.get_output_embeddings()
    editor, _ = three(model)
    assert editor.model is model
    assert parameter(model, names_of(model, [1])[0]) is weight
    assert weight.data_ptr() == place
    assert weight.requires_grad
    editor.apply(embedding_edit(model))  # the unembedding is tied to it
    assert torch.equal(model.module("embed").weight, head.weight)  # type: ignore[arg-type]


def embedding_edit(model: Model) -> Edit:
    u, v = torch.ones(model.module("embed").weight.shape[0], 1), torch.ones(model.d_model, 1)  # type: ignore[union-attr,index]
    factors = {"transformer.wte.weight": (u, v)}
    return Edit(factors, "handmade", {}, (REQUEST,), model.fingerprint(), model.name)


def test_history(model: Model) -> None:
    editor, states = three(model)
    assert repr(editor) == f"Editor({model.name}, 3 edits, at 3)"
    editor.undo(2)
    assert [(entry.index, entry.active) for entry in editor.history] == [(1, True), (2, False), (3, False)]
    assert editor.position == 1
    kept = [entry.edit for entry in editor.history]
    editor.checkout(3)
    assert [entry.edit for entry in editor.history] == kept
    editor.checkout(1)
    new = handmade(model, (0,), seed=7)
    editor.apply(new)  # drops what was undone
    assert [entry.edit for entry in editor.history] == [kept[0], new]
    later = editor._timeline.versions._later
    assert max(number for _, number in later) == 2  # nothing is kept of the edits that are gone
    assert model.fingerprint() not in states
    editor.undo()
    assert model.fingerprint() == states[1]
    with pytest.raises(TracerError, match=r"no state 3; give 0 .* or an edit from 1 to 2"):
        editor.checkout(3)


@pytest.mark.parametrize("n", [0, 4, -1, True, 1.0, "1"])
def test_undo_of_what_was_not_done(n: Any, model: Model) -> None:
    editor, states = three(model)
    with pytest.raises(TracerError, match=r"cannot undo .* edits: the model has 3 of them"):
        editor.undo(n)
    assert model.fingerprint() == states[3]


@pytest.mark.parametrize("k", [4, -1, True, 1.0, "1", None])
def test_a_state_that_does_not_exist(k: Any, model: Model) -> None:
    editor, states = three(model)
    with pytest.raises(
        TracerError, match=r"there is no state .*; give 0 for the model as loaded, or an edit from 1 to 3"
    ):
        editor.checkout(k)
    assert model.fingerprint() == states[3]


# --- edit and preview ----------------------------------------------------------------------------------------------
def test_edit_computes_commits_and_returns(model: Model, computing: list[tuple]) -> None:
    editor, before = Editor(model), model.fingerprint()
    edit = editor.edit([REQUEST], method="ft_l", layers=(1, 2), known="edit")
    ((*given, hparams),) = computing
    hparams.pop("context")
    assert given == [[REQUEST], "ft_l"] and hparams == {"layers": (1, 2), "known": "edit"}
    assert editor.history[0].edit is edit
    assert edit.fingerprint == before
    with torch.no_grad():
        now = model.hf(IDS).logits
        editor.undo()
        with applied(model, edit.factors):
            assert torch.equal(model.hf(IDS).logits, now)
    editor.checkout(1)
    second = editor.edit(REQUEST)
    editor.undo()
    assert second.fingerprint == model.fingerprint()  # computed on the edited model


def test_methods_are_told_whose_covariance_is_meant(model: Model, computing: list[tuple]) -> None:
    """That of the model as loaded, also after edits; but a covariance of the edited model is what it is."""
    editor, before = Editor(model), model.fingerprint()
    editor.edit(REQUEST)
    editor.edit(REQUEST, method="MEMIT", covariance=SimpleNamespace(fingerprint=before))
    editor.edit(REQUEST, covariance=SimpleNamespace(fingerprint=model.fingerprint()))
    with editor.preview(REQUEST):
        pass
    with editor.preview(REQUEST, origin="other"):
        pass
    told = [call[2].get("origin", call[2]["context"].origin) for call in computing]
    assert told == [before, before, None, before, "other"]


def test_preview_leaves_no_trace(model: Model, computing: list[tuple]) -> None:
    editor, states = three(model)
    for given in (handmade(model, (0, 3), seed=9), REQUEST):
        entries = len(editor.history)
        with editor.preview(given) as edit:
            assert model.fingerprint() not in states
            inside = {name: parameter(model, name).detach().clone() for name in edit.factors}
            with pytest.raises(TracerError, match=r"is not as this editor left it"):
                editor.apply(handmade(model))
        assert (model.fingerprint(), editor.position, len(editor.history)) == (states[3], 3, entries)
        editor.apply(edit)
        assert all(torch.equal(parameter(model, name), weight) for name, weight in inside.items())
        editor.undo()
    with pytest.raises(ZeroDivisionError), editor.preview(REQUEST):
        raise ZeroDivisionError
    assert model.fingerprint() == states[3]


def test_an_edit_of_other_weights_is_refused(model: Model) -> None:
    editor, states = three(model)
    edit = editor.history[1].edit
    with pytest.raises(TracerError, match=r"computed on the weights .* pass force=True"):
        editor.apply(edit)
    with pytest.raises(TracerError, match="computed on the weights"), editor.preview(edit):
        raise AssertionError("inside")
    assert (model.fingerprint(), len(editor.history)) == (states[3], 3)
    with editor.preview(edit, force=True):
        other = model.fingerprint()
    editor.apply(edit, force=True)
    assert model.fingerprint() == other
    editor.undo()
    assert model.fingerprint() == states[3]


# --- copies and folders --------------------------------------------------------------------------------------------
def test_a_fork_goes_its_own_way(model: Model) -> None:
    editor, states = three(model)
    editor.undo()
    fork = editor.fork()
    assert (fork.position, fork.model.fingerprint()) == (2, states[2])
    fork.apply(handmade(fork.model, (3,), seed=20))  # in the place of one that touches the same weight
    assert (model.fingerprint(), len(editor.history), editor.position) == (states[2], 3, 2)
    editor.checkout(3)
    fork.checkout(1)
    assert (model.fingerprint(), fork.model.fingerprint()) == (states[3], states[1])
    pointers = {p.data_ptr() for p in model.hf.parameters()}
    assert not pointers & {p.data_ptr() for p in fork.model.hf.parameters()}


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_a_saved_folder_is_the_edited_model(architecture: str, tiny: Tiny, tmp_path: Path) -> None:
    model = own(tiny(architecture))
    editor, states = three(model)
    assert editor.save_pretrained(tmp_path / "m") == tmp_path / "m"
    assert model.fingerprint() == states[3]
    again = load(tmp_path / "m")
    assert again.fingerprint() == states[3]
    ids = torch.tensor([model.tokenizer("The Space Needle is in")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(again.hf(ids).logits, model.hf(ids).logits)
    assert again.tokenizer("Å 東京 {}")["input_ids"] == model.tokenizer("Å 東京 {}")["input_ids"]
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_a_folder_is_saved_whole_or_not_at_all(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor, states = three(model)
    editor.save_pretrained(tmp_path / "m")
    with pytest.raises(TracerError, match="is not empty"):
        editor.save_pretrained(tmp_path / "m")
    editor.undo()
    with monkeypatch.context() as patch:
        fails_at(patch, model.tokenizer, "save_pretrained", 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            editor.save_pretrained(tmp_path / "m", overwrite=True)
    assert load(tmp_path / "m").fingerprint() == states[3]
    with monkeypatch.context() as patch:  # the old folder is out of the way already
        fails_at(patch, os, "replace", 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            editor.save_pretrained(tmp_path / "m", overwrite=True)
    assert load(tmp_path / "m").fingerprint() == states[3]
    editor.save_pretrained(tmp_path / "m", overwrite=True)
    assert load(tmp_path / "m").fingerprint() == states[2]
    assert [file.name for file in tmp_path.iterdir()] == ["m"]
