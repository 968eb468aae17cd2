"""What an edit by GRACE does by default: on every kind of model, one after the other, and where requests meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from asked import inventory
from codebooks import QUICK, REQUESTS, at, memory_of, only, target_of

from editing import Editor, EditRequest
from editing.memories import Memory, attached
from editing.memories.lines import packed
from editing.methods.compute import compute_edit
from editing.methods.context import EditContext
from tracer import Fact, Model, TracerError
from tracer.engine import Row
from tracer.engine.answer import own_answer
from tracer.engine.batch import frame_of, logits_of

Tiny = Callable[[str], Model]


# --- one edit ---------------------------------------------------------------------------------------------------------
def test_what_stands_at_the_site_is_the_value(gpt2: Model) -> None:
    """From the prompt's last token on, one value for each token of the target, then what there was."""
    edit = compute_edit(gpt2, REQUESTS[0], "grace", **at("grace", gpt2))
    prompt, target = list(REQUESTS[0].about(None).align(gpt2).input_ids), list(target_of(gpt2, REQUESTS[0]))
    memory, end = memory_of(edit), len(prompt) - 1
    row = Row((*prompt, *target[:-1], 5, 6), end, tuple(range(end, end + len(target))), tuple(target))

    def states() -> torch.Tensor:
        kept: list[torch.Tensor] = []
        handle = gpt2.module("mlp", 3).register_forward_hook(lambda _, __, output: kept.append(output[0]))
        with torch.no_grad():
            logits_of(gpt2, torch.tensor([row.ids]), frame=frame_of(gpt2, [row], len(row.ids)))
        handle.remove()
        return kept[-1]  # the forward before it, if any, decides

    plain = states()
    with edit.applied(gpt2):
        found = states()
    inside = slice(end, end + len(target))
    assert torch.equal(found[inside], memory.tensors["values"])
    assert torch.equal(found[:end], plain[:end]) and torch.equal(found[end + len(target) :], plain[end + len(target) :])
    assert (found[inside] - plain[inside]).abs().max() > 0.1


def test_it_edits_masked_models_at_the_mask(tiny: Tiny) -> None:
    model = tiny("bert")
    request = EditRequest("{} is in [MASK] now", "The Space Needle", "Paris")
    other = Fact("{} is in [MASK] now", "Miles Davis", "Paris")
    before = own_answer(model, other)
    edit = compute_edit(model, request, "grace", layers=[1], radius=1e-3, **QUICK)
    with edit.applied(model):
        assert tuple(own_answer(model, request.fact)) == target_of(model, request)
        assert own_answer(model, other) == before
    measured = compute_edit(model, request, "grace", **{**QUICK, "steps": 1})
    assert measured.settings["radius"] > 0 and "of no layer can tell the question from one about" in measured.note
    assert measured.settings["layers"][0] in range(model.n_layers)
    last = compute_edit(
        model, request, "grace", layers=[1], radius=1e-3, key_token="last", replacement="replace_prompt", **QUICK
    )
    with last.applied(model):
        assert own_answer(model, other) == before


# --- many edits -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rule", [{}, {"split": "shrink"}, {"split": "shrink", "expand": "coverage"}])
def test_no_edit_is_lost_to_one_that_is_near(gpt2: Model, rule: dict) -> None:
    """With a radius that takes in every prompt, entries of other targets meet; each prompt keeps its own answer."""
    editor = Editor(gpt2)
    for request in (*REQUESTS, replace(REQUESTS[0], prompt="{} lies in")):
        edit = editor.edit(request, "grace", **{**at("grace", gpt2), "radius": 100.0, **rule})
        assert edit.note == ""
    memory = only(gpt2)
    assert len(memory.tensors["keys"]) == (3 if "expand" in rule else 4)
    for request in (*REQUESTS, replace(REQUESTS[0], prompt="{} lies in")):
        assert tuple(own_answer(gpt2, request.fact)) == target_of(gpt2, request)
    assert ("split" in rule) == bool((memory.tensors["radii"] < 100).any())
    editor.checkout(0)


def test_what_a_published_split_loses_is_told(gpt2: Model) -> None:
    rule = {"expand": "coverage", "split": "half", "overwrite": False, "radius": 100.0}
    editor = Editor(gpt2)
    twin = replace(REQUESTS[0], prompt="{} lies in")
    between = replace(REQUESTS[0], prompt="{} lay in", target_new=" the")
    notes = [editor.edit(one, "grace", **{**at("grace", gpt2), **rule}).note for one in (REQUESTS[0], twin, between)]
    said = tuple(own_answer(gpt2, twin.fact)) == target_of(gpt2, twin)
    assert notes[:2] == ["", ""] and (f"no longer answered as edited: {twin.text!r}" in notes[2]) != said
    editor.checkout(0)


