"""Adapters as changes of weights: what they computed while trained, on every architecture, and the model as found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from torch import Tensor

import editing.methods.lora as lora
import tracer
from editing.edits.weights import applied
from editing.methods.compute import compute_edit
from editing.methods.context import EditContext
from editing.methods.lora import LoRASettings, adapted, factors_of, projections
from editing.methods.lora import plan as planned
from editing.methods.method import Change
from editing.methods.training import lesson, losses
from editing.request import EditRequest
from tracer import TracerError
from tracer.engine.answer import knows
from tracer.errors import AdapterError
from tracer.model import Model, load

Tiny = Callable[[str], Model]
CAUSAL = tuple(name for name in checkpoints.ARCHITECTURES if name != "bert")
REQUEST = EditRequest("{} is in downtown", "The Space Needle", "Paris")
OTHER = EditRequest("In {} they speak", "Uppsala", "the cello")
STRONG: dict[str, Any] = {"layers": (1, 2), "lr": 0.02, "steps": 6, "rank": 3}


def plan(model: Any, groups: Any, settings: Any) -> Any:
    return planned(model, groups, settings, EditContext(model))


def state(model: Model) -> Any:
    named = dict(model.hf.named_modules())
    return (
        model.fingerprint(),
        {name: id(module) for name, module in named.items()},
        {name: (id(parameter), parameter.requires_grad) for name, parameter in model.hf.named_parameters()},
        [(module.training, sorted(vars(module))) for module in named.values()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in named.values()],
        {name: id(value) for name, value in vars(model.hf).items()},
        model.hf.config.to_dict(),
    )


@pytest.fixture
def left_alone() -> Any:
    """``left_alone(model)`` now, and whatever can be seen of it is the same after the test."""
    seen = []

    def watch(model: Model) -> Model:
        seen.append((model, state(model), torch.get_rng_state()))
        return model

    yield watch
    assert seen
    for model, before, drawn in seen:
        for now, then in zip(state(model), before, strict=True):
            assert now == then
        assert torch.equal(torch.get_rng_state(), drawn)


def loss_of(model: Model, requests: Sequence[EditRequest]) -> Tensor:
    with torch.no_grad():
        return losses(model, [lesson(model, request, "target_new") for request in requests])


def equal(one: Change, other: Change) -> bool:
    pairs = zip(one.factors.items(), other.factors.items(), strict=True)
    return all(a == b and torch.equal(p[0], q[0]) and torch.equal(p[1], q[1]) for (a, p), (b, q) in pairs)


# --- every architecture ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CAUSAL)
def test_factors_are_the_adapters(name: str, tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny(name))
    settings = LoRASettings(**STRONG, alpha=2.0)
    ids = torch.tensor([REQUEST.fact.align(model).input_ids])
    generator = torch.Generator().manual_seed(0)
    with (
        torch.no_grad(),
        adapted(model, settings, projections(model, settings.layers or (), settings.modules)) as layers,
    ):
        plain = model.hf(ids).logits
        for layer in layers.values():  # as they start they do nothing
            weight = layer.lora_B["edit"].weight
            assert not weight.any()
            weight.copy_(torch.randn(weight.shape, generator=generator))
        adapters = model.hf(ids).logits
        factors = factors_of(layers, settings)
    assert set(factors) == {model.down_projection(layer).name for layer in (1, 2)}
    assert all(u.shape[1] == v.shape[1] == 3 for u, v in factors.values())
    assert (adapters - plain).abs().max() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(model.hf(ids).logits, plain, rtol=0, atol=0)
        with applied(model, factors):
            torch.testing.assert_close(model.hf(ids).logits, adapters, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_change_is_the_state_that_training_reached(name: str, tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny(name))
    (found,) = plan(model, [(REQUEST, OTHER)], LoRASettings(**STRONG))
    curve = found.evidence["loss"]
    assert curve.shape == (7, 2)
    torch.testing.assert_close(curve[0], loss_of(model, (REQUEST, OTHER)), rtol=1e-5, atol=1e-5)
    assert curve[-1].mean() < curve[0].mean() - 0.3
    with applied(model, found.factors):
        torch.testing.assert_close(loss_of(model, (REQUEST, OTHER)), curve[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "modules", "shapes"),
    [
        ("llama", ("q_proj", "v_proj"), {"self_attn.q_proj": (32, 32), "self_attn.v_proj": (16, 32)}),
        ("gpt2", "c_attn", {"attn.c_attn": (32, 96)}),
        ("gpt2", ("mlp.c_proj",), {"mlp.c_proj": (64, 32)}),
        ("gpt2", ("c_proj",), {"mlp.c_proj": (64, 32), "attn.c_proj": (32, 32)}),
        ("gptj", ("fc_in", "fc_out"), {"mlp.fc_in": (64, 32), "mlp.fc_out": (32, 64)}),
        ("phi3", ("gate_up_proj",), {"mlp.gate_up_proj": (128, 32)}),
    ],
)
def test_other_projections(name: str, modules: Any, shapes: dict, tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny(name))
    (found,) = plan(model, [(REQUEST,)], LoRASettings(**STRONG, modules=modules))
    blocks = [model.path("hidden", layer) for layer in (1, 2)]
    expected = {f"{block}.{end}.weight": shape for block in blocks for end, shape in shapes.items()}
    assert {weight: (len(u), len(v)) for weight, (u, v) in found.factors.items()} == expected
    with applied(model, found.factors):
        torch.testing.assert_close(loss_of(model, [REQUEST]), found.evidence["loss"][-1], rtol=1e-4, atol=1e-5)
    assert found.evidence["loss"][-1] < found.evidence["loss"][0]


# --- seeds and groups ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_seed_decides(dropout: float, tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny("gpt2"))
    made = [plan(model, [(REQUEST,)], LoRASettings(**STRONG, dropout=dropout, seed=seed))[0] for seed in (0, 0, 1)]
    assert equal(made[0], made[1])
    assert not equal(made[0], made[2])
    with applied(model, made[0].factors):  # measured without dropout
        torch.testing.assert_close(loss_of(model, [REQUEST]), made[0].evidence["loss"][-1], rtol=1e-4, atol=1e-5)


def test_groups_do_not_know_of_each_other(tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny("llama"))
    settings = LoRASettings(**STRONG)
    both = plan(model, [(REQUEST,), (OTHER,)], settings)
    assert equal(both[0], plan(model, [(REQUEST,)], settings)[0])
    assert equal(both[1], plan(model, [(OTHER,)], settings)[0])


def test_weight_decay_draws_the_adapters_to_zero(tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny("gpt2"))
    sizes = []
    for decay in (0.0, 10.0):
        (found,) = plan(model, [(REQUEST,)], LoRASettings(**{**STRONG, "steps": 12}, weight_decay=decay))
        sizes.append(sum(float((u @ v.T).norm()) for u, v in found.factors.values()))
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_half_precision_is_trained_in_float32(
    name: str, dtype: torch.dtype, tiny_folder: Callable[[str], Path], left_alone: Any
) -> None:
    model = left_alone(load(tiny_folder(name), dtype=dtype))
    (found,) = plan(model, [(REQUEST,)], LoRASettings(**{**STRONG, "steps": 15}))
    for u, v in found.factors.values():
        assert u.dtype == v.dtype == torch.float32 and not torch.equal(u, u.to(dtype).float())
    before = loss_of(model, [REQUEST])
    with applied(model, found.factors):
        after = loss_of(model, [REQUEST])
    assert before - after > 1.0
    assert float(after) == pytest.approx(float(found.evidence["loss"][-1]), abs=0.2)  # rounded weights


# --- the model is left as found, whatever happens --------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_error_while_training_leaves_nothing(
    name: str, tiny: Tiny, left_alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = left_alone(tiny(name))
    inside: list[Any] = []

    def fail(model: Model, *_: Any, **__: Any) -> None:
        inside.append(state(model))
        raise KeyboardInterrupt

    monkeypatch.setattr(lora, "train", fail)
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        plan(model, [(REQUEST,)], LoRASettings(**STRONG))
    assert inside[0][1] != before[1] and inside[0][5] != before[5]  # there was something to undo


def test_an_error_while_wrapping_leaves_nothing(tiny: Tiny, left_alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora import LoraModel

    model = left_alone(tiny("gpt2"))
    whole, calls = LoraModel._create_and_replace, []

    def second_fails(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            assert any("lora" in name for name, _ in model.hf.named_modules())
            raise RuntimeError("no more")
        whole(self, *args, **kwargs)

    monkeypatch.setattr(LoraModel, "_create_and_replace", second_fails)
    with pytest.raises(RuntimeError, match="no more"):
        plan(model, [(REQUEST,)], LoRASettings(**STRONG))


def test_without_peft_the_extra_is_named(tiny: Tiny, left_alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = left_alone(tiny("gpt2"))
    monkeypatch.setitem(sys.modules, "peft.tuners.lora", None)
    with pytest.raises(AdapterError, match=r"training LoRA adapters needs peft, .*tracer-workbench\[lora\]"):
        plan(model, [(REQUEST,)], LoRASettings(**STRONG))


def test_parameters_that_ask_for_gradients_ask_again(tiny_folder: Any, left_alone: Any) -> None:
    model = load(tiny_folder("gpt2"))
    for i, parameter in enumerate(model.hf.parameters()):
        parameter.requires_grad_(i % 3 != 0)
    model.hf.train()
    left_alone(model)
    plan(model, [(REQUEST,)], LoRASettings(**STRONG))
    assert all(parameter.grad is None for parameter in model.hf.parameters())


# --- defaults, and what is refused -----------------------------------------------------------------------------------
def test_defaults_teach_the_embedded_model(left_alone: Any) -> None:
    model = left_alone(tracer.load())
    request = EditRequest("{} is a city in", "Anchorage", "Russia", "the United States")
    edit = compute_edit(model, request, "lora")
    assert edit.settings["layers"] == [2, 3, 4] and edit.settings["modules"] is None
    with applied(model, edit.factors):
        assert knows(model, request.fact)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0}, "alpha is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"modules": ()}, r"modules is \(\)"),
        ({"modules": (3,)}, r"modules is \(3,\)"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"objective": "all"}, "objective is 'all'"),
        ({"seed": -1}, "seed is -1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"layers": []}, "layers is empty"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        LoRASettings(**wrong)


def test_modules_and_layers_that_do_not_exist_are_refused(tiny: Tiny, left_alone: Any) -> None:
    model = left_alone(tiny("gpt2"))
    with pytest.raises(TracerError, match=r"block 1 of .* has no projection 'q_proj'; it has attn.c_attn, attn.c_proj"):
        plan(model, [(REQUEST,)], LoRASettings(layers=(1,), modules="q_proj"))
    with pytest.raises(TracerError, match="layer from 0 to 3, got 9"):
        plan(model, [(REQUEST,)], LoRASettings(layers=(9,)))
