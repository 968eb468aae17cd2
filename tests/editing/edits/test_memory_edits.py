"""Edits that change memories, or memories and weights: history, files, evaluation and the command, as of any edit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toys
from evaluation_runs import QUICK, RECORDS
from handmade import handmade, own

import editing
from editing import Edit, Editor, EditRequest
from editing.cli.shown import _where
from editing.evaluation.run import worker as bench_module
from editing.evaluation.run.start import evaluate
from editing.memories import KINDS, Memory, attach, detach
from editing.methods.compute import METHODS, compute_edit
from tracer import Model, TracerError
from tracer.engine.answer import own_answer
from tracer.files import tensors as tensorfile

Tiny = Callable[[str], Model]
SUBJECTS = ("The Space Needle", "The Eiffel Tower", "Miles Davis", "The Space Needle", "Yo-Yo Ma")
REQUESTS = [EditRequest("{} is in", subject, f" Rom{'e' * n}") for n, subject in enumerate(SUBJECTS)]


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in toys.TOYS.items():
        monkeypatch.setitem(KINDS, name, place)
    monkeypatch.setitem(METHODS, "toy", "toys.METHOD")
    monkeypatch.setitem(sys.modules, "editing.methods.toys", toys)


@pytest.fixture
def model(tiny: Tiny) -> Iterator[Model]:
    yield own(tiny("gpt2"))


def made(editor: Editor, count: int = 5) -> list[str]:
    """The fingerprints after each of some edits: of a memory, but the third of weights."""
    states = [editor.model.fingerprint()]
    for place, request in enumerate(REQUESTS[:count]):
        if place == 2:
            editor.apply(handmade(editor.model, (1,)))
        editor.edit(request, "toy", known="edit", check=None)
        states.append(editor.model.fingerprint())
    return states


# --- the contract ----------------------------------------------------------------------------------------------------
def test_an_edit_of_a_memory_keeps_the_contract(model: Model, tmp_path: Path) -> None:
    before = model.fingerprint()
    edit = compute_edit(model, REQUESTS[0], "toy", known="edit", check=None)
    assert (edit.weights, edit.norm(), edit.rank(), edit.nbytes) == ((), {}, {}, 4 * model.d_model)
    assert edit.describe() == ("memory 'toy' (toy): adds vectors [1, 32], 0.128 kB",)
    assert repr(edit).endswith("; memory 'toy' (toy): adds vectors [1, 32], 0.128 kB)")
    assert edit.describe()[0] in str(edit) and _where(model, edit) == list(edit.describe())
    with edit.applied(model) as same:
        assert same is model and model.memories[0].digest == edit.memories[0].after
        assert model.fingerprint() != before == model.weights_fingerprint()
    assert model.fingerprint() == before and not model.memories
    former = edit.commit(model)
    assert model.memories and model.fingerprint() != before
    former.write(model)
    assert model.fingerprint() == before
    again = editing.load_edit(edit.save(tmp_path / "e"), model)
    assert again.same_as(edit) and again.digest() == edit.digest() and not again.same_as(handmade(model))
    with pytest.raises(TracerError, match="it holds 'Edit/2'"):  # which versions without memories cannot read
        tensorfile.read(tmp_path / "e", "Edit/1")
    both = replace(handmade(model), memories=edit.memories)
    with both.applied(model):
        assert model.memories and model.weights_fingerprint() != before
    assert model.fingerprint() == before and len(both.describe()) == 2
    assert editing.load_edit(both.save(tmp_path / "both")).digest() == both.digest()


def test_its_control_is_as_large_in_a_random_direction(model: Model) -> None:
    edit = replace(handmade(model), memories=compute_edit(model, REQUESTS[:2], "toy", known="edit").memories)
    one, two, other = edit.control(1), edit.control(1), edit.control(2)
    own, its = edit.memories[0].rows["vectors"], one.memories[0].rows["vectors"]
    assert torch.allclose(own.norm(dim=1), its.norm(dim=1)) and not torch.allclose(own, its)
    assert one.digest() == two.digest() != other.digest()
    assert list(one.norm().values()) == pytest.approx(list(edit.norm().values()), rel=1e-5)
    with one.applied(model):
        assert torch.equal(model.memories[0].tensors["vectors"], its)  # type: ignore[attr-defined]


def test_what_a_memory_cannot_be_is_said(model: Model, tmp_path: Path) -> None:
    edit = compute_edit(model, REQUESTS[0], "toy", known="edit", check=None)
    with pytest.raises(TracerError, match="an edit of the memory 'toy' cannot be scaled"):
        edit.scale(0.5)
    with pytest.raises(TracerError, match="this edit changes the memory 'toy'; save it as an edit"):
        edit.to_peft(tmp_path / "peft")
    with pytest.raises(TracerError, match="changes the memory 'toy' twice; make one edit after the other"):
        edit.compose(edit)
    editor = Editor(model)
    editor.apply(edit)
    before = model.fingerprint()
    with pytest.raises(TracerError, match="this edit begins with no memory 'toy', but the model has the memory 'toy'"):
        editor.apply(edit, force=True)
    with pytest.raises(TracerError, match="toy"):
        editor.save_pretrained(tmp_path / "folder", baked=True)
    assert model.fingerprint() == before and not (tmp_path / "folder").exists()
    wrong = replace(edit.memories[0], rows={"vectors": torch.ones(1, 5)}, after="")
    editor.undo()
    with pytest.raises(TracerError, match="expected a last dimension of 32"):
        editor.apply(replace(handmade(model), memories=(wrong,)))
    nan = replace(edit.memories[0], rows={"vectors": torch.full((1, 32), torch.nan)}, after="")
    with pytest.raises(TracerError, match="holds NaN or infinity"):
        editor.apply(replace(handmade(model), memories=(nan,)))
    assert model.fingerprint() == editor.origin and not model.memories


# --- there and back --------------------------------------------------------------------------------------------------
def test_every_state_of_a_history_comes_back(model: Model) -> None:
    editor = Editor(model)
    states = made(editor)
    every = [states[0], states[1], states[2], None, *states[3:]]
    for k in (6, 0, 3, 1, 5, 2, 4):
        editor.checkout(k)
        assert every[k] is None or model.fingerprint() == every[k]
    editor.checkout(6)
    editor.undo(2)  # k edits and an undo are k - 1 edits
    twin = Editor(own(model))
    assert twin.model.fingerprint() == model.fingerprint()
    editor.reset()
    assert model.fingerprint() == states[0] and not model.memories


def test_edits_one_by_one_are_the_memory_of_all(model: Model) -> None:
    """And the prompt that is edited twice has the last target's vector."""
    one, two = Editor(own(model)), Editor(own(model))
    for request in REQUESTS[:3]:
        one.edit(request, "toy", known="edit", check=None)
    memory = one.model.memories[0]
    assert isinstance(memory, Memory) and memory.tensors["vectors"].shape == (3, 32)
    first = memory.tensors["vectors"][0]
    one.edit(REQUESTS[3], "toy", known="edit", check=None)  # the first one's prompt
    again = one.model.memories[0]
    assert isinstance(again, Memory) and again.tensors["vectors"].shape == (3, 32)
    assert not torch.equal(again.tensors["vectors"][0], first)
    two.edit(REQUESTS[3], "toy", known="edit", check=None)
    alone = two.model.memories[0]
    assert isinstance(alone, Memory) and torch.equal(alone.tensors["vectors"][0], again.tensors["vectors"][0])
    answers = [own_answer(each.model, REQUESTS[3].fact) for each in (one, two)]
    assert answers[0] == answers[1]


