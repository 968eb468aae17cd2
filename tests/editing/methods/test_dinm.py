"""DINM: its layer, losses and change as published; the same loop by hand; what is held, refused and undone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import goldens
import numpy as np
import pytest
import torch
from goldens import relative

import editing
from editing import EditRequest
from editing.edits.edit import load_edit
from editing.edits.weights import applied
from editing.methods import dinm
from editing.methods.beside import Beside, row_of
from editing.methods.context import EditContext
from editing.methods.ft import added, zeros_for
from tracer import TracerError
from tracer.engine.answer import knows
from tracer.engine.batch import Row
from tracer.engine.hooks import evaluating, frozen
from tracer.model import Model, load

ARCHITECTURES = ("gpt2", "llama", "opt", "gemma2")
SAFE = EditRequest("{} is in downtown", "The Space Needle", "the cello", "Paris")
OTHER = EditRequest("In {} they speak", "Uppsala", "Paris")
PUBLISHED: dict[str, Any] = {"steps": 10, "stop_loss": 1e-4}
HELD = (("The capital of France is", "Paris"), ("They speak", "the cello"))


@pytest.fixture(scope="module")
def theirs(golden: Path) -> dict[str, Any]:
    return goldens.arrays(golden / "retrieval" / "dinm.npz")


def ids(model: Model, text: Any) -> tuple[int, ...]:
    return tuple(model.tokenizer(str(text))["input_ids"])


@pytest.fixture(scope="module")
def trained(golden_model: Model, theirs: dict[str, Any]) -> dict[str, Any]:
    """The published run: two spaces before the answer, the constraint one place late and without a gradient, a bias."""
    model, layer = golden_model, int(theirs["layer"])
    found = EditRequest(f"{theirs['prompt']} ".replace("Cudran Lipai", "{}"), "Cudran Lipai", "painter").fact.align(
        model
    )
    aligned = dataclasses.replace(found, target_ids=ids(model, f" {theirs['safe']}"))
    asked: Any = SimpleNamespace(fact=SimpleNamespace(align=lambda _: aligned))
    whole, alone = (ids(model, text) for text in (" ".join(theirs["constraint"]), theirs["constraint"][1]))
    answers = [row_of(model, asked)]
    held = [Row(whole, 0, tuple(range(len(whole) - len(alone), len(whole))))]
    trials = EditContext(model).measured.trials
    own, kept = (Beside(model, rows, (layer,), trials, None) for rows in (answers, held))
    # beside such a weight of the answer the constraint's gradient is nothing to Adam
    settings = dinm.DINMSettings(layers=(layer,), lr=float(theirs["lr"]), steps=int(theirs["steps"]), nll_factor=1e5)
    deltas, bias = zeros_for(model, (layer,)), torch.zeros(model.d_model, requires_grad=True)
    module = model.module("key", layer)

    def biased(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output + bias

    handle = module.register_forward_hook(biased)
    try:
        with evaluating(model), frozen(model), added(model, deltas):
            curves: Any = dinm.train(model, dinm.Rows(answers, own, kept, (layer,)), [deltas[layer], bias], settings)
    finally:
        handle.remove()
    return {**curves, "delta": deltas[layer].detach(), "bias": bias.detach()}


def test_the_layer_is_found_as_published(golden_model: Model, theirs: dict[str, Any]) -> None:
    safe, unsafe = (ids(golden_model, text) for text in theirs["located_on"])
    found = dinm.distances(golden_model, safe, unsafe)
    np.testing.assert_allclose(found, theirs["distances"], rtol=1e-5)
    assert int(found.argmax()) == int(theirs["layer"]) == 4
    plain = dinm.distances(golden_model, safe, unsafe, normed=False)
    assert torch.equal(plain[:5], found[:5]) and plain[5] > found[5] * 2  # the final norm alone makes the last small


def test_losses_and_changes_are_the_published_ones(trained: dict[str, Any], theirs: dict[str, Any]) -> None:
    np.testing.assert_allclose(trained["loss"][:-1, 0] / 10, theirs["edit_times_tenth"], rtol=1e-4)
    np.testing.assert_allclose(trained["constraint"][:-1], theirs["constraint_kl"], rtol=2e-2, atol=1e-7)
    total = trained["loss"][:-1, 0] / 10 + trained["constraint"][:-1]
    np.testing.assert_allclose(total, theirs["total"], rtol=1e-4)
    weight, bias = trained["delta"], trained["bias"]
    np.testing.assert_allclose([weight.norm(), bias.norm()], theirs["delta_norms"], rtol=1e-3)
    assert relative(weight.flatten()[:512], theirs["delta_first"]) < 2e-3


def test_the_whole_edit_is_near_the_published_one(golden_model: Model, theirs: dict[str, Any]) -> None:
    """One space, the weight alone, and a constraint that has a gradient."""
    request = EditRequest("{} works as a", "Cudran Lipai", "painter", "architect")
    constraint: Any = [tuple(map(str, theirs["constraint"]))]
    settings: dict[str, Any] = {"lr": 5e-4, "constraints": constraint, "check": None, **PUBLISHED}
    edit = editing.compute_edit(golden_model, request, "dinm", **settings)
    assert edit.settings["layers"] == [4] and list(edit.factors) == [golden_model.down_projection(4).name]
    np.testing.assert_allclose(edit.evidence["distances"][0], theirs["distances"], rtol=1e-5)  # type: ignore[index]
    (change,) = edit.to_dense().values()
    assert float(change.norm()) == pytest.approx(float(theirs["delta_norms"][0]), rel=5e-2)
    first, last = edit.evidence["loss"][[0, -1], 0].tolist()  # type: ignore[index]
    assert f"goes from {first:.3g} to {last:.3g} nats a token" in edit.note and last < first - 3


# --- the loop by hand -------------------------------------------------------------------------------------------------
def by_hand(model: Model, requests: Sequence[EditRequest], settings: dinm.DINMSettings) -> dict[str, torch.Tensor]:
    """Adam on the weights of a copy of the model, every forward whole: [change of each weight by name]."""
    own = Model.of(copy.deepcopy(model.hf), model.tokenizer)
    names = [model.down_projection(layer).name for layer in settings.layers or ()]
    weights = [own.hf.get_parameter(name) for name in names]
    before = [weight.detach().clone() for weight in weights]

    def log_probs(prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
        logits = own.hf(torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :]
        return logits.log_softmax(-1)

    def aligned(request: EditRequest) -> tuple[tuple[int, ...], tuple[int, ...]]:
        found = request.fact.align(own)
        return found.input_ids, found.target_ids

    held = [aligned(EditRequest("{}", prompt, answer)) for prompt, answer in settings.constraints or ()]
    with torch.no_grad():
        old = torch.cat([log_probs(*each) for each in held])
    assert settings.lr is not None
    optimizer = torch.optim.Adam(weights, lr=settings.lr)
    for _ in range(settings.steps):
        losses = []
        for prompt, answer in map(aligned, requests):
            losses.append(-log_probs(prompt, answer)[range(len(answer)), list(answer)].mean())
        now = torch.cat([log_probs(*each) for each in held])
        loss = settings.nll_factor * torch.stack(losses).mean() + (old.exp() * (old - now)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: (new - was).detach() for name, new, was in zip(names, weights, before, strict=True)}


@pytest.mark.parametrize("layers", [(1,), (0, 2)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_change_is_that_of_whole_forwards(
    name: str, layers: tuple[int, ...], tiny_folder: Callable[[str], Path]
) -> None:
    model = load(tiny_folder(name), dtype=torch.float64)
    before = model.fingerprint()
    given: dict[str, Any] = {"layers": layers, "constraints": HELD, "lr": 3e-3, "steps": 5}
    edit = editing.compute_edit(model, [SAFE, OTHER], "dinm", check=None, **given)
    expected = by_hand(model, [SAFE, OTHER], dinm.DINMSettings(**given))
    assert edit.factors.keys() == expected.keys() and model.fingerprint() == before
    for weight, change in expected.items():
        u, v = edit.factors[weight]
        # where a gradient is next to nothing, Adam divides rounding by rounding
        assert relative(u.double() @ v.double().T, change) < 1e-5
        assert change.abs().max() > 5e-3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_layer_is_that_of_hidden_states(name: str, tiny: Callable[[str], Model]) -> None:
    """Of the model's own `hidden_states`, with the answer that is given, and with what the model says."""
    model = tiny(name)
    for request in (SAFE, OTHER):
        (found,) = dinm.located(model, [request], normed=True)
        prompt, safe = request.fact.align(model).input_ids, request.fact.align(model).target_ids
        with torch.no_grad():
            if request.target_true is None:
                logits = model.hf(torch.tensor([[*prompt, *safe[:-1]]])).logits[0, len(prompt) - 1 :]
                wrong = logits.argmax(-1).tolist()
            else:
                wrong = request.about(request.target_true).align(model).target_ids
            common = min(len(safe), len(wrong))
            rows = torch.tensor([[*prompt, *safe[:common]], [*prompt, *wrong[:common]]])
            states = copy.deepcopy(model.hf)(rows, output_hidden_states=True).hidden_states[1:]
        assert len(states) == model.n_layers
        np.testing.assert_allclose(found, [float((s[0] - s[1]).norm()) for s in states], rtol=1e-4)


