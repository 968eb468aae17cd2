"""What holds of soft prompts: they are rows that the model reads like tokens, in front, in each row by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import TEXTS, close, ids_of, inventory, lines, read
from handmade import own
from soft import COUNT, drawn, soft
from toys import Preface

import tracer
from editing.memories import Memory, MemoryChange, attach, attached, folded, load_memory
from tracer import Model, TracerError
from tracer.engine import Line, Site, capture, kv_cache
from tracer.engine.batch import Row
from tracer.engine.follow import follow
from tracer.engine.front import logits_with_front, position_vectors
from tracer.engine.memories import asked, decided

Tiny = Callable[[str], Model]
LEARNED = ("gpt2", "opt")  # architectures that add a vector for each position


@pytest.fixture
def memory(model: Model) -> Iterator[Memory]:
    yield soft(model)


def by_hand(model: Model, prompt: tuple[int, ...], target: tuple[int, ...], vectors: torch.Tensor) -> np.ndarray:
    """Log-probabilities of a target by a forward over embeddings, without any of the engine's hooks."""
    ids = torch.tensor([(*prompt, *target)])
    with torch.no_grad():
        embedded = model.hf.get_input_embeddings()(ids)
        places: dict[str, Any] = {}
        if model.hf.config.model_type == "gpt2":  # the vectors have no position, and the rest keep theirs
            transformer: Any = model.hf.transformer
            vectors = vectors - transformer.wpe.weight[0]
            positions = torch.arange(ids.shape[1])
            places = {"position_ids": torch.cat([torch.zeros(len(vectors)).long(), positions]).unsqueeze(0)}
        whole = torch.cat([vectors.unsqueeze(0), embedded], 1)
        logits = model.hf(inputs_embeds=whole, **places).logits[0].double().log_softmax(-1)
    at = torch.arange(len(target)) + len(vectors) + len(prompt) - 1
    return logits[at, torch.tensor(target)].numpy()


def test_a_hit_is_the_model_on_vectors_and_embeddings(model: Model, memory: Memory) -> None:
    """On gpt2 the prompt keeps its own positions, on rotary ones it moves; forced tokens come at the next ones."""
    bare = read(model)[0]
    expected = [
        np.concatenate([by_hand(model, line.ids, target, memory.tensors["prompts"][entry]) for target in line.targets])
        for entry, line in enumerate(lines(model)[:2])
    ]
    with attached(model, memory):
        found = read(model)[0]
    assert close(found[:2], expected) and np.abs(found[0] - bare[0]).max() > 0.01
    assert close(found[2:], bare[2:])