def test_a_ledger_holds_memories_at_the_cost_of_what_is_added(model: Model, tmp_path: Path) -> None:
    fresh = own(model)
    editor = Editor(model, tmp_path / "ledger")
    states = made(editor)
    editor.undo()
    opened = Editor.open(tmp_path / "ledger", own(fresh))
    assert (opened.position, len(opened.history)) == (5, 6)
    assert opened.model.fingerprint() == model.fingerprint() == states[4]
    opened.checkout(6)
    assert opened.model.fingerprint() == states[5]
    rows = [len(change.rows["vectors"]) for entry in opened.history for change in entry.edit.memories]
    assert rows == [1, 1, 1, 3, 1]
    opened.checkout(2)
    opened.edit(REQUESTS[4], "toy", known="edit", check=None)
    assert Editor.open(tmp_path / "ledger", own(fresh)).model.fingerprint() == opened.model.fingerprint()


def test_forks_and_previews_have_memories_of_their_own(model: Model) -> None:
    editor = Editor(model)
    states = made(editor, 2)
    fork = editor.fork()
    fork.undo()
    assert (fork.model.fingerprint(), model.fingerprint()) == (states[1], states[2])
    fork.edit(REQUESTS[4], "toy", known="edit", check=None)
    with editor.preview(REQUESTS[4], "toy", known="edit", check=None) as edit:
        assert isinstance(edit, Edit) and model.fingerprint() not in states
    assert model.fingerprint() == states[2]


