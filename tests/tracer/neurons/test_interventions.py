"""Acting on neurons against plain hooks: what a manager does to a forward, a sweep, a gradient; what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from acting import NEURONS, OTHER, TEXT, logits
from agreement import Tiny, fact
from torch import Tensor

from tracer.engine.hooks import Add, Replace, Site, Units, as_ids, capture, intervene
from tracer.engine.sweep import record, sweep
from tracer.errors import TracerError
from tracer.model import Model
from tracer.neurons.effects import (
    amplify,
    neuron_effects,
    random_neurons,
    set_to,
    suppress,
)
from tracer.neurons.interventions import units

# flattened states (opt), gated MLPs (llama, gemma2), the residual added inside (bloom), read both ways (bert)
SOME = ["gpt2", "gptj", "opt", "llama", "gemma2", "bloom", "falcon", "bert"]


def by_hook(model: Model, site: str, change: Callable[[float, int], float], tokens: Sequence[int] | None) -> Tensor:
    """Logits with ``change(activation, which of NEURONS)`` made by a plain hook on the transformers modules."""
    count = as_ids(model, TEXT).shape[1]
    chosen = range(count) if tokens is None else [token % count for token in tokens]

    def edit(layer: int, state: Tensor) -> Tensor:
        new = state.clone()
        rows = new.view(count, -1)  # one prompt, flattened or not
        for number, (at, unit) in enumerate(NEURONS):
            for token in chosen if at == layer else ():
                rows[token, unit] = change(float(rows[token, unit]), number)
        return new

    handles = []
    for layer in range(model.n_layers):
        if site == "post":
            module = model.down_projection(layer).name.removesuffix(".weight")
            hook = lambda _, args, layer=layer: (edit(layer, args[0]),)  # noqa: E731
            handles.append(model.hf.get_submodule(module).register_forward_pre_hook(hook))
        else:
            after = lambda _, __, output, layer=layer: edit(layer, output)  # noqa: E731
            handles.append(model.module("pre", layer).register_forward_hook(after))
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("architecture", SOME)
def test_managers_do_what_a_plain_hook_does(architecture: str, site: Any, wide: Tiny) -> None:
    model = wide(architecture)
    values = [0.5, -2.0, 1.5, 3.0]
    before = logits(model)
    for tokens, chosen in ((None, None), (-1, [-1]), ((0, 3), [0, 3])):
        for manager, change in (
            (suppress(model, NEURONS, tokens, site=site), lambda a, i: 0.0),
            (amplify(model, NEURONS, -3.0, tokens, site=site), lambda a, i: -3.0 * a),
            (set_to(model, NEURONS, 4.0, tokens, site=site), lambda a, i: 4.0),
            (set_to(model, NEURONS, values, tokens, site=site), lambda a, i: values[i]),
        ):
            with manager as inside:
                assert inside is model
                found = logits(model)
            torch.testing.assert_close(found, by_hook(model, site, change, chosen), atol=1e-12, rtol=1e-12)
            assert not torch.equal(found[:, -1], before[:, -1])


@pytest.mark.parametrize("architecture", SOME)
def test_a_factor_of_one_changes_no_bit(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    before = logits(model)
    for site in ("post", "pre"):
        with amplify(model, NEURONS, 1.0, site=site):
            assert torch.equal(logits(model), before)


@pytest.mark.parametrize("architecture", SOME)
def test_a_layer_without_its_units_is_its_bias(architecture: str, tiny: Tiny) -> None:
    model, layer = tiny(architecture), 1
    projection = model.module("key", layer)
    bias = torch.zeros(model.d_model) if getattr(projection, "bias", None) is None else projection.bias.detach()  # type: ignore[union-attr]
    with torch.no_grad(), suppress(model, [(layer, unit) for unit in range(model.d_mlp)]):
        found = capture(model, TEXT, [Site("mlp", layer)])[Site("mlp", layer)]
    assert torch.equal(found, bias.expand_as(found))


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "bert"])
def test_the_model_is_left_as_found(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)

    def state() -> tuple:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.hf.modules()]
        return hooks, model.fingerprint(), [m.training for m in model.hf.modules()]

    before, own = state(), logits(model)
    for manager in (
        suppress(model, NEURONS),
        amplify(model, NEURONS, site="pre"),
        set_to(model, NEURONS, 1, tokens=-1),
    ):
        with pytest.raises(KeyboardInterrupt), manager:
            assert state()[0] != before[0]
            assert not torch.equal(logits(model), own)
            raise KeyboardInterrupt
        assert state() == before
        assert torch.equal(logits(model), own)
    neuron_effects(model, fact(model), NEURONS, other=OTHER, draws=2)
    with pytest.raises(TracerError, match="token 99"), suppress(model, NEURONS, 99):
        logits(model)
    assert state() == before
    assert torch.equal(logits(model), own)


def test_managers_nest_the_inner_one_last(wide: Tiny) -> None:
    model = wide("llama")
    some, rest = NEURONS[:2], NEURONS[2:]

    def inside(*managers: Any) -> Tensor:
        if not managers:
            return logits(model)
        with managers[0]:
            return inside(*managers[1:])

    both = inside(suppress(model, NEURONS))
    assert torch.equal(inside(suppress(model, some), suppress(model, rest)), both)
    assert torch.equal(inside(suppress(model, NEURONS), suppress(model, some)), both)
    assert torch.equal(inside(suppress(model, NEURONS), amplify(model, some, 5.0)), both)  # nothing to turn up
    assert torch.equal(inside(amplify(model, some, 5.0), suppress(model, NEURONS)), both)
    put = inside(set_to(model, NEURONS, 2.0))
    assert torch.equal(inside(suppress(model, NEURONS), set_to(model, NEURONS, 2.0)), put)
    assert torch.equal(inside(set_to(model, NEURONS, 1.0), amplify(model, NEURONS)), put)
    outer = suppress(model, NEURONS)
    with outer:
        with suppress(model, some):
            logits(model)
        assert torch.equal(logits(model), both)  # the inner one took only its own away


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "bloom"])
def test_generation_with_a_cache_is_acted_on_at_every_step(architecture: str, wide: Tiny) -> None:
    model, neurons = wide(architecture), [(layer, unit) for layer in range(4) for unit in range(0, 64, 2)]
    ids = as_ids(model, TEXT)
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(ids)
    generate: Any = model.hf.generate
    own = generate(ids, use_cache=True, **options)
    for tokens in (None, -1):
        expected = ids
        with torch.no_grad():
            for _ in range(5):  # the same without a cache: the prompt's last token, and every one generated
                acted = None if tokens is None else list(range(ids.shape[1] - 1, expected.shape[1]))
                with set_to(model, neurons, 3.0, acted):
                    scores = model.hf(input_ids=expected).logits[0, -1]
                scores[model.hf.generation_config.eos_token_id] = -torch.inf  # type: ignore[union-attr,index]
                expected = torch.cat([expected, scores.argmax()[None, None]], 1)
        with set_to(model, neurons, 3.0, tokens):
            found = generate(ids, use_cache=True, **options)
        assert torch.equal(found, expected)
        assert not torch.equal(found, own)


# --- the intervention itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["key", "pre", "hidden"])
@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "bert"])
def test_units_in_a_sweep_equal_units_in_a_forward(architecture: str, kind: str, wide: Tiny) -> None:
    model, ids = wide(architecture), as_ids(wide(architecture), TEXT).expand(3, -1)
    generator = torch.Generator().manual_seed(0)
    noise = Add(Site("embed", token=1), torch.randn(3, model.d_model, generator=generator))
    other = Units(Site(kind, 0, 2), (4,), 0.5, torch.randn(3, 1, generator=generator))  # in the base run, by row
    shared = Units(Site(kind, 1, -1), (1, 30, 2), 2.0, torch.randn(3, generator=generator))
    branches = [
        [shared],
        [shared, Units(Site(kind, 3, -1), (0, 31), -1.0, torch.randn(3, 2, generator=generator))],
        [Units(Site(kind, 2, 1), (9,), 0.0, torch.tensor([5.0])), Replace(Site("mlp", 3, -1), torch.zeros(32))],
    ]
    with torch.no_grad():
        for max_rows in (None, 2):
            base = record(model, ids, [noise, other], max_rows=max_rows)
            found = sweep(model, base, branches, lambda logits: logits[:, -1], max_rows=max_rows)
            for branch, result in zip(branches, found, strict=True):
                with intervene(model, [noise, other, *branch]):
                    expected = model.hf(input_ids=ids).logits[:, -1]
                torch.testing.assert_close(result, expected, atol=1e-9, rtol=1e-9)
                assert (result - base.logits[:, -1]).abs().max() > 1e-4


def test_gradients_flow_through_units(wide: Tiny) -> None:
    model, site = wide("gpt2"), Site("key", 1, -1)
    value = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        base = record(model, TEXT)
    found = sweep(model, base, [[Units(site, (3, 9), 2.0, value)]], lambda logits: logits[:, -1, 7])
    (gradient,) = torch.autograd.grad(found.sum(), [value])
    for i in range(2):
        moved = torch.zeros(2, dtype=torch.float64)
        moved[i] = 1e-6
        with torch.no_grad():
            step = sweep(model, base, [[Units(site, (3, 9), 2.0, moved)]], lambda logits: logits[:, -1, 7])
        assert float(gradient[i]) == pytest.approx(float((step - found.detach()).sum()) / 1e-6, rel=1e-4)
    state = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(Units(site, (2, 0), 4.0, torch.ones(2))(state).sum(), [state])
    assert gradient.tolist() == [[4.0, 1.0, 4.0]]


def test_units_keep_the_others_and_the_type() -> None:
    state = torch.tensor([[1.0, torch.inf, 3.0]], dtype=torch.bfloat16)
    item = Units(Site("key", 0, -1), (1, 0), 0.0, torch.tensor([5.0, 6.0], dtype=torch.float64))
    assert torch.equal(item(state), torch.tensor([[6.0, 5.0, 3.0]], dtype=torch.bfloat16))
    assert state[0, 1] == torch.inf


@pytest.mark.parametrize("index", [(), (1, 1), (-1,), (0.5,), "ab", 3])
def test_units_that_are_none_are_refused(index: Any) -> None:
    with pytest.raises(TracerError, match="each once"):
        Units(Site("key", 0), index, 1.0, torch.zeros(1))


def test_units_that_do_not_fit_are_refused(tiny: Tiny) -> None:
    model = tiny("gpt2")
    fits, far, wrong = (
        Units(Site("key", 1, -1), index, 1.0, torch.zeros(width))
        for index, width in (((3, 4), 2), ((3, 64), 2), ((3, 4), 3))
    )
    with torch.no_grad():
        base = record(model, TEXT)
        with pytest.raises(TracerError, match=r"unit 64 of .* 0 to 63"), intervene(model, [far]):
            logits(model)
        with pytest.raises(TracerError, match=r"unit 64 of .* 0 to 63"):  # before anything is run
            sweep(model, base, [[fits], [far]], lambda logits: pytest.fail("ran"), max_rows=1)
        with pytest.raises(TracerError, match=r"shape \[3\] does not fit"), intervene(model, [wrong]):
            logits(model)
        with pytest.raises(TracerError, match=r"expected \[2\] or \[1, 2\]"):
            sweep(model, base, [[wrong]], lambda logits: logits)


# --- errors ----------------------------------------------------------------------------------------------------------

BAD_NEURONS: list[tuple[Any, str]] = [
    ([], "neurons are empty"),
    ([(4, 0)], "layers 0 to 3 with units 0 to 63"),
    ([(0, 64)], r"neuron \(0, 64\)"),
    ([(-1, 0)], r"neuron \(-1, 0\)"),
    ([(0, 1), (2, 2), (0, 1)], r"neuron \(0, 1\) is named twice"),
    ([(0, 1.5)], "whole numbers"),
    ([3, 4], "whole numbers"),
    ("ab", "whole numbers"),
]


@pytest.mark.parametrize(("neurons", "message"), BAD_NEURONS)
def test_neurons_that_are_none_are_refused(neurons: Any, message: str, tiny: Tiny) -> None:
    model = tiny("gpt2")
    for call in (
        lambda: suppress(model, neurons).__enter__(),
        lambda: amplify(model, neurons).__enter__(),
        lambda: set_to(model, neurons, 1.0).__enter__(),
        lambda: random_neurons(model, neurons, 1, 0),
        lambda: neuron_effects(model, fact(model), neurons),
    ):
        with pytest.raises(TracerError, match=message):
            call()
    with pytest.raises(TracerError, match=message.replace("neurons are", "other are")):
        neuron_effects(model, fact(model), NEURONS, other=neurons)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: amplify(m, NEURONS, float("nan")), "factor is nan"),
        (lambda m: amplify(m, NEURONS, float("inf")), "factor is inf"),
        (lambda m: amplify(m, NEURONS, None), "factor is None"),  # type: ignore[arg-type]
        (lambda m: set_to(m, NEURONS, float("inf")), "finite in torch.float32"),
        (lambda m: set_to(m, NEURONS, 1e39), "finite in torch.float32"),
        (lambda m: set_to(m, NEURONS, [0, 1, 2, float("nan")]), "finite in torch.float32"),
        (lambda m: set_to(m, NEURONS, [1.0, 2.0]), r"expected a number, or one per neuron, \[4\]"),
        (lambda m: set_to(m, NEURONS, np.zeros((4, 1))), r"\[4, 1\]"),
        (lambda m: set_to(m, NEURONS, "much"), "value is 'much'"),  # type: ignore[arg-type]
        (lambda m: suppress(m, NEURONS, site="key"), "site 'key' is unknown"),  # type: ignore[arg-type]
        (lambda m: suppress(m, NEURONS, []), "expected a position"),
        (lambda m: suppress(m, NEURONS, "all"), "expected a position"),  # type: ignore[arg-type]
        (lambda m: suppress(m, NEURONS, 1.5), "expected a position"),  # type: ignore[arg-type]
        (lambda m: suppress(m, NEURONS, [1, 1]), "twice"),
        (lambda m: suppress(m, NEURONS, [0, -1]), "from one end"),
    ],
)
def test_settings_of_a_manager_are_checked(make: Callable[[Model], Any], message: str, tiny: Tiny) -> None:
    with pytest.raises(TracerError, match=message), make(tiny("gpt2")):
        pass


@pytest.mark.parametrize("tokens", [99, -99, [1, 99]])
def test_a_token_out_of_range_is_noticed_at_the_forward(tokens: Any, tiny: Tiny) -> None:
    model = tiny("gpt2")
    with pytest.raises(TracerError, match=r"99 .* out of range"), suppress(model, NEURONS, tokens):
        logits(model)


def test_a_model_without_the_site_says_so(tiny: Tiny) -> None:
    with pytest.raises(TracerError, match="no site 'pre'"), suppress(tiny("phi3"), NEURONS, site="pre"):
        pass


def test_units_are_one_intervention_per_layer_and_position(tiny: Tiny) -> None:
    items = units(tiny("gpt2"), NEURONS, 0.0, [1, 2, 3, 4], "post", [0, None])
    assert [(item.site, item.index) for item in items if isinstance(item, Units)] == [
        (Site("key", layer, token), index)
        for layer, index in ((0, (3, 60)), (2, (5,)), (3, (0,)))
        for token in (0, None)
    ]
    assert [item.value.tolist() for item in items[::2]] == [[2, 3], [1], [4]]
