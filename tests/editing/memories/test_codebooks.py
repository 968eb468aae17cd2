"""What is true of every method that looks prompts up in a memory: they say what is asked, and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asked import inventory
from codebooks import MISSED, REQUESTS, at, evidence, memory_of, only, scores, target_of

import editing
import tracer
from editing import Editor
from editing.memories import MemoryChange, attached
from editing.memories.lines import unpacked
from editing.methods.compute import compute_edit, compute_edits
from tracer import Model, TracerError
from tracer.engine import Line, set_memories
from tracer.engine.answer import own_answer
from tracer.engine.follow import follow

METHODS = ("grace", "melo")
KEYS = {"grace": "keys", "melo": "points"}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def test_it_says_what_is_asked_for_and_nothing_else(method: str, model: Model, tmp_path: Path) -> None:
    """On four architectures, for targets of any length; a prompt that is missed keeps its bits, the model its state."""
    before, state, bare = inventory(model), torch.random.get_rng_state(), scores(model)
    edit = compute_edit(model, REQUESTS, method, **at(method, model))
    assert inventory(model) == before and torch.equal(torch.random.get_rng_state(), state)
    assert float(evidence(edit, "loss").nan_to_num(0).max(0).values.min()) > 0.1
    texts = (MISSED, *(request.text for request in REQUESTS))
    with edit.applied(model):
        for request in REQUESTS:
            target, prompt = target_of(model, request), tuple(request.about(None).align(model).input_ids)
            learnt = len(target) if method == "grace" else 1  # low rank is not enough for every text of random models
            assert tuple(own_answer(model, request.fact))[:learnt] == target[:learnt]
            (line,) = follow(model, [Line(prompt, (target,), tokens=len(target))])
            assert line.written[:learnt] == target[:learnt]
            (again,) = follow(model, [Line(prompt, (line.written,))])
            assert tuple(again.best[0]) == line.written  # what is forced is what is written
        assert all(np.array_equal(one, two) for one, two in zip(scores(model), bare, strict=True))
        whole = scores(model, texts)
        for max_rows in (1, 2):  # a row's answer is its own
            pairs = zip(scores(model, texts, max_rows=max_rows), whole, strict=True)
            assert all(np.allclose(one, two, atol=2e-4) for one, two in pairs)
    assert inventory(model) == before
    again = editing.load_edit(edit.save(tmp_path / "e"), model)
    with again.applied(model):
        assert all(np.array_equal(one, two) for one, two in zip(scores(model, texts), whole, strict=True))


def test_edits_one_by_one_are_the_batch_and_undone_are_the_edits_before(method: str, gpt2: Model) -> None:
    editor, states = Editor(gpt2), [gpt2.fingerprint()]
    for request in REQUESTS:
        editor.edit(request, method, **at(method, gpt2))
        states.append(gpt2.fingerprint())
    memory, key = only(gpt2), KEYS[method]
    changes = [one.edit.memories[0] for one in editor.history]
    assert [len(change.rows[key]) for change in changes] == [1, 1, 1]  # an edit costs what it adds
    assert sum(len(change.rows["about"]) for change in changes) == len(memory.tensors["about"])
    assert [line["prompt"] for line in memory.acts.entries(memory)] == [request.text for request in REQUESTS]
    for number in (2, 1, 0):
        editor.undo()
        assert gpt2.fingerprint() == states[number]
    batch = memory_of(compute_edit(gpt2, REQUESTS, method, **at(method, gpt2)))
    assert batch.tensors.keys() == memory.tensors.keys()
    for name in {*batch.tensors} - {"values", "a", "b"}:
        assert torch.equal(batch.tensors[name], memory.tensors[name]), name
    alone = compute_edits(gpt2, [[request] for request in REQUESTS], method, **at(method, gpt2))
    assert [len(memory_of(edit).tensors[key]) for edit in alone] == [1, 1, 1]


def test_the_last_target_of_a_prompt_wins(method: str, gpt2: Model) -> None:
    editor = Editor(gpt2)
    other = replace(REQUESTS[0], target_new=" the city")
    for request in (REQUESTS[0], other, REQUESTS[0]):
        editor.edit(request, method, **at(method, gpt2))
        editor.edit(REQUESTS[1], method, **at(method, gpt2))
    memory = only(gpt2)
    assert len(memory.tensors[KEYS[method]]) == 2 and "had the target 'Paris' before" in editor.history[2].edit.note
    for request in REQUESTS[:2]:
        assert tuple(own_answer(gpt2, request.fact)) == target_of(gpt2, request)
    editor.checkout(3)
    assert tuple(own_answer(gpt2, other.fact))[:1] == target_of(gpt2, other)[:1]
    editor.checkout(0)


def test_an_empty_memory_does_nothing(method: str, gpt2: Model) -> None:
    memory = memory_of(compute_edit(gpt2, REQUESTS[0], method, **{**at(method, gpt2), "steps": 1}))
    empty = replace(memory, tensors={name: tensor[:0] for name, tensor in memory.tensors.items()})
    texts = (MISSED, REQUESTS[0].text)
    bare = scores(gpt2, texts)
    with attached(gpt2, empty):
        assert all(np.array_equal(one, two) for one, two in zip(scores(gpt2, texts), bare, strict=True))
        assert [one.hit for one in empty.routes(gpt2, [(1, 2), (3,)])] == [False, False]
    assert unpacked(empty.tensors["about"]) == [] and MemoryChange.between(None, empty).on(None) is not None


def test_a_decision_says_how_it_came_about(method: str, gpt2: Model) -> None:
    edit = compute_edit(gpt2, REQUESTS, method, **at(method, gpt2))
    memory = memory_of(edit)
    prompts = [tuple(request.about(None).align(gpt2).input_ids) for request in REQUESTS]
    for number, route in enumerate(memory.routes(gpt2, prompts)):
        assert route.hit and route.entry == number and route.score == 0 and route.threshold == pytest.approx(1e-3)
        assert route.runner_up != number and route.runner_up_score > 0.1
    (missed,) = memory.routes(gpt2, [(*prompts[0], 5)])
    assert not missed.hit and missed.score > missed.threshold and missed.decision is None
    control = edit.control(seed=1)
    (change,) = control.memories
    assert torch.equal(change.rows[KEYS[method]], memory.tensors[KEYS[method]])  # it acts on the same prompts
    name = {"grace": "values", "melo": "a"}[method]
    assert not torch.allclose(change.rows[name], memory.tensors[name])
    assert torch.allclose(change.rows[name].norm(dim=-1), memory.tensors[name].norm(dim=-1), atol=1e-4)


def test_an_entry_that_is_taken_out_acts_no_more(method: str, gpt2: Model) -> None:
    memory = memory_of(compute_edit(gpt2, REQUESTS, method, **at(method, gpt2)))
    prompts = [tuple(request.about(None).align(gpt2).input_ids) for request in REQUESTS]
    kind = memory.acts
    assert torch.equal(kind.keys(memory), kind.queries(memory, gpt2, prompts))
    for entry in range(len(REQUESTS)):
        less = kind.without(memory, entry)
        less.check(gpt2)
        assert [route.hit for route in less.routes(gpt2, prompts)] == [place != entry for place in range(len(REQUESTS))]
        with attached(gpt2, memory):
            whole = [own_answer(gpt2, request.fact) for request in REQUESTS]
        bare = own_answer(gpt2, REQUESTS[entry].fact)
        with attached(gpt2, less):
            found = [own_answer(gpt2, request.fact) for request in REQUESTS]
        assert found == [bare if place == entry else one for place, one in enumerate(whole)]
    for entry in (-1, 3):
        with pytest.raises(TracerError, match=f"has no entry {entry}; it has 3, counted from 0"):
            kind.without(memory, entry)


def test_weights_that_cannot_be_edited_need_not_be(method: str, tiny_folder: Callable[[str], Path]) -> None:
    """A method that makes memories only takes a model of packed weights; one that writes weights refuses it."""
    model = tracer.load(tiny_folder("gpt2"))
    model.hf.config.quantization_config = {"load_in_4bit": True}
    with pytest.raises(TracerError, match="without quantisation"):
        compute_edit(model, REQUESTS[0], "ft_l", known="edit", check=None)
    with compute_edit(model, REQUESTS[0], method, **at(method, model)).applied(model):
        assert tuple(own_answer(model, REQUESTS[0].fact)) == target_of(model, REQUESTS[0])
    set_memories(model, [])