def test_a_memory_that_something_else_attached_is_noticed(model: Model) -> None:
    editor = Editor(model)
    states = made(editor, 2)
    foreign = toys.toy(model, [(1, 2)], toys.vectors(model))
    attach(model, replace(foreign, name="foreign"), force=True)
    for act in (lambda: editor.undo(), lambda: editor.edit(REQUESTS[2], "toy", known="edit", check=None)):
        with pytest.raises(TracerError, match="'memory foreign' was changed from elsewhere; put back"):
            act()
    editor.checkout(2, force=True)
    assert model.fingerprint() == states[2]
    detach(model, "toy")
    with pytest.raises(TracerError, match="'memory toy' was changed from elsewhere"):
        editor.undo()
    editor.checkout(2, force=True)
    assert model.fingerprint() == states[2]


def test_a_failure_leaves_model_and_history(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Editor(model, tmp_path / "ledger")
    states = made(editor, 2)

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(Edit, "save", full)
        editor.edit(REQUESTS[2], "toy", known="edit", check=None)
    assert model.fingerprint() == states[2] and editor.position == 2
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(editor._timeline.ledger, "write", full)
        editor.undo()
    assert model.fingerprint() == states[2] and editor.position == 2


# --- measured --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["single", "batch", "sequential"])
def test_it_is_evaluated_like_any_edit(model: Model, mode: str) -> None:
    before = model.fingerprint()
    options = {**QUICK, "canary_tokens": 16, "controls": ("random direction",) if mode != "sequential" else ()}
    result = evaluate(model, RECORDS, "toy", mode, **options)  # type: ignore[arg-type]
    assert model.fingerprint() == before and not model.memories
    assert set(result.edits["error"]) == {""} and set(result.edits["norm"]) == {0.0}
    frame = result.frame
    edited = frame[(frame["method"] == "toy") & (frame["control"] == "") & (frame["metric"] == "rewrite magnitude")]
    assert len(edited) >= 4
    if mode != "sequential":
        assert "random direction" in set(frame["control"])


def test_a_sequence_that_was_cut_off_goes_on_with_its_memory(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**QUICK, "moments": 2, "retention": 6}
    whole = evaluate(model, RECORDS, "toy", "sequential", **options)
    real, count = bench_module.compute_edits, [0]

    def counting(*given: object, **more: object) -> object:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return real(*given, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bench_module, "compute_edits", counting)
        evaluate(model, RECORDS, "toy", "sequential", path=tmp_path / "run", **options)
    assert not model.memories
    again = evaluate(model, RECORDS, "toy", "sequential", path=tmp_path / "run", **options)
    own, its = (
        each.metrics[~each.metrics["metric"].isin(["seconds", "peak bytes"])].reset_index(drop=True)
        for each in (whole, again)
    )
    assert own.equals(its) and not model.memories
