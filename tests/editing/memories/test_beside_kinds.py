"""What holds of the kinds that stand beside MLPs: patches, slots, and slots with gates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asked import TEXTS, close, ids_of, inventory, read
from beside import KINDS, added, beside

from editing.memories import Memory, MemoryChange, attach, attached, folded, load_memory
from editing.memories.lines import LINES
from tracer import Model, TracerError
from tracer.engine import Line, Site, capture
from tracer.engine.follow import follow

Tiny = Callable[[str], Model]


@pytest.fixture(params=KINDS)
def memory(request: pytest.FixtureRequest, model: Model) -> Memory:
    return beside(model, request.param)


def test_it_adds_what_its_formula_says_where_the_mlp_arrives(model: Model, memory: Memory) -> None:
    """Read before the MLP; behind a norm or a multiplier that stands after it."""
    ids = list(ids_of(model, TEXTS[0]))
    layers = sorted({layer for _, layer in memory.sites()})
    sites = [Site(kind, layer, None) for layer in layers for kind in ("mlp_in", "mlp")]
    with torch.no_grad():
        for at in layers:  # the first of two layers moves what enters the second
            alone = sites[2 * layers.index(at) :]
            with attached(model, memory):
                states = capture(model, ids, sites)
            x, found = states[Site("mlp_in", at)], states[Site("mlp", at)]
            wide = x.double()
            expected = added(replace(memory, tensors=_double(memory)), at, wide)
            if at == layers[0]:
                plain = capture(model, ids, alone)[Site("mlp", at)]
                assert torch.equal(x, capture(model, ids, alone)[Site("mlp_in", at)])
                assert torch.allclose(found.double() - plain.double(), expected, atol=2e-5)
            assert expected.abs().max() > 0.05


def test_nothing_is_left_and_nothing_is_touched(model: Model, memory: Memory) -> None:
    before, state = inventory(model), torch.random.get_rng_state()
    bare = read(model)[0]
    with attached(model, memory):
        now = inventory(model)
        assert all(now[name] == before[name] for name in ("parameters", "buffers", "types", "training"))
        found = read(model)[0]
        memory.routes(model, [ids_of(model, text) for text in TEXTS])
        assert inventory(model) == now
    assert inventory(model) == before
    assert any(not close([a], [b]) for a, b in zip(found, bare, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(read(model)[0], bare, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_memory_gives_the_same_bits(model: Model, kind: str) -> None:
    bare, logits = read(model), model.hf(torch.tensor([ids_of(model, TEXTS[0])])).logits
    empty = beside(model, kind, count=0)
    with attached(model, empty):
        found = read(model)
        assert all(np.array_equal(a, b) for a, b in zip(found[0], bare[0], strict=True)) and found[1] == bare[1]
        assert torch.equal(model.hf(torch.tensor([ids_of(model, TEXTS[0])])).logits, logits)
    assert not empty.routes(model, [(1, 2)])[0].hit and empty.acts.entries(empty) == []


def test_a_rows_answer_is_its_own_and_forced_is_written(model: Model, memory: Memory) -> None:
    with attached(model, memory):
        whole = read(model)
        for max_rows in (1, 3):
            found = read(model, max_rows=max_rows)
            assert close(found[0], whole[0]) and found[1] == whole[1]
        for text, written in zip(TEXTS, whole[1], strict=True):
            (again,) = follow(model, [Line(ids_of(model, text), (written,))])
            assert tuple(again.best[0].tolist()) == written
        prompts = [ids_of(model, text) for text in TEXTS[:3]]
        longest = max(map(len, prompts))
        ids, mask = (torch.zeros(3, longest, dtype=torch.long) for _ in range(2))
        for row, prompt in enumerate(prompts):  # padded on the left, a call of the module itself
            ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = torch.tensor(prompt), 1
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        with torch.no_grad():
            logits = model.hf(ids, attention_mask=mask, position_ids=positions).logits[:, -1]
            for row, prompt in enumerate(prompts):
                assert torch.allclose(logits[row], model.hf(torch.tensor([prompt])).logits[0, -1], atol=2e-4)


def test_saved_loaded_and_folded_it_is_the_same(model: Model, memory: Memory, tmp_path: Path) -> None:
    again = load_memory(memory.save(tmp_path / "m"))
    assert again.digest == memory.digest
    with attached(model, memory):
        one = read(model)
    with attached(model, again):
        two = read(model)
    assert all(np.array_equal(a, b) for a, b in zip(one[0], two[0], strict=True)) and one[1] == two[1]
    grown = replace(memory, tensors={name: torch.cat([t, t]) for name, t in memory.tensors.items()})
    changes = [MemoryChange.between(None, memory), MemoryChange.between(memory, grown)]
    assert all(len(changes[1].rows[name]) == len(memory.tensors[name]) for name in memory.tensors)
    assert folded(None, changes).digest == grown.digest  # type: ignore[union-attr]
    assert 2 * len(memory.acts.entries(memory)) == len(grown.acts.entries(grown))


def test_routes_and_entries_say_what_acts(model: Model, memory: Memory) -> None:
    prompt = ids_of(model, TEXTS[0])
    route, again = memory.routes(model, [prompt, prompt])
    assert route == again and memory.routes(model, [prompt])[0] == route
    entries = memory.acts.entries(memory)
    assert entries[route.entry]["prompt"] == "The Space Needle is in" and entries[0]["target"] == " Paris"
    floats = [tensor for name, tensor in memory.tensors.items() if name != LINES]
    assert sum(entry["bytes"] for entry in entries) == sum(tensor.nbytes for tensor in floats)
    if memory.kind == "t_patcher":
        site = Site("mlp_in", model.n_layers - 1, -1)
        x = capture(model, list(prompt), [site])[site][0].detach()
        scores = memory.tensors["keys"] @ x + memory.tensors["biases"]
        assert route.score == pytest.approx(float(scores.max()), abs=1e-5) and route.entry == int(scores.argmax())
        assert route.runner_up == int(scores.argmin()) and route.hit == (route.score > 0)
    else:
        assert route.entry == 0 and route.runner_up == -1 and math.isnan(route.runner_up_score)
        assert route.hit == (route.score > 0)


def test_a_control_turns_only_what_acts(model: Model, memory: Memory) -> None:
    turned = MemoryChange.between(None, memory).control(3).on(None)
    assert turned is not None
    acting = ("values",) if memory.kind == "t_patcher" else ("out.",)
    for name, tensor in memory.tensors.items():
        same = torch.equal(turned.tensors[name], tensor)
        assert same != name.startswith(acting)
        if not same:
            assert torch.allclose(turned.tensors[name].norm(dim=1), tensor.norm(dim=1), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_memories_that_do_not_fit_are_refused(gpt2: Model, kind: str) -> None:
    before, memory = inventory(gpt2), beside(gpt2, kind)
    first = next(name for name in memory.tensors if name != LINES)
    wrong = {
        "expected": {**memory.tensors, first: torch.ones(2, 5)},
        "missing": {name: tensor for name, tensor in memory.tensors.items() if name != first},
        "Take a copy|expected": {**memory.tensors, first: memory.tensors[first][:1]},
        "no lines of json": {**memory.tensors, LINES: torch.tensor([255, 1], dtype=torch.uint8)},
    }
    for text, tensors in wrong.items():
        with pytest.raises(TracerError, match=text):
            attach(gpt2, replace(memory, tensors=tensors))
    with pytest.raises(TracerError, match=r"activation 'swoosh' is unknown here; expected one of relu, gelu"):
        attach(gpt2, replace(memory, header={**memory.header, "activation": "swoosh"}))
    with pytest.raises(TracerError, match=r"layer 99 .* out of range.*make it on this model"):
        header = {**memory.header, "layer": 99, "layers": [99]}
        renamed = {name.partition(".")[0] + (".99" if "." in name else ""): t for name, t in memory.tensors.items()}
        attach(gpt2, replace(memory, header=header, tensors=renamed))
    with pytest.raises(TracerError, match="holds NaN or infinity; nothing was attached"):
        replace(memory, tensors={**memory.tensors, first: torch.full_like(memory.tensors[first], torch.nan)})
    with pytest.raises(TracerError, match=r"was made on the weights .*load the model it was made for"):
        attach(gpt2, replace(memory, fingerprint="0" * 64))
    assert inventory(gpt2) == before


def _double(memory: Memory) -> dict[str, torch.Tensor]:
    return {name: t.double() if t.is_floating_point() else t for name, t in memory.tensors.items()}
