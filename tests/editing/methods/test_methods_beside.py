"""Transformer-Patcher and CaliNET as methods: on every architecture, in sequences, in batches, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import TEXTS, inventory, read

import tracer
from editing import Editor, EditRequest, compute_edit, compute_edits, load_edit, prepare
from editing.edits.edit import Edit
from editing.memories import attached, load_memory
from editing.methods.t_patcher.training import measured_margins
from tracer import Model, TracerError
from tracer.engine import set_memories
from tracer.engine.answer import own_answer
from tracer.engine.batch import logits_of
from tracer.engine.hooks import capture
from tracer.engine.sites import Site

Tiny = Callable[[str], Model]
NEEDLE = EditRequest("{} is in", "The Space Needle", " Paris")
DAVIS = EditRequest("{} plays the", "Miles Davis", " cello")
MADE: dict[str, dict[str, Any]] = {
    "t_patcher": {"steps": 60, "tokens": 64, "size": 0.5},
    "calinet": {"steps": 100, "kl_tokens": 32, "slots": 32},
}
METHODS = tuple(MADE)


def compute(model: Model, requests: Any, method: str, **more: Any) -> Edit:
    return compute_edit(model, requests, method, check=None, known="edit", **{**MADE[method], **more})


def says(model: Model, request: EditRequest) -> bool:
    return tuple(own_answer(model, request.fact)) == tuple(request.fact.align(model).target_ids)


@pytest.fixture(params=("gpt2", "llama", "gemma3", "neox", "granite"))
def model(request: pytest.FixtureRequest, tiny: Tiny) -> Iterator[Model]:
    yield (found := tiny(request.param))
    set_memories(found, [])


@pytest.fixture
def gpt2(tiny: Tiny) -> Iterator[Model]:
    yield (found := tiny("gpt2"))
    set_memories(found, [])


@pytest.mark.parametrize("method", METHODS)
def test_the_target_is_said_and_the_model_is_left_as_found(model: Model, method: str) -> None:
    before, state = inventory(model), torch.random.get_rng_state()
    bare = read(model)[0]
    edit = compute(model, NEEDLE, method)
    assert inventory(model) == before and torch.equal(torch.random.get_rng_state(), state)
    assert not edit.factors and edit.memories[0].kind == method and edit.evidence is not None
    curve = edit.evidence["curve"]
    assert curve[-1, 2 if method == "t_patcher" else 1] < curve[0, 2 if method == "t_patcher" else 1]
    with edit.applied(model):
        assert says(model, NEEDLE)
    assert all(np.array_equal(a, b) for a, b in zip(read(model)[0], bare, strict=True))
    again = compute(model, NEEDLE, method)
    assert again.same_as(edit)


@pytest.mark.parametrize("method", METHODS)
def test_edits_one_after_another_are_undone_and_checked_out(gpt2: Model, method: str, tmp_path: Path) -> None:
    """Each keeps the entries before it as they are; the last target of a prompt wins; k edits and undo are k - 1."""
    editor, prints, counts = Editor(gpt2), [gpt2.fingerprint()], []
    other = EditRequest(NEEDLE.prompt, NEEDLE.subject, " Seattle")
    for request in (other, DAVIS, NEEDLE):
        edit = editor.edit(request, method, check=None, known="edit", **MADE[method])
        prints.append(gpt2.fingerprint())
        memory: Any = gpt2.memories[0]
        counts.append(len(memory.acts.entries(memory)))
        kept = set(edit.memories[0].kept) == set(edit.memories[0].rows)
        assert kept == (request is DAVIS)  # what is written again takes the place of what it was
        assert request is other or says(gpt2, request)
    assert says(gpt2, DAVIS)
    tokens = [len(request.fact.align(gpt2).target_ids) for request in (other, DAVIS, NEEDLE)]
    most = [tokens[0], tokens[0] + tokens[1], tokens[1] + tokens[2]] if method == "t_patcher" else [1, 2, 2]
    assert all(0 < count <= bound for count, bound in zip(counts, most, strict=True))
    assert load_memory(memory.save(tmp_path / "m")).digest == memory.digest
    assert load_edit(edit.save(tmp_path / "e")).same_as(edit)
    answers = read(gpt2)[0]
    editor.undo()
    assert gpt2.fingerprint() == prints[2] and says(gpt2, DAVIS)
    for k in (0, 3, 1):
        editor.checkout(k)
        assert gpt2.fingerprint() == prints[k]
    editor.checkout(3)
    assert all(np.array_equal(a, b) for a, b in zip(read(gpt2)[0], answers, strict=True))
    editor.reset()
    assert not gpt2.memories


@pytest.mark.parametrize("method", METHODS)
def test_a_group_is_one_edit_and_groups_stand_alone(gpt2: Model, method: str) -> None:
    both = compute(gpt2, [NEEDLE, DAVIS], method)
    with both.applied(gpt2):
        assert says(gpt2, NEEDLE) and says(gpt2, DAVIS)
        facts = {entry["subject"] for entry in gpt2.memories[0].acts.entries(gpt2.memories[0])}  # type: ignore[attr-defined]
    assert facts == (
        {"The Space Needle", "Miles Davis"} if method == "t_patcher" else {"The Space Needle; Miles Davis"}
    )
    one, two = compute_edits(gpt2, [[NEEDLE], [DAVIS]], method, check=None, known="edit", **MADE[method])
    for edit, request in ((one, NEEDLE), (two, DAVIS)):
        alone = compute(gpt2, request, method)
        for name, rows in alone.memories[0].rows.items():
            assert torch.allclose(rows.double(), edit.memories[0].rows[name].double(), rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("method", METHODS)
def test_a_masked_model_is_edited_at_its_mask(tiny: Tiny, method: str) -> None:
    model = tiny("bert")
    request = EditRequest("{} is in [MASK]", "The Space Needle", "paris")
    before = model.fingerprint()
    more = {"kl_weight": 0.0} if method == "calinet" else {"steps": 200}
    edit = compute(model, request, method, **more)
    with edit.applied(model):
        assert says(model, request)
        route = model.memories[0].routes(model, [tuple(request.fact.align(model).input_ids)])[0]  # type: ignore[attr-defined]
        assert route.entry == 0 and route.score > 0
    assert model.fingerprint() == before


def test_with_another_memory_on_the_model_it_is_computed_on_what_that_does(gpt2: Model) -> None:
    one = compute(gpt2, NEEDLE, "calinet")
    with one.applied(gpt2):
        two = compute(gpt2, DAVIS, "t_patcher")
        with two.applied(gpt2):
            assert [memory.name for memory in gpt2.memories] == ["calinet", "t_patcher"]
            assert says(gpt2, DAVIS)
            three = compute(gpt2, NEEDLE, "t_patcher", name="more", layers=[1])
            with three.applied(gpt2):
                assert says(gpt2, NEEDLE) and len(gpt2.memories) == 3


def test_calinet_starts_as_the_model_it_stands_in_and_stays_so_on_other_text(gpt2: Model) -> None:
    edit = compute(gpt2, NEEDLE, "calinet", steps=1, stop_loss=0.0)
    assert edit.evidence is not None
    assert float(edit.evidence["curve"][0, 2]) == pytest.approx(0, abs=1e-6)
    drawn = compute(gpt2, NEEDLE, "calinet", steps=1, start="linear", stop_loss=0.0)
    assert drawn.evidence is not None and float(drawn.evidence["curve"][0, 2]) > 1e-4
    free, kept = (
        compute(gpt2, NEEDLE, "calinet", stop_loss=0.0, steps=20, kl_weight=weight) for weight in (1e-9, 10.0)
    )
    assert free.evidence is not None and kept.evidence is not None
    assert float(kept.evidence["curve"][-1, 2]) < 0.7 * float(free.evidence["curve"][-1, 2])


def test_states_are_prepared_once_and_given(gpt2: Model, tmp_path: Path) -> None:
    prepared = prepare(gpt2, "t_patcher", tokens=64, cache=tmp_path)
    states = prepared.tensors["states"]
    assert states.shape == (64, gpt2.d_model) and prepared.header["layer"] == gpt2.n_layers - 1
    given, own = compute(gpt2, NEEDLE, "t_patcher", prepared=prepared), compute(gpt2, NEEDLE, "t_patcher")
    assert given.same_as(own)
    other = prepare(gpt2, "t_patcher", layer=1, tokens=8, cache=False)
    with pytest.raises(TracerError, match=r"at layer 1 .* are to stand at layer 3; make one of this layer with"):
        compute(gpt2, NEEDLE, "t_patcher", prepared=other)
    assert not gpt2.memories


def test_patches_that_are_not_active_add_nothing_at_all(gpt2: Model) -> None:
    """What is let through below zero would add up over many edits."""
    ids = torch.tensor([gpt2.tokenizer("Miles Davis plays the")["input_ids"]])
    edit, site = compute(gpt2, NEEDLE, "t_patcher"), Site("mlp_in", gpt2.n_layers - 1)
    patches = edit.memories[0].rows
    with torch.no_grad():
        entered, before = capture(gpt2, ids, [site])[site], logits_of(gpt2, ids)
        assert float((entered @ patches["keys"].T + patches["biases"]).max()) < 0
        with edit.applied(gpt2):
            assert torch.equal(logits_of(gpt2, ids), before)


def test_margins_are_measured_on_the_function(tiny: Tiny) -> None:
    """Below it next to nothing comes through; nothing at all below that of the default, relu."""
    assert measured_margins("gelu") == (2.0, 3.0, -3.0) == measured_margins("relu")
    assert measured_margins("silu")[1] > 6
    edits = [compute(tiny("gpt2"), NEEDLE, "t_patcher", steps=1, **more) for more in ({}, {"activation": "own"})]
    assert [edit.settings["activation"] for edit in edits] == ["relu", "gelu_new"]
    silu = compute(tiny("llama"), NEEDLE, "t_patcher", steps=1, activation="silu")
    assert silu.memories[0].header["activation"] == "silu"


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("t_patcher", {"start": "warm"}, r"start is 'warm'; expected one of 'unembed', 'zero', 'normal'"),
        ("t_patcher", {"margins": [1, 2]}, r"margins is \[1, 2\]; expected three numbers"),
        ("t_patcher", {"margins": [1, 2, float("nan")]}, "margins is nan; expected a finite number"),
        ("t_patcher", {"memory_loss": "exp"}, r"memory_loss is 'exp'; expected two terms"),
        ("t_patcher", {"act_loss": "top0_exp"}, r"act_loss is 'top0_exp'; expected 'exp', 'margin'"),
        ("t_patcher", {"steps": 0}, "steps is 0; expected a whole number of at least 1"),
        ("t_patcher", {"lr": 0}, "lr is 0; expected a number above zero, or None for a measured one"),
        ("t_patcher", {"activation": "swoosh"}, "activation is 'swoosh'; expected one of relu"),
        ("t_patcher", {"layers": [99]}, "a layer from 0 to 3, got 99"),
        ("t_patcher", {"name": " "}, "expected a name for the memory"),
        ("calinet", {"start": "warm"}, r"start is 'warm'; expected one of 'zero', 'linear'"),
        ("calinet", {"slots": 0}, "slots is 0; expected a whole number of at least 1"),
        ("calinet", {"kl_weight": -1}, "kl_weight is -1; expected zero or more"),
        ("calinet", {"layers": [99]}, "a layer from 0 to 3, got 99"),
        ("calinet", {"lr": 1e30}, "the loss of slots is not finite after"),
        ("t_patcher", {"lr": 1e30}, "the loss of patches is not finite after"),
    ],
)
def test_settings_out_of_range_are_refused(gpt2: Model, method: str, settings: dict[str, Any], message: str) -> None:
    before = inventory(gpt2)
    with pytest.raises(TracerError, match=message):
        compute(gpt2, NEEDLE, method, **settings)
    assert inventory(gpt2) == before


def test_a_memory_of_another_layer_kind_or_function_is_refused(gpt2: Model) -> None:
    patched = compute(gpt2, NEEDLE, "t_patcher", steps=2, activation="gelu")
    with patched.applied(gpt2):
        with pytest.raises(TracerError, match=r"has its patches at layer 3; leave layers out, or give the new ones"):
            compute(gpt2, DAVIS, "t_patcher", layers=[1])
        with pytest.raises(TracerError, match="has patches with 'gelu'; leave it out"):
            compute(gpt2, DAVIS, "t_patcher", activation="relu")
        assert compute(gpt2, DAVIS, "t_patcher", steps=1).memories[0].header["activation"] == "gelu"
        with pytest.raises(TracerError, match="is of the kind 't_patcher', not 'calinet'; give the new one another"):
            compute(gpt2, DAVIS, "calinet", name="t_patcher")
    slots = compute(gpt2, NEEDLE, "calinet", steps=2)
    with slots.applied(gpt2), pytest.raises(TracerError, match="activation is 'gelu', and the memory 'calinet' of"):
        compute(gpt2, DAVIS, "calinet", activation="gelu")
    with pytest.raises(TracerError, match="an adapter holds changes of weights, and this edit changes the memory"):
        patched.to_peft("anywhere")


def test_text_is_written_with_the_edit(gpt2: Model) -> None:
    edit = compute(gpt2, NEEDLE, "t_patcher")
    with edit.applied(gpt2):
        (text,) = tracer.generate(gpt2, [TEXTS[0]], max_new_tokens=1)
        assert " Paris".startswith(text) and text
        memory = gpt2.memories[0]
    with attached(gpt2, memory):  # type: ignore[arg-type]
        assert tracer.generate(gpt2, [TEXTS[0]], max_new_tokens=1) == [text]