# --- what is measured -------------------------------------------------------------------------------------------------
def test_layer_and_radius_are_measured_once_on_the_request(golden_model: Model) -> None:
    context = EditContext(golden_model)
    request = EditRequest("{} is employed by", "Worcu Chebror", " Sorho Media")
    one = compute_edit(golden_model, request, "grace", context=context, **{**QUICK, "steps": 1})
    key = memory_of(one).tensors["keys"][0]
    assert one.settings["layers"] == [5]  # the last: before, the last token hardly knows whom it is about
    assert 0.2 < one.settings["radius"] / float(key.norm()) < 1
    kept = context.measured._kept["separation"]
    (of,) = kept.values()
    assert of[5].ratio == max(each.ratio for each in of.values()) and of[1].ratio < 1.1
    compute_edit(golden_model, request, "grace", context=context, **{**QUICK, "steps": 1})
    assert len(kept) == 1
    again = compute_edit(golden_model, request, "grace", **{**QUICK, "steps": 1})
    assert again.settings == one.settings
    with one.applied(golden_model):  # the codebook that is there says the layer
        more = compute_edit(golden_model, replace(request, subject="Pelcha Peavel"), "grace", **{**QUICK, "steps": 1})
        assert more.settings["layers"] == [5] and len(more.memories[0].rows["keys"]) == 1


# --- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [9]}, "layer 9"),
        ({"layers": [1, 2]}, "a codebook stands at one layer"),
        ({"radius": -1.0}, "radius is -1.0; expected a number above zero"),
        ({"radius": float("nan")}, "radius is nan"),
        ({"lr": 0}, "lr is 0; expected a number above zero"),
        ({"steps": 0}, "steps is 0; expected a whole number"),
        ({"replacement": "last"}, "replacement is 'last'; expected one of 'answer', 'replace_last'"),
        ({"read": "embed"}, "read is 'embed'; expected one of 'hidden'"),
        ({"split": True}, "split is True; expected one of 'none', 'shrink', 'half'"),
        ({"seed": -1}, "seed is -1"),
        ({"name": ""}, "name is ''; expected that of a memory"),
        ({"lr": 1e30}, "the loss is not finite .* smaller lr"),
        ({"eps": 1.0}, "grace has no hyper-parameter 'eps'"),
    ],
)
def test_settings_that_cannot_be_are_refused(gpt2: Model, settings: dict, message: str) -> None:
    before = inventory(gpt2)
    with pytest.raises(TracerError, match=message):
        compute_edit(gpt2, REQUESTS[0], "grace", **{**at("grace", gpt2), **settings})
    assert inventory(gpt2) == before


def test_a_codebook_takes_only_edits_of_its_own_sites(gpt2: Model) -> None:
    with compute_edit(gpt2, REQUESTS[0], "grace", **at("grace", gpt2)).applied(gpt2):
        with pytest.raises(
            TracerError, match=r"has layer=3, and this edit asks for 2; leave that to it, or give .*name="
        ):
            compute_edit(gpt2, REQUESTS[1], "grace", layers=[2], radius=1.0, **QUICK)
        with pytest.raises(TracerError, match="has replacement='answer', and this edit asks for 'replace_all'"):
            compute_edit(gpt2, REQUESTS[1], "grace", replacement="replace_all", radius=1.0, **QUICK)
        second = compute_edit(gpt2, REQUESTS[1], "grace", layers=[2], radius=1e-3, name="other", **QUICK)
        with second.applied(gpt2):
            assert [memory.name for memory in gpt2.memories] == ["grace", "other"]
            for request in REQUESTS[:2]:
                assert tuple(own_answer(gpt2, request.fact)) == target_of(gpt2, request)
    toy = Memory(
        "grace",
        "patch",
        gpt2.weights_fingerprint(),
        {"keys": torch.ones(1, 32), "values": torch.ones(1, 32)},
        {"layer": 0},
    )
    with attached(gpt2, toy), pytest.raises(TracerError, match="is of kind 'patch', not 'grace'"):
        compute_edit(gpt2, REQUESTS[1], "grace", **at("grace", gpt2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: t.pop("radii"), "'radii' of the memory 'grace' is missing"),
        (lambda t, h: h.pop("layer"), "'layer' of the memory 'grace' is missing"),
        (lambda t, h: t.update(keys=torch.ones(2, 7)), r"'keys' .* is \[2, 7\]; expected a last dimension of 32"),
        (lambda t, h: t.update(values=t["values"][:, :5]), "'values' .* expected a last dimension of 32"),
        (lambda t, h: t.update(values=t["values"][1:]), "claim .* values of .*every value claimed once"),
        (lambda t, h: t.update(counts=t["counts"] + 7), "claim .* values of"),
        (lambda t, h: t.update(radii=t["radii"][:1]), "2 keys, 1 radii, 2 counts"),
        (lambda t, h: t.update(about=t["about"][:-9]), "are not one line for each of its 2 entries"),
        (lambda t, h: t.update(about=packed([{}])), "are not one line for each of its 2 entries"),
        (lambda t, h: h.update(replacement="soft"), "'replacement' .* is 'soft'; expected one of 'answer'"),
        (lambda t, h: h.update(layer=8), "does not fit .*layer 8"),
    ],
)
def test_a_memory_that_cannot_act_is_not_attached(gpt2: Model, change: Callable, message: str) -> None:
    memory = memory_of(compute_edit(gpt2, REQUESTS[:2], "grace", **{**at("grace", gpt2), "steps": 1}))
    tensors, header = dict(memory.tensors), dict(memory.header)
    change(tensors, header)
    with pytest.raises(TracerError, match=message), attached(gpt2, replace(memory, tensors=tensors, header=header)):
        pass
    with pytest.raises(TracerError, match="holds NaN or infinity"):
        replace(memory, tensors={**memory.tensors, "keys": memory.tensors["keys"] * torch.nan})
    assert not gpt2.memories
