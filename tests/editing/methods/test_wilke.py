"""WILKE: ROME at every layer as published, the layer that is chosen, and what the published choice does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
import torch
from goldens import relative
from handmade import own

import editing
from editing import Editor
from editing.covariance.covariance import Covariance
from editing.covariance.estimate import estimate_covariance
from editing.edits.edit import Edit
from tracer.engine.answer import knows
from tracer.model import Model

TOLERANCE = 1e-2
NUMBERS = {"v_steps": 20, "v_lr": 0.5, "v_weight_decay": 0.5, "clamp": 4.0, "kl_factor": 0.0625, "v_loss_layer": 5}


@pytest.fixture(scope="module")
def theirs(golden: Path) -> dict[str, Any]:
    return goldens.arrays(golden / "retrieval" / "wilke.npz")


@pytest.fixture(scope="module")
def settings(golden: Path, golden_model: Model, theirs: dict[str, Any]) -> dict[str, Any]:
    text = golden / "text.txt"
    covariance: Covariance = estimate_covariance(golden_model, range(6), text, window=64, max_tokens=20000, cache=False)
    templates = [str(text) for text in theirs["templates"]]
    return {**NUMBERS, "context_templates": templates, "covariance": covariance, "check": None, "known": "edit"}


def request(theirs: dict[str, Any], place: int, target: str = "new") -> dict[str, str]:
    names = {"prompt": "prompt", "subject": "subject", "target_new": f"target_{target}"}
    return {name: str(theirs[f"r{place}_{key}"]) for name, key in names.items()}


def seen(edit: Edit, name: str) -> Any:
    assert edit.evidence is not None
    return edit.evidence[name].numpy()


@pytest.fixture(scope="module")
def edits(golden_model: Model, theirs: dict[str, Any], settings: dict[str, Any]) -> list[Edit]:
    """Every request alone, at all layers, by the published rule."""
    groups = [request(theirs, place) for place in range(3)]
    return [editing.compute_edit(golden_model, one, "wilke", works=False, **settings) for one in groups]


@pytest.mark.parametrize("place", range(3))
def test_every_layer_is_tried_as_published(place: int, edits: list[Edit], theirs: dict[str, Any]) -> None:
    edit, expected = edits[place], theirs[f"r{place}_LA"]
    assert seen(edit, "tried").tolist() == list(range(6))
    np.testing.assert_allclose(seen(edit, "change")[0][:5], expected[:5], rtol=TOLERANCE)
    # the last layer's gradient is noise there, and nothing here
    assert seen(edit, "change")[0][5] == 0 and int(seen(edit, "layer")[0]) == int(theirs[f"r{place}_layer"]) == 5
    assert not seen(edit, "works")[0][5] and "the edit does not work for 1 of 1" in edit.note


def test_the_change_at_the_chosen_layer_is_romes(golden_model: Model, theirs: Any, settings: dict[str, Any]) -> None:
    edit = editing.compute_edit(golden_model, request(theirs, 1), "wilke", layers=(0, 4), works=False, **settings)
    (layer,) = seen(edit, "layer")
    change = edit.to_dense()[golden_model.down_projection(int(layer)).name]
    assert relative(change, np.outer(theirs["r1_u"][layer], theirs["r1_v"][layer])) < TOLERANCE
    alone = editing.compute_edit(golden_model, request(theirs, 1), "rome", layers=[int(layer)], **settings)
    assert torch.equal(change, alone.to_dense()[golden_model.down_projection(int(layer)).name])


def test_by_default_the_edit_has_to_work(golden_model: Model, theirs: Any, settings: dict[str, Any]) -> None:
    edit = editing.compute_edit(golden_model, request(theirs, 1), "wilke", layers=(0, 1, 5), **settings)
    works, change = (seen(edit, name)[0] for name in ("works", "change"))
    (layer,) = seen(edit, "layer")
    assert works.tolist() == [1, 0, 0] and layer == 0 and change[layer] == change[works > 0].min() > change.min()
    with edit.applied(golden_model):
        assert knows(golden_model, editing.EditRequest.of(request(theirs, 1)).fact)
    assert edit.note == "" and edit.settings["layers"] == [layer]


def test_edited_back_a_weight_is_not_what_it_was(golden_model: Model, theirs: Any, settings: dict[str, Any]) -> None:
    """The published protocol writes the old answer over the new one; undo gives the bits of before."""
    editor, start = Editor(golden_model), golden_model.fingerprint()
    name = golden_model.down_projection(0).name
    before = golden_model.hf.get_parameter(name).detach().clone()
    rule: dict[str, Any] = {"layers": (0, 4), "works": False, **settings}
    edit = editor.edit(request(theirs, 0), "wilke", **rule)
    assert int(seen(edit, "layer")[0]) == int(theirs["rollback_layers"][0]) == 0
    editor.edit(request(theirs, 0, "true"), "wilke", **{**rule, "layers": [0]})
    drift = float((golden_model.hf.get_parameter(name).detach() - before).norm())
    assert drift == pytest.approx(float(theirs["rollback_drift"][0, 0]), rel=5e-2)
    editor.undo(2)
    assert golden_model.fingerprint() == start


def test_requests_of_one_edit_each_have_their_layer(golden_model: Model, theirs: Any, settings: dict[str, Any]) -> None:
    """On top of those before: the second is what it would be as an edit of its own behind the first."""
    some = [request(theirs, 1), request(theirs, 2)]
    both = editing.compute_edit(golden_model, some, "wilke", layers=(0, 4), **settings)
    editor = Editor(golden_model)
    for one in some:
        editor.edit(one, "wilke", layers=(0, 4), **settings)
    layers = [int(seen(each.edit, "layer")[0]) for each in editor.history]
    assert seen(both, "layer").tolist() == layers
    for name, change in both.to_dense().items():
        assert relative(change, sum(e.edit.to_dense()[name] for e in editor.history if name in e.edit.factors)) < 1e-4
    editor.checkout(0)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_other_architectures(name: str, tiny: Callable[[str], Model]) -> None:
    """Where the edit works at no layer, the layer at which it comes nearest is taken, and that is said."""
    model = own(tiny(name))
    start, editor = model.fingerprint(), Editor(model)
    request = editing.EditRequest("{} is in", "The Space Needle", "Paris")
    edit = editor.edit(request, "wilke", mom2_adjustment=False, v_steps=3, context_templates=["{}"], check=None)
    works, nll, change = (seen(edit, key)[0] for key in ("works", "nll", "change"))
    (layer,) = seen(edit, "layer")
    assert not works.any() and "does not work for 1 of 1" in edit.note and nll[layer] == nll.min()
    assert change[layer] > 0 and list(edit.factors) == [model.down_projection(int(layer)).name]
    editor.undo()
    assert model.fingerprint() == start
