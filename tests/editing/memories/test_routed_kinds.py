"""What is true of every memory, for those whose entries a router finds, on four architectures and by two routers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import TEXTS, close, ids_of, inventory, read
from handmade import own
from routed import KINDS, RANKS, ROUTERS, TEMPLATE, factors, lines, memory

import tracer
from editing.edits.weights import applied
from editing.memories import Memory, MemoryChange, attach, attached, folded, load_memory
from editing.memories.lines import packed
from editing.memories.text import filled
from tracer import Model, TracerError, TracerNote
from tracer.engine import Line, set_memories
from tracer.engine.follow import follow

Tiny = Callable[[str], Model]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=ROUTERS)
def made(request: pytest.FixtureRequest, model: Model, kind: str) -> Memory:
    return memory(model, kind, request.param)


def same(one: Any, two: Any) -> bool:
    return all(map(np.array_equal, one[0], two[0])) and one[1] == two[1]


def test_it_is_on_and_off_to_the_bit_and_alone_in_its_rows(model: Model, made: Memory, tmp_path: Path) -> None:
    state, before, bare = torch.random.get_rng_state(), inventory(model), read(model)
    routes = made.routes(model, [ids_of(model, text) for text in TEXTS])
    assert [route.entry for route in routes[:2] if route.hit] == [0, 1] and not any(route.hit for route in routes[2:])
    quiet = read(model, TEXTS[2:])
    with attached(model, made):
        whole, again = read(model), read(model, TEXTS[2:])
        assert same(again, quiet)
        assert all(np.abs(whole[0][row] - bare[0][row]).max() > 1e-3 for row in (0, 1))
        for max_rows in (1, 3):
            again = read(model, max_rows=max_rows)
            assert close(again[0], whole[0]) and again[1] == whole[1]
        alone = read(model, TEXTS[1:2])
        assert close(alone[0], whole[0][1:2]) and alone[1] == whole[1][1:2]
        (forced,) = follow(model, [Line(ids_of(model, TEXTS[0]), (whole[1][0],))])
        assert tuple(forced.best[0].tolist()) == whole[1][0]
    assert inventory(model) == before and torch.equal(torch.random.get_rng_state(), state)
    loaded = load_memory(made.save(tmp_path / "memory"))
    assert loaded.digest == made.digest
    with attached(model, loaded):
        assert same(read(model), whole)


def test_without_entries_it_does_nothing_and_without_one_the_other_stays(model: Model, made: Memory) -> None:
    bare, acts = read(model), made.acts
    with attached(model, made):
        both = read(model)
    one = acts.without(made, 0)
    with attached(model, one):
        found = read(model)
    assert close(found[0][:1], bare[0][:1]) and close(found[0][1:2], both[0][1:2])
    entries = acts.entries(made)
    assert [entry["prompt"] for entry in entries] == list(TEXTS[:2]) and entries[0]["bytes"] > 0
    assert acts.entries(one)[0] == entries[1]
    empty = acts.without(one, 0)
    with attached(model, empty):
        assert same(read(model), bare)
    assert not empty.routes(model, [ids_of(model, "a")])[0].hit and acts.entries(empty) == []
    with pytest.raises(TracerError, match="has no entry 2; it has 2"):
        acts.without(made, 2)


def test_changes_one_by_one_are_the_folded_memory(model: Model, kind: str) -> None:
    both, one = memory(model, kind), memory(model, kind, count=1)
    changes = [MemoryChange.between(None, one), MemoryChange.between(one, both)]
    found = folded(None, changes)
    assert found is not None and found.digest == both.digest
    assert len(changes[1].rows["keys"]) == 1 and changes[1].nbytes < changes[0].nbytes + 4 * 3 * 2 * model.d_mlp


def test_a_patch_is_what_the_edit_of_weights_is_to_its_row(model: Model) -> None:
    """Two rows of one batch have different edits, of other layers and ranks; the third has none."""
    targets = ((7, 8, 9), (7, 5))
    some = [Line(ids_of(model, text), targets, tokens=4) for text in TEXTS[:3]]
    expected = []
    for line, edit in zip(some, [factors(model, seed, ranks) for seed, ranks in enumerate(RANKS)] + [{}], strict=True):
        with applied(model, edit):
            expected += follow(model, [line])
    with attached(model, memory(model, "weights")):
        found = follow(model, some)
    for one, two in zip(found, expected, strict=True):
        assert close(list(one.log_probs), list(two.log_probs)) and one.written == two.written


def test_a_text_is_the_template_in_front(model: Model, recwarn: Any) -> None:
    made = memory(model, "text")
    fronts = [filled(TEMPLATE, "a Spanish", line["prompt"], line["front"]) for line in lines(model)]
    assert fronts[0] == "a is\nin is\nNew Fact: a Spanish\nPrompt: The Space Needle is in"
    expected = follow(model, [Line(ids_of(model, text), ((7, 8),), tokens=4) for text in fronts])
    with attached(model, made):
        found = follow(model, [Line(ids_of(model, text), ((7, 8),), tokens=4) for text in TEXTS[:2]])
    for one, two in zip(found, expected, strict=True):
        assert close(list(one.log_probs), list(two.log_probs)) and one.written == two.written
    assert not [each for each in recwarn if issubclass(each.category, TracerNote)]


def test_demonstrations_that_do_not_fit_are_left_out_and_it_is_said(tiny: Tiny) -> None:
    model = own(tiny("gpt2"))
    made = memory(model, "text", "string")
    many = [{**line, "front": [f"demonstration {i} is in\n" for i in range(40)]} for line in lines(model)]
    made = replace(made, tensors={**made.tensors, "about": packed(many)})
    with attached(model, made):
        prompt = ids_of(model, TEXTS[0])
        decision = made.routes(model, [prompt])[0].decision
        with pytest.warns(TracerNote, match=r"puts \d+ of 40 demonstrations in front of a quest.* reads \d+ tok"):
            asked: Any = made.ask(model, prompt, decision)
        assert model.n_ctx - 16 < len(asked.ids) <= model.n_ctx - 2
        text = model.tokenizer.decode(list(asked.ids))
        assert "demonstration 39 is in" in text and "demonstration 0 is" not in text
        made.ask(model, prompt, decision)  # said once: a second warning would be an error
        long = "The Space Needle a"
        while len(ids_of(model, f"{long} a")) < model.n_ctx - 2:
            long += " a"
        with pytest.raises(TracerError, match=r"tokens long, without any demonstration, and .* reads at most"):
            tracer.generate(model, long, max_new_tokens=1)


def test_a_control_turns_what_acts_or_where(model: Model, kind: str) -> None:
    made = memory(model, kind)
    turned = MemoryChange.between(None, made).control(3).on(None)
    assert turned is not None
    changed = {name for name, tensor in made.tensors.items() if not torch.equal(tensor, turned.tensors[name])}
    assert changed == ({"keys"} if kind == "text" else {"b.0", "b.1"})
    for name in changed:
        assert torch.allclose(turned.tensors[name].norm(dim=1), made.tensors[name].norm(dim=1), rtol=1e-5)
    by_text = MemoryChange.between(None, memory(model, "text", "string"))
    assert by_text.control(3).on(None).digest == by_text.on(None).digest  # type: ignore[union-attr]


def test_memories_that_do_not_fit_are_refused(model: Model, tiny: Tiny, kind: str) -> None:
    made, before = memory(model, kind), inventory(model)
    keys, header = made.tensors["keys"], made.header
    settings = {**header["router"], "settings": {**header["router"]["settings"], "layer": 99}}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("is missing", {"tensors": {name: each for name, each in made.tensors.items() if name != "keys"}}),
        ("expected a last dimension", {"tensors": {**made.tensors, "keys": keys[:, :3]}}),
        ("not one line for each", {"tensors": {**made.tensors, "keys": keys[:1]}}),
        ("does not have .*layer 99", {"header": {**header, "router": settings}}),
        ("is missing", {"header": {name: each for name, each in header.items() if name != "router"}}),
        ("a memory without a router", {"header": {**header, "router": {}}}),
        ("rule of a router is 'none'", {"header": {**header, "router": {**header["router"], "rule": "none"}}}),
    ]
    if kind == "text":
        wrong += [("expected a text with {fact} once", {"header": {**header, "template": "{question} {fact}"}})]
    else:
        counts, a = made.tensors["counts"], made.tensors["a.0"]
        wrong += [
            ("do not claim every row", {"tensors": {**made.tensors, "counts": counts + 1}}),
            ("expected a last dimension", {"tensors": {**made.tensors, "a.0": a[:, :3]}}),
            ("layer 99", {"header": {**header, "places": [[99, *each[1:]] for each in header["places"]]}}),
        ]
    for message, change in wrong:
        with pytest.raises(TracerError, match=message):
            attach(model, replace(made, **change))
    with pytest.raises(TracerError, match="holds NaN or infinity; nothing was attached"):
        replace(made, tensors={**made.tensors, "keys": torch.full_like(keys, torch.nan)})
    with pytest.raises(TracerError, match=r"was made on the weights .*load the model it was made for"):
        attach(model, replace(made, fingerprint="0" * 64))
    other = tiny("opt" if model.d_model != tiny("opt").d_model else "bloom")
    if kind == "weights":
        with pytest.raises(TracerError, match=r"expected a last dimension of \d+, as wide as|does not have"):
            attach(other, made, force=True)
    assert inventory(model) == before
    if kind == "text":
        masked = tiny("bert")
        by_text = memory(model, "text", "string")
        with pytest.raises(TracerError, match="a masked model, does not go on from"):
            attach(masked, by_text, force=True)
    set_memories(other, [])
