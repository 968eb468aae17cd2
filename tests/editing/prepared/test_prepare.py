"""What is prepared once for a model: known by all it depends on, resumed to the bit, checked where it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_command import RECORDS
from handmade import own
from prepared_toy import HOOKS, Killed, register

import editing
from editing.prepared import Checkpoint, offered, records_hash, tokenizer_hash
from tracer import Model, TracerError
from tracer.engine import set_memories

Tiny = Callable[[str], Model]
REQUEST = editing.EditRequest("{} is in", "The Space Needle", " Rome")


@pytest.fixture(autouse=True)
def taught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch)
    monkeypatch.setenv("TRACER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tiny: Tiny) -> Model:
    return own(tiny("gpt2"))


def prepare(model: Model, **more: Any) -> editing.Prepared:
    return editing.prepare(model, "taught", RECORDS, **more)


# --- what it is ------------------------------------------------------------------------------------------------------
def test_a_prepared_value_says_what_it_was_made_of(model: Model, tmp_path: Path) -> None:
    before, state = model.fingerprint(), torch.random.get_rng_state()
    value = prepare(model, seed=3, size=2.0)
    assert torch.equal(torch.random.get_rng_state(), state) and model.fingerprint() == before
    assert (value.method, value.seed, value.fingerprint) == ("taught", 3, model.weights_fingerprint())
    assert value.settings == {"steps": 12, "lr": 0.1, "size": 2.0}
    assert value.tokenizer == tokenizer_hash(model) and value.records and value.header == {"layer": 1}
    assert [row["step"] for row in value.history] == [0, 4, 8, 12]
    assert value.history[-1]["score"] > value.history[0]["score"]
    assert list(value.to_frame().columns) == ["step", "score", "loss"] and "Prepared for taught" in repr(value)
    again = editing.load_prepared(value.save(tmp_path / "value"), model)
    assert again.digest == value.digest and torch.equal(again.tensors["vector"], value.tensors["vector"])
    assert again.history == value.history


def test_it_is_found_by_all_that_determines_it(model: Model, tiny: Tiny) -> None:
    value = prepare(model)
    assert prepare(model).digest == value.digest and HOOKS["made"] == 1
    others = [prepare(model, seed=1), prepare(model, size=2.0), prepare(tiny("llama"))]
    others.append(editing.prepare(model, "taught", RECORDS[:2]))
    others.append(editing.prepare(model, "taught", RECORDS[:2], held_out=RECORDS[2:]))
    assert HOOKS["made"] == 6 and len({each.digest for each in [value, *others]}) == 6
    assert prepare(model, cache=False).digest == value.digest and HOOKS["made"] == 7


def test_a_memory_on_the_model_does_not_count(model: Model) -> None:
    value = prepare(model)
    editor = editing.Editor(model)
    editor.edit(REQUEST, "taught", prepared=value, known="edit", check=None)
    assert model.memories and prepare(model, cache=False).digest == value.digest
    assert model.memories
    set_memories(model, [])


def test_hashes_see_what_matters(tiny: Tiny) -> None:
    records = editing.datasets.records_of(RECORDS)  # type: ignore[attr-defined]
    assert records_hash(records) != records_hash(records[:2]) != records_hash(records[1:])
    assert records_hash([]) == ""
    hashes = {tokenizer_hash(tiny(name)) for name in ("gpt2", "llama", "bert")}
    assert len(hashes) == 3
    model = tiny("gpt2")
    before = tokenizer_hash(model)
    model.tokenizer("a b", max_length=5, truncation=True)  # which the tokenizer remembers
    assert tokenizer_hash(model) == before


# --- killed and resumed ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("at", [1, 5, 11])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    model: Model, at: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = prepare(model, cache=False)

    def kill(step: int) -> None:
        if step == at:
            raise Killed

    steps: list[int] = []
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setitem(HOOKS, "step", kill)
        prepare(model, save_every=0)
    assert list((tmp_path / "cache" / "prepared").glob("*.unfinished.safetensors"))
    monkeypatch.setitem(HOOKS, "step", lambda step: steps.append(step))
    again = prepare(model, save_every=0)
    assert steps == list(range(at, 12))
    assert again.digest == whole.digest and again.history == whole.history
    assert [path.suffixes for path in (tmp_path / "cache" / "prepared").iterdir()] == [[".safetensors"]]


def test_it_can_be_begun_anew(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(step: int) -> None:
        if step == 6:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setitem(HOOKS, "step", kill)
        prepare(model, save_every=0)
    steps: list[int] = []
    monkeypatch.setitem(HOOKS, "step", lambda step: steps.append(step))
    prepare(model, resume=False)
    assert steps == list(range(12))


def test_a_damaged_checkpoint_or_value_is_made_again(model: Model, tmp_path: Path) -> None:
    value = prepare(model)
    (file,) = (tmp_path / "cache" / "prepared").iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.warns(UserWarning, match="it is prepared again"):
        assert prepare(model).digest == value.digest
    checkpoint = Checkpoint(tmp_path / "state.safetensors", 0.0, {"a": 1})
    checkpoint.save({"x": torch.ones(2)}, {"step": 3})
    assert checkpoint.load() is not None
    assert Checkpoint(checkpoint.path, 0.0, {"a": 2}).load() is None
    (tmp_path / "state.safetensors").write_bytes(b"cut")
    with pytest.warns(UserWarning, match="from the beginning"):
        assert checkpoint.load() is None


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(TracerError, match="the loss of step 7 of training is nan"):
        patch.setitem(HOOKS, "step", lambda step: float("nan") if step == 7 else None)
        prepare(model, save_every=0)
    steps: list[int] = []
    monkeypatch.setitem(HOOKS, "step", lambda step: steps.append(step))
    prepare(model)
    assert steps == list(range(7, 12))


# --- used ------------------------------------------------------------------------------------------------------------
def test_every_way_of_editing_takes_it(model: Model, tmp_path: Path) -> None:
    value = prepare(model)
    more: dict[str, Any] = {"known": "edit", "check": None}
    edit = editing.compute_edit(model, REQUEST, "taught", prepared=value, **more)
    assert edit.settings["prepared"] == value.digest
    file = value.save(tmp_path / "value.artefact")
    assert editing.compute_edit(model, REQUEST, "taught", prepared=file, **more).same_as(edit)
    assert editing.Editor(model, prepared=value).compute(REQUEST, "taught", **more).same_as(edit)
    editor = editing.Editor(model, prepared=[replace(value, method="other"), value])
    assert editor.edit(REQUEST, "taught", **more).same_as(edit)
    editor.reset()
    assert editing.Editor(model).edit(REQUEST, "taught", prepared=value, **more).same_as(edit)
    set_memories(model, [])
    result = editing.evaluate(model, RECORDS, "taught", prepared=value, generate=False, texts=False, controls=())
    assert set(result.edits["error"]) == {""}


def test_weights_edited_since_may_use_that_of_the_weights_before(model: Model) -> None:
    from handmade import handmade

    editor = editing.Editor(model, prepared=prepare(model))
    editor.apply(handmade(model, (1,)))
    editor.edit(REQUEST, "taught", known="edit", check=None)
    with pytest.raises(TracerError, match="was prepared for taught on the weights"):
        editing.compute_edit(model, REQUEST, "taught", prepared=editor._prepared, known="edit")


# --- what does not go ------------------------------------------------------------------------------------------------
def test_what_is_missing_or_of_another_model_says_the_call_that_makes_one(model: Model, tiny: Tiny) -> None:
    value = prepare(model)
    more: dict[str, Any] = {"known": "edit", "check": None}
    with pytest.raises(TracerError, match=r"editing.prepare\(model, 'taught', records\).*tracer prepare taught"):
        editing.compute_edit(model, REQUEST, "taught", **more)
    with pytest.raises(TracerError, match=r"on the weights .* of .*; make one of this model with editing.prepare"):
        editing.compute_edit(tiny("llama"), REQUEST, "taught", prepared=value, **more)
    with pytest.raises(TracerError, match="prepared for other, and taught was asked for"):
        editing.compute_edit(model, REQUEST, "taught", prepared=replace(value, method="other"), **more)
    with pytest.raises(TracerError, match="with the tokenizer 0000"):
        editing.compute_edit(model, REQUEST, "taught", prepared=replace(value, tokenizer="0" * 64), **more)
    with pytest.raises(TracerError, match="has no hyper-parameter 'prepared'"):
        editing.compute_edit(model, REQUEST, "rome", prepared=value, **more)


def test_bad_input(model: Model, tmp_path: Path) -> None:
    for given, message in (
        ({"records": []}, "learns from records, and there are none"),
        ({"records": RECORDS[:1]}, "all 1 records are of 'The Space Needle'"),
        ({"records": [3]}, "is no list of records"),
        ({"records": RECORDS, "rank": 3}, "has no setting 'rank'; it has steps, lr, size"),
        ({"records": RECORDS, "seed": -1}, "seed is -1"),
    ):
        with pytest.raises(TracerError, match=message):
            editing.prepare(model, "taught", **given)  # type: ignore[arg-type]
    with pytest.raises(TracerError, match="rome needs no preparation; use it as it is"):
        editing.prepare(model, "rome", RECORDS)
    with pytest.raises(TracerError, match="holds NaN"):
        replace(prepare(model), tensors={"vector": torch.tensor([float("nan")])})
    path = prepare(model).save(tmp_path / "cut")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TracerError, match="is not a saved Prepared"):
        editing.load_prepared(path)


def test_the_command_prepares_and_edits(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    from editing.cli import app

    records, out = tmp_path / "records.json", tmp_path / "taught.artefact"
    records.write_text(json.dumps(RECORDS), encoding="utf-8")
    folder = str(tiny_folder("gpt2"))
    made = CliRunner().invoke(
        app, ["prepare", "taught", str(records), "-m", folder, "--out", str(out), "--set", "steps=4"]
    )
    assert made.exit_code == 0 and "Prepared for taught" in made.output and out.exists(), made.output
    basic = ["edit", "taught", "The Space Needle is in", "-s", "The Space Needle", "--to", "Rome", "-m", folder]
    done = CliRunner().invoke(app, [*basic, "--prepared", str(out), "--check", "none"])
    assert done.exit_code == 0, done.output
    for arguments, message in (
        ([*basic], "tracer prepare taught RECORDS --out FILE"),
        ([*basic, "--prepared", str(tmp_path / "none")], "there is no file"),
        (["edit", "rome", *basic[2:], "--prepared", str(out)], "rome uses nothing that is prepared"),
        ([*basic, "--set", "prepared=1"], "name it by --prepared FILE"),
        (["prepare", "taught", "-m", folder], "learns from records, and there are none"),
        (["prepare", "taught", str(records), "-m", folder, "--set", "rank=2"], "has no hyper-parameter 'rank'"),
    ):
        failed = CliRunner().invoke(app, arguments)
        assert failed.exit_code == 2 and message in failed.output, failed.output


# --- what is offered -------------------------------------------------------------------------------------------------
def test_files_that_fit_a_model_are_offered(model: Model, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    (folder / "inside").mkdir(parents=True)
    value = prepare(model, cache=False)
    own_file = value.save(folder / "own")
    for name, change in {
        "weights": {"fingerprint": "0" * 64},
        "tokenizer": {"tokenizer": "0" * 64},
        "other": {"method": "mend"},
    }.items():
        replace(value, **change).save(folder / name)
    Checkpoint(folder / "cut.unfinished.safetensors").save({}, {})
    (folder / "text.safetensors").write_text("none")
    assert {(each.path, each.method) for each in offered(model, [folder, tmp_path / "no"])} == {
        (own_file, "taught"),
        (folder / "other.safetensors", "mend"),
    }
    assert [each.path.stem for each in offered(model, [folder], origin="0" * 64)].count("weights") == 1
    assert offered(tiny("llama"), [folder]) == ()
    prepare(model)  # into the cache
    assert [each.method for each in offered(model)] == ["taught"]
