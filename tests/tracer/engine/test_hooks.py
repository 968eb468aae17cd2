"""Sites, capture and intervene against hooks put straight on the transformers modules; the recipes as written."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tracer.engine import frame as engine_frame
from tracer.engine import hooks
from tracer.engine.hooks import INNER, Add, Replace, Site, as_ids, capture, evaluating, frozen, intervene
from tracer.errors import TracerError
from tracer.model import Model, load

Tiny = Callable[[str], Model]
TEXT = "The Space Needle is in"
# output attention and MLP into one tensor in place (falcon), flatten rows and tokens (opt), read both ways (bert)
SOME = ["gpt2", "gptj", "opt", "falcon", "bloom", "gemma2", "llama", "bert"]
SITES = [Site("embed"), *(Site(kind, layer) for kind in ("hidden", "mlp", "attn", "key", "pre") for layer in (0, 3))]


def logits(model: Model, text: str = TEXT) -> Tensor:
    return model.hf(input_ids=as_ids(model, text)).logits


def by_hand(model: Model, site: Site) -> Tensor:
    """What a plain hook on the module sees, before anything is added to it in place."""
    found: list[Tensor] = []
    module = model.module(site.kind, site.layer)
    if site.kind == "key":
        handle = module.register_forward_pre_hook(lambda _, args: found.append(args[0].clone()))
    else:
        handle = module.register_forward_hook(
            lambda _, args, output: found.append((output if isinstance(output, Tensor) else output[0]).clone())
        )
    try:
        logits(model)
    finally:
        handle.remove()
    return found[0].view(1, len(as_ids(model, TEXT)[0]), -1)


@pytest.mark.parametrize("architecture", SOME)
def test_capture_sees_what_plain_hooks_see(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    with torch.no_grad():
        found = capture(model, TEXT, [*SITES, Site("mlp", 2, 1), Site("mlp", 2, -1)])
        for site in SITES:
            width = model.d_mlp if site.kind in INNER else model.d_model
            assert torch.equal(found[site], by_hand(model, site))
            assert found[site].shape[2] == width
        whole = by_hand(model, Site("mlp", 2))
    assert torch.equal(found[Site("mlp", 2, 1)], whole[:, 1])
    assert torch.equal(found[Site("mlp", 2, -1)], whole[:, -1])


def test_capture_takes_text_ids_and_rows(tiny: Tiny) -> None:
    model, site = tiny("gpt2"), Site("hidden", 2, 3)
    with torch.no_grad():
        ids = as_ids(model, TEXT)
        expected = capture(model, TEXT, [site])[site]
        for same in (ids, ids[0], ids[0].tolist(), tuple(ids[0].tolist())):
            assert torch.equal(capture(model, same, [site])[site], expected)
        torch.testing.assert_close(capture(model, ids.expand(3, -1), [site])[site], expected.expand(3, -1))


@pytest.mark.parametrize("site", [*SITES, *(Site(s.kind, s.layer, 2) for s in SITES)], ids=str)
@pytest.mark.parametrize("architecture", SOME)
def test_a_state_put_where_it_was_changes_nothing(architecture: str, site: Site, tiny: Tiny) -> None:
    model = tiny(architecture)
    with torch.no_grad():
        own = capture(model, TEXT, [site])[site]
        before = logits(model)
        for item in (Replace(site, own), Add(site, torch.zeros_like(own))):
            with intervene(model, [item]):
                assert torch.equal(logits(model), before)
        other = torch.randn(own.shape[-1], generator=torch.Generator().manual_seed(0))
        with intervene(model, [Add(site, other)]):
            assert not torch.allclose(logits(model), before)  # so the site is on the way to the answer
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("architecture", SOME)
def test_the_last_state_of_another_prompt_brings_its_answer(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    last = Site("hidden", model.n_layers - 1, -1)
    other = "The Eiffel Tower is in the heart of"
    with torch.no_grad():
        state = capture(model, other, [last])[last]
        with intervene(model, [Replace(last, state)]):
            patched = logits(model)
        torch.testing.assert_close(patched[:, -1], logits(model, other)[:, -1], atol=1e-4, rtol=1e-4)


def test_interventions_are_made_in_order_and_per_row(tiny: Tiny) -> None:
    model, site = tiny("gpt2"), Site("hidden", 1, 2)
    rows = torch.arange(3.0)[:, None].expand(3, model.d_model)
    put, add = Replace(site, rows), Add(site, torch.ones(model.d_model))
    ids = as_ids(model, TEXT).expand(3, -1)
    with torch.no_grad(), intervene(model, [put, add]):
        torch.testing.assert_close(capture(model, ids, [site])[site], rows + 1)
    with torch.no_grad(), intervene(model, [add, put]):
        torch.testing.assert_close(capture(model, ids, [site])[site], rows)


def test_noise_is_added_in_the_wider_type_and_cast_back(tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"), dtype=torch.bfloat16)
    site, noise = (
        Site("embed", token=1),
        torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        state = capture(model, TEXT, [site])[site]
        with intervene(model, [Add(site, noise)]):
            found = capture(model, TEXT, [site])[site]
    assert torch.equal(found, (state.double() + noise).to(torch.bfloat16))
    assert found.dtype == torch.bfloat16


def test_gradients_flow_through_captured_and_replaced_states(tiny: Tiny) -> None:
    model, site = tiny("gpt2"), Site("mlp", 1, 2)
    value = torch.zeros(model.d_model, requires_grad=True)
    with intervene(model, [Replace(site, value)]):
        later = capture(model, TEXT, [Site("hidden", 3, -1)])[Site("hidden", 3, -1)]
    (gradient,) = torch.autograd.grad(later.sum(), [value])
    assert gradient.abs().max() > 0
    with torch.no_grad():
        assert not capture(model, TEXT, [site])[site].requires_grad


def test_nothing_is_left_behind(tiny: Tiny) -> None:
    model = tiny("gpt2")

    def count() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())

    before = count()
    with torch.no_grad():
        capture(model, TEXT, SITES)
        with pytest.raises(KeyError), intervene(model, [Replace(Site("key", 1, 1), torch.zeros(64))]):
            assert count() > before
            raise KeyError
        assert count() == before
        with (
            pytest.raises(TracerError, match="does not fit"),
            intervene(model, [Replace(Site("key", 1, 1), torch.zeros(65))]),
        ):
            logits(model)
        with pytest.raises(TracerError, match="layers 0 to 3"):
            capture(model, TEXT, [Site("hidden", 0), Site("hidden", 4)])
    assert count() == before


def test_parameters_ask_for_gradients_as_before(tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))
    model.down_projection(1).weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.hf.parameters()]
    site, value = Site("mlp", 1, 2), torch.zeros(model.d_model, requires_grad=True)
    with pytest.raises(KeyError), frozen(model), intervene(model, [Replace(site, value)]):
        assert not any(parameter.requires_grad for parameter in model.hf.parameters())
        logits(model).sum().backward()
        raise KeyError
    assert value.grad is not None
    assert [parameter.requires_grad for parameter in model.hf.parameters()] == before
    assert all(parameter.grad is None for parameter in model.hf.parameters())


@pytest.mark.parametrize("switched", [frozen, evaluating])
def test_an_interruption_while_switching_leaves_the_model_as_it_was(
    switched: Callable[[Model], AbstractContextManager[None]], tiny_folder: Callable[[str], Path]
) -> None:
    model = load(tiny_folder("gpt2"))
    model.hf.train()
    model.module("hidden", 1).eval()

    def state() -> tuple[list[bool], list[bool]]:
        return [p.requires_grad for p in model.hf.parameters()], [m.training for m in model.hf.modules()]

    def interrupted(at: int) -> bool:
        """Enter with a Ctrl-C at the ``at``-th line; whether there are so many."""
        lines = 0

        def line(*event: Any) -> Any:
            nonlocal lines
            lines += event[1] == "line"
            if lines == at and event[1] == "line":
                raise KeyboardInterrupt
            return line

        context, before = switched(model), sys.gettrace()
        files = (hooks.__file__, engine_frame.__file__)
        sys.settrace(lambda frame, *_: line if frame.f_code.co_filename in files else None)
        try:
            context.__enter__()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        context.__exit__(None, None, None)
        return False

    before, at = state(), 1
    while interrupted(at):
        assert state() == before, f"after line {at}"
        at += 1
    assert at > 3
    assert state() == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Site("residual", 1), "expected one of hidden, mlp, attn, cross, mlp_in, key, pre, value, embed"),
        (lambda: Site("hidden"), "needs a layer number"),
        (lambda: Site("embed", 0), "needs no layer"),
    ],
)
def test_sites_that_are_none_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        make()


def test_bad_input_is_refused(tiny: Tiny) -> None:
    model = tiny("gpt2")
    with torch.no_grad():
        with pytest.raises(TracerError, match="token 99"):
            capture(model, TEXT, [Site("hidden", 0, 99)])
        with (
            pytest.raises(TracerError, match="token -99"),
            intervene(model, [Add(Site("mlp", 0, -99), torch.zeros(32))]),
        ):
            logits(model)
        with pytest.raises(TracerError, match="layer 7"), intervene(model, [Add(Site("mlp", 7), torch.zeros(32))]):
            pass
        with pytest.raises(TracerError, match="at most 64"):
            capture(model, [1] * 65, [Site("hidden", 0)])
        with pytest.raises(TracerError, match="at least one token"):
            capture(model, [], [Site("hidden", 0)])


def test_the_recipes_of_the_module_run(tiny: Tiny) -> None:
    model = tiny("gpt2")
    assert hooks.__doc__ is not None
    recipes = re.findall(r"Recipe \d.*?:\n\n```python\n(.*?)```", hooks.__doc__, re.DOTALL)
    assert len(recipes) == 3
    ids = as_ids(model, TEXT)
    names = {"torch": torch, "model": model, "ids": ids, "other_ids": ids[:, 1:], "answer_id": 7}
    exec("from tracer.engine.hooks import *\nfrom tracer.engine.sweep import record, sweep", names)
    for recipe in recipes:
        exec(textwrap.dedent(recipe), names)
    state, p = names["state"], names["p"]
    assert isinstance(state, Tensor) and state.shape == (1, model.d_model)
    assert isinstance(p, Tensor) and p.shape == (model.n_layers, 1)
    with torch.no_grad():
        for layer in range(model.n_layers):
            with intervene(model, [Replace(Site("mlp", layer, 2), torch.zeros(model.d_model))]):
                expected = logits(model).softmax(-1)[0, -1, 7]
            assert float(p[layer, 0]) == pytest.approx(float(expected), rel=1e-4)
