"""Fine-tuning down-projections: the published loop on the weight itself, on every architecture, and what is left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from torch import Tensor

import tracer
from editing.edits.weights import applied
from editing.methods.compute import compute_edit
from editing.methods.context import EditContext
from editing.methods.ft import FTLSettings, FTMSettings, added, whole_factors
from editing.methods.ft import plan as planned
from editing.methods.method import Change
from editing.methods.training import Schedule, lesson, losses
from editing.request import EditRequest
from tracer import TracerError
from tracer.engine.answer import knows
from tracer.engine.hooks import evaluating
from tracer.model import Model, load

Tiny = Callable[[str], Model]
CAUSAL = tuple(name for name in checkpoints.ARCHITECTURES if name != "bert")
SETTINGS = {"ft_l": FTLSettings, "ft_m": FTMSettings}
REQUEST = EditRequest("{} is in downtown", "The Space Needle", "Paris")
OTHER = EditRequest("In {} they speak", "Uppsala", "the cello")
STRONG: dict[str, Any] = {"layers": (1, 2), "lr": 0.01, "norm_constraint": 0.08, "steps": 6}


def plan(model: Any, groups: Any, settings: Any) -> Any:
    return planned(model, groups, settings, EditContext(model))


@pytest.fixture
def left_alone() -> Any:
    """``left_alone(model)`` now, and whatever can be seen of it is the same after the test."""
    seen = []

    def state(model: Model) -> Any:
        modules = list(model.hf.modules())
        return (
            model.fingerprint(),
            [parameter.requires_grad for parameter in model.hf.parameters()],
            [parameter.grad is None for parameter in model.hf.parameters()],
            [module.training for module in modules],
            [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules],
        )

    def watch(model: Model) -> Model:
        seen.append((model, state(model), torch.get_rng_state()))
        return model

    yield watch
    assert seen
    for model, before, drawn in seen:
        assert state(model) == before
        assert torch.equal(torch.get_rng_state(), drawn)


def loss_of(model: Model, requests: Sequence[EditRequest], objective: str) -> Tensor:
    with torch.no_grad():
        return losses(model, [lesson(model, request, objective) for request in requests])


def dense(change: Change) -> dict[str, Tensor]:
    return {name: u.double() @ v.double().T for name, (u, v) in change.factors.items()}


# --- losses ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CAUSAL)
def test_losses_are_those_of_each_prompt_alone(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    for request in (REQUEST, OTHER):
        found = request.fact.align(model)
        with torch.no_grad():
            behind = model.hf(torch.tensor([found.input_ids])).logits[0, -1].log_softmax(-1)
            whole = model.hf(torch.tensor([found.input_ids + found.target_ids])).logits[0].log_softmax(-1)
        last = -torch.stack([behind[i] for i in found.target_ids]).mean()
        start = len(found.input_ids) - 1
        each = -torch.stack([whole[start + k, i] for k, i in enumerate(found.target_ids)]).mean()
        # one row, and padded beside another
        for requests, place in (([request], 0), ([OTHER, request, REQUEST], 1)):
            assert loss_of(model, requests, "prompt_last")[place] == pytest.approx(float(last), rel=1e-5)
            assert loss_of(model, requests, "target_new")[place] == pytest.approx(float(each), rel=1e-5)
        assert len(found.target_ids) == 1 or abs(last - each) > 1e-4


# --- the published loop ----------------------------------------------------------------------------------------------
def published_loop(model: Model, requests: Sequence[EditRequest], settings: FTLSettings) -> dict[str, Tensor]:
    """Adam on the weights of a copy of the model, as published: [change of each weight by name]."""
    own = Model.of(copy.deepcopy(model.hf), model.tokenizer)
    names = [model.down_projection(layer).name for layer in settings.layers or ()]
    weights = [own.hf.get_parameter(name) for name in names]
    before = [weight.detach().clone() for weight in weights]
    assert settings.lr is not None
    optimizer = torch.optim.Adam(weights, lr=settings.lr, weight_decay=settings.weight_decay)
    for _ in range(settings.steps):
        for start in range(0, len(requests), settings.batch_size):
            optimizer.zero_grad()
            terms = []
            for request in requests[start : start + settings.batch_size]:
                found = request.fact.align(own)
                ids = torch.tensor([found.input_ids + found.target_ids[:-1]])
                logp = own.hf(ids).logits[0].log_softmax(-1)
                first = len(found.input_ids) - 1
                steps = range(len(found.target_ids))
                at = [first + (k if settings.objective == "target_new" else 0) for k in steps]
                terms.append(-logp[at, list(found.target_ids)].mean())
            loss = torch.stack(terms).mean()
            if loss >= settings.stop_loss:
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                for weight, old in zip(weights, before, strict=True):
                    if settings.norm_constraint:
                        bound = settings.norm_constraint
                        weight.copy_(torch.clamp(weight, old - bound, old + bound))
    return {n: (w - old).detach() for n, w, old in zip(names, weights, before, strict=True)}


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gemma2"])
def test_equals_the_published_loop(name: str, method: str, tiny_folder: Any, left_alone: Any) -> None:
    model = left_alone(load(tiny_folder(name), dtype=torch.float64))
    more: tuple[dict[str, Any], ...] = ({}, {"batch_size": 1, "weight_decay": 0.3}, {"norm_constraint": False})
    for extra in more:
        settings = SETTINGS[method](**{**STRONG, **extra})
        (found,) = plan(model, [(REQUEST, OTHER)], settings)
        expected = published_loop(model, (REQUEST, OTHER), settings)
        assert set(found.factors) == set(expected)
        for weight, change in dense(found).items():
            # factors are float32; a first step of Adam is all sign
            torch.testing.assert_close(change, expected[weight], rtol=1e-5, atol=1e-8)
            assert change.abs().max() > 0.02


# --- every architecture ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("name", CAUSAL)
def test_the_change_is_the_state_that_training_reached(name: str, method: str, tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny(name))
    settings = SETTINGS[method](**STRONG)
    (found,) = plan(model, [(REQUEST, OTHER)], settings)
    curve = found.evidence["loss"]
    assert curve.shape == (settings.steps + 1, 2)
    torch.testing.assert_close(curve[0], loss_of(model, (REQUEST, OTHER), settings.objective))
    assert (curve[-1] < curve[0] - 0.1).all()
    downs = {layer: model.down_projection(layer) for layer in (1, 2)}
    deltas = {layer: dense(found)[down.name].float() for layer, down in downs.items()}
    ids = torch.tensor([REQUEST.fact.align(model).input_ids])
    with torch.no_grad(), added(model, deltas):
        reached = model.hf(ids).logits
    with torch.no_grad(), applied(model, found.factors):
        torch.testing.assert_close(model.hf(ids).logits, reached, rtol=1e-5, atol=1e-5)
        now = loss_of(model, (REQUEST, OTHER), settings.objective)
    torch.testing.assert_close(now, curve[-1], rtol=1e-4, atol=1e-5)
    for change in dense(found).values():
        bound = STRONG["norm_constraint"]
        assert 0.4 * bound < change.abs().max() <= bound * (1 + 1e-6)


def test_groups_do_not_know_of_each_other(tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny("gpt2"))
    settings = FTMSettings(**STRONG)
    both = plan(model, [(REQUEST,), (OTHER,)], settings)
    for found, request in zip(both, (REQUEST, OTHER), strict=True):
        (alone,) = plan(model, [(request,)], settings)
        for name, pair in alone.factors.items():
            assert all(torch.equal(a, b) for a, b in zip(pair, found.factors[name], strict=True))


def test_a_request_that_is_learnt_is_left_out(tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny("gpt2"))
    first = loss_of(model, (REQUEST, OTHER), "target_new")
    limit = float(first.mean())  # between the two
    easy, hard = (REQUEST, OTHER) if first[0] < first[1] else (OTHER, REQUEST)
    one = {**STRONG, "steps": 1, "stop_loss": limit}
    (together,) = plan(model, [(easy, hard)], FTMSettings(**one))
    (alone,) = plan(model, [(hard,)], FTMSettings(**one))
    for name, change in dense(alone).items():
        # the mean over two halves the gradient, which Adam feels where it is next to nothing
        assert (dense(together)[name] - change).norm() < 1e-2 * change.norm()
        assert change.abs().max() > 0.005
    (nothing,) = plan(model, [(easy,)], FTMSettings(**one))
    assert all(not change.any() for change in dense(nothing).values())
    assert (nothing.evidence["loss"] == nothing.evidence["loss"][0]).all() and not nothing.note
    assert (
        "1 of 1 requests end above a loss of 0.01; the highest is"
        in plan(model, [(easy,)], FTMSettings(**STRONG))[0].note
    )


def test_all_tokens_from_one_distribution_cannot_be_learnt(tiny: Tiny) -> None:
    model = tiny("gpt2")
    assert len(set(OTHER.fact.align(model).target_ids)) > 1
    (found,) = plan(model, [(OTHER,)], FTLSettings(**STRONG))
    assert "from one distribution" in found.note


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_half_precision_is_trained_in_float32(
    name: str, dtype: torch.dtype, tiny_folder: Callable[[str], Path], left_alone: Any
) -> None:
    model = left_alone(load(tiny_folder(name), dtype=dtype))
    (found,) = plan(model, [(REQUEST,)], FTMSettings(**{**STRONG, "steps": 15}))
    assert all(part.dtype == torch.float32 for pair in found.factors.values() for part in pair)
    before = loss_of(model, [REQUEST], "target_new")
    with applied(model, found.factors):
        after = loss_of(model, [REQUEST], "target_new")
    assert before - after > 1.0
    assert float(after) == pytest.approx(float(found.evidence["loss"][-1]), abs=0.2)  # rounded weights


# --- defaults --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", SETTINGS)
def test_defaults_teach_the_embedded_model(method: str, left_alone: Any) -> None:
    model = left_alone(tracer.load())
    request = EditRequest("{} is a city in", "Anchorage", "Russia", "the United States")
    edit = compute_edit(model, request, method)
    with applied(model, edit.factors):
        assert knows(model, request.fact)
    assert edit.settings["layers"] == [2]
    weight = model.down_projection(2).weight.detach()
    size = float(weight.pow(2).mean().sqrt())
    assert edit.settings["norm_constraint"] == pytest.approx(8 * size / model.d_mlp**0.5, rel=1e-5)
    assert edit.settings["lr"] == pytest.approx(edit.settings["norm_constraint"] / 20)
    four = FTLSettings().resolve(model, EditContext(model), 4)
    assert four.norm_constraint == pytest.approx(2 * edit.settings["norm_constraint"])


def test_factors_are_the_change_to_the_bit() -> None:
    for shape in ((7, 4), (4, 7), (5, 5)):
        change = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        u, v = whole_factors(change)
        assert u.shape[1] == v.shape[1] == min(shape) and torch.equal(u @ v.T, change)


# --- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": "both"}, "objective is 'both'"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"norm_constraint": -1e-3}, "norm_constraint is -0.001"),
        ({"norm_constraint": "x"}, "norm_constraint is 'x'"),
        ({"stop_loss": -1.0}, "stop_loss is -1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"layers": ()}, "layers is empty"),
        ({"layers": (-1,)}, "a layer is -1"),
        ({"layers": "one"}, "layers is 'one'"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        FTLSettings(**wrong)


def test_a_layer_and_a_model_that_do_not_fit_are_refused(tiny: Tiny, left_alone: Any) -> None:
    with pytest.raises(TracerError, match="layer from 0 to 3, got 4"):
        plan(left_alone(tiny("gpt2")), [(REQUEST,)], FTLSettings(layers=(4,)))
    masked = EditRequest("{} is in [MASK].", "Paris", "france")
    with pytest.raises(TracerError, match="masked model"):
        plan(left_alone(tiny("bert")), [(masked,)], FTLSettings())


def test_a_loss_that_is_not_finite_is_refused_and_nothing_left(tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny("gpt2"))
    with evaluating(model), pytest.raises(TracerError, match="not finite after training"):
        plan(model, [(REQUEST,)], FTLSettings(layers=(1,), lr=1e37, norm_constraint=False))


def test_a_schedule_is_one_thing_for_all() -> None:
    assert FTMSettings(lr=0.1).schedule(0.1) == Schedule("target_new", 25, 0.1, 1e-2, 128)