def test_several_requests_have_a_layer_each(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    edit = editing.compute_edit(model, [SAFE, OTHER], "dinm", check=None, constraints=HELD, **PUBLISHED)
    found = edit.evidence["distances"].argmax(1).tolist()  # type: ignore[index]
    assert edit.settings["layers"] == sorted(set(found))
    assert set(edit.factors) == {model.down_projection(layer).name for layer in found}
    assert edit.evidence["loss"].shape == (11, 2) and edit.evidence["constraint"].shape == (11,)  # type: ignore[index]


# --- what it does ----------------------------------------------------------------------------------------------------
def test_what_is_held_moves_less(tiny: Callable[[str], Model]) -> None:
    model = tiny("llama")
    moved = {}
    for factor in (1e-3, 1e3):
        given: dict[str, Any] = {"layers": [2], "constraints": HELD, "nll_factor": factor, "lr": 3e-3, "steps": 30}
        edit = editing.compute_edit(model, SAFE, "dinm", check=None, **given)
        moved[factor] = float(edit.evidence["constraint"][-1])  # type: ignore[index]
        assert edit.evidence["constraint"][0] == 0  # type: ignore[index]
    assert 0 < moved[1e-3] < moved[1e3] / 10


def test_an_edit_like_any_other(tmp_path: Path) -> None:
    """On the embedded model: it works, is undone to the bit, saved and loaded; plain text is held by default."""
    model = load()
    request = EditRequest("{} is a city in", "Anchorage", "nothing", "the United States")
    editor, before = editing.Editor(model), model.fingerprint()
    edit = editor.edit(request, "dinm", layers=[2])
    assert knows(model, request.fact) and edit.evidence["loss"][0, 0] > 1  # type: ignore[index]
    assert model.fingerprint() != before and edit.settings["constraints"] is None
    editor.undo()
    assert model.fingerprint() == before
    again = load_edit(edit.save(tmp_path / "edit.safetensors"))
    with applied(model, again.factors):
        after = model.fingerprint()
    with edit.applied(model):
        assert model.fingerprint() == after != before


def test_training_ends_where_the_loss_is_low(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    given: dict[str, Any] = {"layers": [1], "constraints": HELD, "check": None}
    edit = editing.compute_edit(model, SAFE, "dinm", stop_loss=100.0, **given)
    assert edit.evidence["loss"].shape == (1, 1)  # type: ignore[index]
    assert not any(change.any() for change in edit.to_dense().values())


# --- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"nll_factor": 0}, "nll_factor is 0"),
        ({"stop_loss": -1}, "stop_loss is -1"),
        ({"layers": ()}, "layers is empty"),
        ({"constraints": ["Paris"]}, "expected pairs of a prompt and its answer"),
        ({"constraints": []}, "expected pairs of a prompt and its answer"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        dinm.DINMSettings(**wrong)


def test_answers_that_begin_alike_and_layers_that_are_not_there(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    alike = EditRequest("{} is in downtown", "The Space Needle", "the cello", "the cello and more")
    with pytest.raises(TracerError, match="begin alike, so that no layer tells them apart"):
        editing.compute_edit(model, alike, "dinm", check=None)
    with pytest.raises(TracerError, match="layer from 0 to 3, got 4"):
        editing.compute_edit(model, SAFE, "dinm", layers=[4], check=None)
