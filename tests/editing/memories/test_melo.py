"""What an edit by MELO does by default: which block acts, where LoRA acts, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from asked import inventory
from codebooks import QUICK, REQUESTS, at, memory_of, only, target_of

from editing import Editor
from editing.memories import attached
from editing.methods.compute import compute_edit
from tracer import Model, TracerError
from tracer.engine import Row
from tracer.engine.answer import own_answer
from tracer.engine.batch import frame_of, logits_of
from tracer.engine.frame import Frame, attach


def test_a_block_acts_at_every_token_between_its_sites(gpt2: Model) -> None:
    edit = compute_edit(gpt2, REQUESTS[0], "melo", **at("melo", gpt2))
    memory, prompt = memory_of(edit), tuple(REQUESTS[0].about(None).align(gpt2).input_ids)
    row, kept = Row((*prompt, 5, 6), 0, (len(prompt) - 1,)), {}

    def states() -> list[torch.Tensor]:
        handles = [
            attach(gpt2, kind, 0, lambda y, kind=kind: kept.update({kind: y[0]}), Frame()) for kind in ("key", "value")
        ]
        with torch.no_grad():
            logits_of(gpt2, torch.tensor([row.ids]), frame=frame_of(gpt2, [row], len(row.ids)))
        for handle in handles:
            handle.remove()
        return [kept["key"], kept["value"]]

    plain = states()
    with edit.applied(gpt2):
        found = states()
    a, b = memory.tensors["a"][0, 0], memory.tensors["b"][0, 0]
    assert torch.equal(found[0], plain[0])  # the first of the layers: what enters is as it was
    assert torch.allclose(found[1] - plain[1], 200.0 * (plain[0] @ a.T @ b), atol=1e-3)
    assert (found[1] - plain[1]).abs().amax(1).min() > 1e-3


def test_requests_share_blocks_and_each_prompt_finds_its_own(gpt2: Model) -> None:
    shared = compute_edit(gpt2, REQUESTS, "melo", **{**at("melo", gpt2), "edits_per_block": 2, "steps": 100})
    memory = memory_of(shared)
    assert memory.tensors["blocks"].tolist() == [0, 0, 1] and len(memory.tensors["a"]) == 2
    with shared.applied(gpt2):
        for request in REQUESTS:
            assert tuple(own_answer(gpt2, request.fact)) == target_of(gpt2, request)


def test_a_block_that_no_prompt_needs_any_more_is_used_again(gpt2: Model) -> None:
    editor = Editor(gpt2)
    for request in (*REQUESTS[:2], replace(REQUESTS[0], target_new=" the city")):
        editor.edit(request, "melo", **at("melo", gpt2))
    memory = only(gpt2)
    assert len(memory.tensors["a"]) == 2 and memory.tensors["blocks"].tolist() == [1, 0]
    editor.checkout(0)


def test_what_a_published_split_forgets_is_told(gpt2: Model) -> None:
    """A cluster of three prompts with one target, and a fourth prompt with another one amid them."""
    editor = Editor(gpt2)
    rule = {**at("melo", gpt2), "expand": "mean", "split": "half", "overwrite": False, "radius": 50.0, "steps": 1}
    for prompt in ("{} is in", "{} lies in", "{} stands in"):
        edit = editor.edit(replace(REQUESTS[0], prompt=prompt), "melo", **rule)
        assert "left" not in edit.note and "leaves" not in edit.note
    memory = only(gpt2)
    assert memory.tensors["clusters"].tolist() == [0, 0, 0] and float(memory.tensors["radii"][0]) == 50
    edit = editor.edit(replace(REQUESTS[0], prompt="{} was in", target_new=" the city"), "melo", **rule)
    assert edit.evidence is not None and int(edit.evidence["conflicts"]) == 1
    assert (int(edit.evidence["forgotten"]) > 0) == ("no longer answered as edited" in edit.note)
    assert float(only(gpt2).tensors["radii"].max()) < 50
    editor.checkout(0)


def test_the_layer_of_the_keys_is_measured_and_may_be_behind_the_blocks(golden_model: Model) -> None:
    request = replace(REQUESTS[0], prompt="{} is employed by", subject="Worcu Chebror", target_new=" Sorho Media")
    edit = compute_edit(golden_model, request, "melo", **{**QUICK, "steps": 1})
    memory = memory_of(edit)
    assert edit.settings["key_layer"] == 5 and edit.settings["layers"] == [1, 2, 3]
    assert 0.2 < float(memory.tensors["radii"]) / float(memory.tensors["points"].norm()) < 1
    assert [site[1] for site in memory.sites()] == [5, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [9]}, "layer 9"),
        ({"key_layer": 9}, "layer 9"),
        ({"key_layer": -1}, "key_layer is -1; expected a whole number"),
        ({"radius": 0.0}, "radius is 0.0; expected a number above zero"),
        ({"rank": 0}, "rank is 0; expected a whole number of at least 1"),
        ({"edits_per_block": 0}, "edits_per_block is 0"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"compare": "mean"}, "compare is 'mean'; expected one of 'ids', 'sum'"),
        ({"halve_every": -1}, "halve_every is -1"),
        ({"lr": 1e30}, "the loss is not finite .* smaller lr"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"name": 3}, "name is 3; expected that of a memory"),
    ],
)
def test_settings_that_cannot_be_are_refused(gpt2: Model, settings: dict, message: str) -> None:
    before = inventory(gpt2)
    with pytest.raises(TracerError, match=message):
        compute_edit(gpt2, REQUESTS[0], "melo", **{**at("melo", gpt2), **settings})
    assert inventory(gpt2) == before


def test_it_takes_no_masked_model_and_no_memory_of_other_sites(gpt2: Model, tiny: Callable[[str], Model]) -> None:
    with pytest.raises(TracerError, match="melo edits models that predict the next token"):
        compute_edit(tiny("bert"), replace(REQUESTS[0], prompt="{} is in [MASK]"), "melo", **at("melo", tiny("bert")))
    with compute_edit(gpt2, REQUESTS[0], "melo", **at("melo", gpt2)).applied(gpt2):
        for settings, told in (
            ({"layers": [1]}, r"has layers=\[0, 2\]"),
            ({"rank": 3}, "has rank=4"),
            ({"key_layer": 1}, "has layer=3"),
        ):
            with pytest.raises(TracerError, match=f"{told}, and this edit asks for .*name='melo-2'"):
                compute_edit(gpt2, REQUESTS[1], "melo", **{**at("melo", gpt2), **settings})
        with pytest.raises(TracerError, match="is of kind 'melo', not 'grace'"):
            compute_edit(gpt2, REQUESTS[1], "grace", **at("grace", gpt2), name="melo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: t.pop("a"), "'a' of the memory 'melo' is missing"),
        (lambda t, h: h.pop("scale"), "'scale' of the memory 'melo' is missing"),
        (lambda t, h: t.update(points=torch.ones(2, 7)), r"'points' .* is \[2, 7\]; expected a last dimension of 32"),
        (lambda t, h: t.update(b=t["b"][..., :5]), "'b' .* expected a last dimension of 32"),
        (lambda t, h: t.update(b=t["b"][:, :, :2]), "do not belong together"),
        (lambda t, h: t.update(clusters=t["clusters"] + 1), "2 points of 2 clusters and 2 blocks, .* out of range"),
        (lambda t, h: t.update(blocks=t["blocks"] + 1), "out of range"),
        (lambda t, h: t.update(radii=t["radii"][:1]), "another length"),
        (lambda t, h: t.update(about=t["about"][:-9]), "are not one line for each of its 2 entries"),
        (lambda t, h: h.update(layers=[0, 8]), "does not fit .*layer 8"),
    ],
)
def test_a_memory_that_cannot_act_is_not_attached(gpt2: Model, change: Callable, message: str) -> None:
    memory = memory_of(compute_edit(gpt2, REQUESTS[:2], "melo", **{**at("melo", gpt2), "steps": 1}))
    tensors, header = dict(memory.tensors), dict(memory.header)
    change(tensors, header)
    with pytest.raises(TracerError, match=message), attached(gpt2, replace(memory, tensors=tensors, header=header)):
        pass
    assert not gpt2.memories