@pytest.mark.parametrize("cached", [True, False])
def test_a_rows_answer_is_its_own_and_forced_is_written(
    model: Model, memory: Memory, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever rows are beside it, longer by vectors or not; with keys and values kept, and without."""
    if not cached:
        monkeypatch.setattr(kv_cache.Prefix, "read", lambda *_: None)
    with attached(model, memory):
        whole = read(model)
        for max_rows in (1, 2, 3):
            found = read(model, max_rows=max_rows)
            assert close(found[0], whole[0]) and found[1] == whole[1]
        for place, (text, written) in enumerate(zip(TEXTS, whole[1], strict=True)):
            alone = read(model, (text,))
            assert close(alone[0], whole[0][place : place + 1]) and alone[1] == [written]
            (again,) = follow(model, [Line(ids_of(model, text), (written,))])
            assert tuple(again.best[0].tolist()) == written
        with monkeypatch.context() as patch:
            patch.undo()
            assert read(model)[1] == whole[1]


def test_it_is_on_and_off_to_the_bit(model: Model, memory: Memory) -> None:
    before, state, bare = inventory(model), torch.random.get_rng_state(), read(model)
    missed = read(model, TEXTS[2:])
    with attached(model, memory):
        now = inventory(model)
        read(model)
        again = read(model, TEXTS[2:])
        assert all(np.array_equal(a, b) for a, b in zip(again[0], missed[0], strict=True)) and again[1] == missed[1]
        ids = torch.tensor([ids_of(model, TEXTS[2])])
        quiet = model.hf(ids).logits
        assert inventory(model) == now
    assert torch.equal(quiet, model.hf(ids).logits) and inventory(model) == before
    assert all(np.array_equal(a, b) for a, b in zip(read(model)[0], bare[0], strict=True))
    empty = memory.acts.taking(memory, [])
    with attached(model, empty):
        found = read(model)
    assert all(np.array_equal(a, b) for a, b in zip(found[0], bare[0], strict=True)) and found[1] == bare[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_saved_loaded_folded_and_without_an_entry(model: Model, memory: Memory, tmp_path: Path) -> None:
    again = load_memory(memory.save(tmp_path / "m"))
    assert again.digest == memory.digest
    one = memory.acts.without(memory, 1)
    assert folded(None, [MemoryChange.between(None, one), MemoryChange.between(one, memory)]).digest == memory.digest  # type: ignore[union-attr]
    change = MemoryChange.between(one, memory)
    assert len(change.rows["prompts"]) == 1
    with attached(model, memory):
        both = read(model)
    with attached(model, one):
        first = read(model)
    bare = read(model)
    assert close(first[0][:1], both[0][:1]) and close(first[0][1:], bare[0][1:])
    entries = memory.acts.entries(memory)
    assert [each["prompt"] for each in entries] == list(TEXTS[:2])
    assert entries[0]["bytes"] > COUNT * model.d_model * 4
    with pytest.raises(TracerError, match="has no entry 2; it has 2"):
        memory.acts.without(memory, 2)


def test_the_control_turns_the_vectors_and_nothing_else(model: Model, memory: Memory) -> None:
    turned = MemoryChange.between(None, memory).control(3).on(None)
    assert turned is not None
    changed = {name for name, tensor in memory.tensors.items() if not torch.equal(tensor, turned.tensors[name])}
    assert changed == {"prompts"}
    assert torch.allclose(turned.tensors["prompts"].norm(dim=-1), memory.tensors["prompts"].norm(dim=-1), rtol=1e-5)


# --- positions -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "opt", "llama", "gemma3", "neox", "bloom"])
def test_what_is_added_for_positions_is_measured(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    before = inventory(model)
    found = position_vectors(model)
    assert (found is not None) == (name in LEARNED)
    if name == "gpt2":
        weight: Any = model.hf.get_submodule("transformer.wpe").weight
        assert torch.allclose(found, weight - weight[0], atol=1e-6)  # type: ignore[arg-type]
    assert inventory(model) == before


def test_rows_with_other_numbers_of_vectors_share_a_forward(model: Model) -> None:
    vectors, positions = drawn(model, 3), position_vectors(model)
    rows = [Row(ids_of(model, text), 0, (0, len(ids_of(model, text)) - 1)) for text in TEXTS[:3]]
    with torch.no_grad():
        whole = logits_with_front(model, rows, vectors, positions, [3, 0, 1]).split(2)
        for row, own, count, found in zip(rows, vectors, (3, 0, 1), whole, strict=True):
            alone = logits_with_front(model, [row], own[None, :count], positions)
            assert torch.allclose(alone, found, atol=2e-4)
        plain = model.hf(torch.tensor([rows[1].ids])).logits[0, list(rows[1].read)]
        assert torch.allclose(whole[1], plain, atol=2e-4)


# --- what does not go ------------------------------------------------------------------------------------------------
def test_a_prompt_without_room_for_the_vectors_is_refused(model: Model) -> None:
    prompts = drawn(model)
    memory = soft(model, prompts=prompts)
    text, long = TEXTS[0], TEXTS[0]
    while len(ids_of(model, long)) <= model.n_ctx - COUNT:
        long += " a"
    assert len(tracer.generate(model, [long], max_new_tokens=1)) == 1
    with attached(model, memory):
        with pytest.raises(TracerError, match=r"puts 3 vectors in front of a prompt of \d+ tokens, and .* reads at mo"):
            tracer.generate(model, long, max_new_tokens=1)
        room = model.n_ctx - len(ids_of(model, text))
        follow(model, [Line(ids_of(model, text), ((5,) * (room - COUNT + 1),))])
        with pytest.raises(TracerError, match=r"leaves no room for the \d+ tokens of an answer"):
            follow(model, [Line(ids_of(model, text), ((5,) * (room - COUNT + 2),))])


def test_only_one_memory_puts_vectors_in_front_and_after_all_others(
    model: Model, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, front = ids_of(model, TEXTS[0]), ids_of(model, "a")
    words = {"prompts": [known], "front": front}
    preface = Memory("zzz", "preface", model.weights_fingerprint(), {}, words)  # behind it by name
    with attached(model, memory), attached(model, preface):
        questions, frame = asked(model, [known])
        assert questions[0].ids == (front[0],) * COUNT + (*front, *known) and frame is not None
        assert frame.ends == (COUNT + len(front) + len(known) - 1,)
        with pytest.raises(TracerError, match=r"answers another question than the one that is put"):
            decided(model, [known])
    with (
        attached(model, memory),
        attached(model, soft(model, name="other")),
        pytest.raises(TracerError, match=r"'soft' and 'other' of .* both act on one prompt"),
    ):
        asked(model, [known])
    monkeypatch.setattr(Preface, "answering", own(model))
    with (
        attached(model, memory),
        attached(model, preface),
        pytest.raises(TracerError, match="one whose answers another model gives"),
    ):
        asked(model, [known])


def test_bare_calls_of_a_hit_are_refused_and_running_text_is_left_alone(tiny: Tiny) -> None:
    from editing.health.drift import perplexity

    model = own(tiny("gpt2"))
    bare = perplexity(model, TEXTS[0])
    attach(model, soft(model))
    assert perplexity(model, TEXTS[0]) == bare
    with pytest.raises(TracerError, match="answers another question than the one that is put"):
        model.hf(torch.tensor([ids_of(model, TEXTS[0])]))
    with pytest.raises(TracerError, match="answers another question than the one that is put"):
        capture(model, list(ids_of(model, TEXTS[0])), [Site("hidden", 0)])


def test_a_memory_that_does_not_fit_is_refused(model: Model, memory: Memory, tiny: Tiny) -> None:
    before = inventory(model)
    wrong: dict[str, dict[str, torch.Tensor]] = {
        "'prompts' of the memory 'soft' is missing": {n: t for n, t in memory.tensors.items() if n != "prompts"},
        r"expected a last dimension of \d+, the d_model": {**memory.tensors, "prompts": torch.ones(2, 3, 5)},
        "has 1 rows for 2 entries": {**memory.tensors, "prompts": memory.tensors["prompts"][:1]},
        "as its header says": {**memory.tensors, "prompts": memory.tensors["prompts"][:, :2]},
        "not one line for each": {**memory.tensors, "about": memory.tensors["about"][:0]},
    }
    for message, tensors in wrong.items():
        with pytest.raises(TracerError, match=message):
            attach(model, replace(memory, tensors=tensors))
    assert inventory(model) == before
    with pytest.raises(TracerError, match=r"a masked model, does not go on from|expected a last dimension"):
        memory.acts.check(memory, tiny("bert"))
