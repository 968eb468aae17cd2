"""The branched sweep's own rules: sharing, chunking, gradients, ways round, and a model left as found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from agreement import KINDS, NOISE, PROMPT, SIDE_INPUTS, Tiny, agrees, fact, in_float64, with_side_inputs
from torch import Tensor

import tracer.engine.sweep as engine
from tracer.engine.forward import Prefix
from tracer.engine.hooks import Add, Intervention, Replace, Site, as_ids, intervene
from tracer.engine.sweep import Base, record, sweep
from tracer.errors import TracerError
from tracer.model import Model, load
from tracer.tracing.causal import causal_trace

CAUSAL = [name for name in checkpoints.ARCHITECTURES if name != "bert"]


@pytest.fixture(scope="module")
def wide(tiny_folder: Callable[[str], Path]) -> Tiny:
    return in_float64(tiny_folder)


def by_hand(model: Model, base: Base, noise: Sequence[Intervention], branch: Sequence[Intervention]) -> Tensor:
    """Logits [rows, len(read), V] of a branch in a forward of its own."""
    with intervene(model, [*noise, *branch]):
        return model.hf(input_ids=base.ids).logits[:, list(base.read)]


def corrupted(model: Model, rows: int = 3, read: Sequence[int] = (-1,)) -> tuple[Base, list[Intervention]]:
    """A base run of ``PROMPT`` with noise on its tokens 1 and 2, and that noise."""
    ids = as_ids(model, PROMPT)
    generator = torch.Generator().manual_seed(0)
    noise: list[Intervention] = [
        Add(Site("embed", token=t), torch.randn(rows, model.d_model, generator=generator)) for t in (1, 2)
    ]
    return record(model, ids.expand(rows, -1), noise, read=read), noise


def mixed_branches(model: Model, rows: int, tokens: int) -> list[list[Intervention]]:
    """Every kind, several tokens, values per row and shared, shared and parted beginnings."""
    generator = torch.Generator().manual_seed(1)

    def value(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d, m, last = model.d_model, model.d_mlp, model.n_layers - 1
    first = Replace(Site("mlp", 1, 2), value(d))
    second = Add(Site("attn", 2, 2), value(rows, d))
    return [
        [first],
        [first, second],
        [first, second, Replace(Site("hidden", last, tokens - 1), value(rows, d))],
        [second],
        [Replace(Site("key", 0, 3), value(m)), Add(Site("key", 0, 3), value(rows, m))],
        [Replace(Site("key", last, -1), value(rows, m))],
        [
            Replace(Site("pre", 1, 3), value(m)),
            Add(Site("key", 1, 3), value(rows, m)),
            Add(Site("pre", 2, 4), value(m)),
        ],
        [Add(Site("hidden", 0, 1), value(d)), Replace(Site("pre", last, -1), value(rows, m))],
        [Add(Site("hidden", 0, 1), value(d)), *(Replace(Site("mlp", i, 1), value(d)) for i in range(1, last + 1))],
        [Add(Site("attn", 0, 4), value(d)), Add(Site("mlp", 0, 4), value(d)), Add(Site("hidden", 0, 4), value(d))],
    ]


def test_around_a_sweep_interventions_at_every_token_hold(wide: Tiny) -> None:
    model = wide("gpt2")
    plain_trace = causal_trace(model, fact(model), corruption=NOISE)
    with intervene(model, [Replace(Site("key", 3), torch.zeros(model.d_mlp))]):
        changed = causal_trace(model, fact(model), corruption=NOISE)
        agrees(model, fact(model), "hidden", atol=1e-9)
    assert not np.allclose(changed.scores, plain_trace.scores, atol=1e-3)


@pytest.mark.parametrize("architecture", CAUSAL)
def test_earlier_tokens_are_not_run_again(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    with torch.no_grad():
        base, _ = corrupted(model)
        assert base.prefix is not None
        seen: list[tuple[int, ...]] = []
        handle = model.module("hidden", 0).register_forward_hook(
            lambda _, args, output: seen.append((output if isinstance(output, Tensor) else output[0]).shape)
        )
        try:
            sweep(model, base, [[Replace(Site("hidden", 1, 4), torch.zeros(model.d_model))]], lambda logits: logits)
        finally:
            handle.remove()
    # one row that carries the shapes through the first block, and the tokens from the fourth on
    assert seen[-1] == (1, base.ids.shape[1] - 4, model.d_model)


@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("tokens", ["some", "all"])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "bloom", "falcon", "opt", "gptj"])
def test_slower_ways_give_the_same_numbers(architecture: str, tokens: str, grows: bool, wide: Tiny) -> None:
    model = wide(architecture)
    with torch.no_grad():
        base, _ = corrupted(model)
        branches = mixed_branches(model, 3, base.ids.shape[1])
        fast = sweep(model, base, branches, lambda logits: logits)
        way = replace(base, grows=grows, prefix=base.prefix if tokens == "some" else None)
        for max_rows in (None, 2, 7):
            slow = sweep(model, way, branches, lambda logits: logits, max_rows=max_rows)
            torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_recorded_keys_and_values_that_do_not_serve_are_noticed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Prefix.read

    def wrong(*args: Any) -> Any:
        return tuple((keys, values.flip(-1)) for keys, values in read(*args) or ())

    monkeypatch.setattr(Prefix, "read", staticmethod(wrong))
    agrees(tiny("gpt2"), fact(tiny("gpt2")), "hidden")
    with torch.no_grad():
        assert corrupted(tiny("gpt2"))[0].prefix is None


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "bloom", "falcon", "opt", "neox", "bert"])
def test_branches_equal_forwards_of_their_own(architecture: str, wide: Tiny) -> None:
    model = wide(architecture)
    with torch.no_grad():
        base, noise = corrupted(model, read=(-2, -1))
        branches = mixed_branches(model, 3, base.ids.shape[1])
        found = sweep(model, base, branches, lambda logits: logits)
        expected = torch.stack([by_hand(model, base, noise, branch) for branch in branches])
    assert (expected - base.logits).abs().amax((1, 2, 3)).min() > 1e-3  # every branch matters
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("max_rows", [None, 1, 4])
@pytest.mark.parametrize("name", SIDE_INPUTS)
def test_branches_equal_forwards_of_their_own_beside_other_inputs(name: str, max_rows: int | None) -> None:
    model = with_side_inputs(name)
    with torch.no_grad():
        base, noise = corrupted(model, read=(-2, -1))
        assert not base.grows
        branches = mixed_branches(model, 3, base.ids.shape[1])
        found = sweep(model, base, branches, lambda logits: logits, max_rows=max_rows)
        expected = torch.stack([by_hand(model, base, noise, branch) for branch in branches])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", ["some", "all"])
@pytest.mark.parametrize("grows", [True, False])
def test_what_the_base_run_was_made_with_holds_in_its_branches(grows: bool, tokens: str, wide: Tiny) -> None:
    model = wide("gpt2")
    generator = torch.Generator().manual_seed(3)
    d, rows = model.d_model, 3
    ids = as_ids(model, PROMPT).expand(rows, -1)
    made: list[Intervention] = [
        Add(Site("embed", token=1), torch.randn(rows, d, generator=generator)),
        Add(Site("mlp", 2, -1), torch.randn(rows, d, generator=generator)),
        Replace(Site("hidden", 1, -1), torch.randn(rows, d, generator=generator)),
        Replace(Site("attn", 3), torch.randn(ids.shape[1], d, generator=generator)),
        Add(Site("mlp", 0, 3), torch.randn(d, generator=generator)),
    ]
    branches = mixed_branches(model, rows, ids.shape[1])
    with torch.no_grad():
        base = record(model, ids, made)
        way = replace(base, grows=grows, prefix=base.prefix if tokens == "some" else None)
        for max_rows in (None, 2):
            found = sweep(model, way, branches, lambda logits: logits, max_rows=max_rows)
            expected = torch.stack([by_hand(model, base, made, branch) for branch in branches])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("max_rows", [1, 2, 3, 5, 7, 12, 100])
def test_rows_are_chunked_and_the_numbers_stay(max_rows: int, wide: Tiny) -> None:
    model = wide("gpt2")
    most = 0

    def count(_: Any, args: tuple, output: Any) -> None:
        nonlocal most
        most = max(most, len(output if isinstance(output, Tensor) else output[0]))

    expected = {kind: causal_trace(model, fact(model), kind=kind, window=3, corruption=NOISE) for kind in KINDS}
    handles = [model.module(kind, layer).register_forward_hook(count) for kind in KINDS for layer in range(4)]
    try:
        for kind in KINDS:
            trace = causal_trace(model, fact(model), kind=kind, window=3, corruption=NOISE, max_rows=max_rows)
            np.testing.assert_allclose(trace.scores, expected[kind].scores, atol=1e-12, rtol=0)
            assert trace.corrupted == pytest.approx(expected[kind].corrupted, abs=1e-12)
    finally:
        for handle in handles:
            handle.remove()
    assert most <= max_rows


def test_the_default_number_of_rows_follows_the_budget(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    many = engine.default_rows(model, tokens=8, read=1)
    monkeypatch.setattr(engine, "BUDGET_BYTES", engine.BUDGET_BYTES // 4)
    assert engine.default_rows(model, tokens=8, read=1) == pytest.approx(many / 4, rel=0.01)
    monkeypatch.setattr(engine, "BUDGET_BYTES", 1)
    assert engine.default_rows(model, tokens=8, read=1) == 1
    agrees(model, fact(model), "hidden")


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_gradients_flow_through_many_branches(architecture: str, wide: Tiny) -> None:
    model = wide(architecture)
    with torch.no_grad():
        base, noise = corrupted(model)
    generator = torch.Generator().manual_seed(2)
    sites = [Site("key", layer, token) for layer in range(model.n_layers) for token in (-1, 2)]
    leaves = [torch.randn(3, model.d_mlp, dtype=torch.float64, generator=generator).requires_grad_() for _ in sites]
    branches = [[Replace(site, leaf)] for site, leaf in zip(sites, leaves, strict=True)]
    found = sweep(model, base, branches, lambda logits: logits.log_softmax(-1)[:, -1, 7], max_rows=5)
    gradients = torch.autograd.grad(found.sum(), leaves)
    for branch, leaf, gradient in zip(branches, leaves, gradients, strict=True):
        by_itself = by_hand(model, base, noise, branch).log_softmax(-1)[:, -1, 7].sum()
        torch.testing.assert_close(gradient, torch.autograd.grad(by_itself, [leaf])[0], atol=1e-7, rtol=1e-4)


def test_branches_that_begin_alike_share_rows(tiny: Tiny) -> None:
    model = tiny("gpt2")
    rows: list[int] = []
    items = [Replace(Site("mlp", layer, 2), torch.ones(model.d_model)) for layer in range(4)]
    handles = [
        model.module("hidden", i).register_forward_hook(lambda _, a, out: rows.append(len(out))) for i in range(4)
    ]
    try:
        with torch.no_grad():
            base = record(model, PROMPT)
            rows.clear()
            found = sweep(model, base, [items[:1], items[:2], items[:4], items[:2]], lambda logits: logits)
    finally:
        for handle in handles:
            handle.remove()
    assert rows == [1, 2, 3, 3]  # one group, of which one parts after each of the first two layers
    assert torch.equal(found[1], found[3])


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_found(training: bool, tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))
    model.hf.train(training)
    model.module("hidden", 1).train(not training)
    next(model.hf.parameters()).requires_grad_(False)

    def state() -> tuple:
        modules = list(model.hf.modules())
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules]
        flags = [p.requires_grad for p in model.hf.parameters()], [p.grad for p in model.hf.parameters()]
        return model.fingerprint(), hooks, [m.training for m in modules], flags

    def fail(*_: Any) -> Any:
        raise KeyboardInterrupt

    before = state()
    scores = [causal_trace(model, fact(model), kind=kind, corruption=NOISE).scores for kind in KINDS]
    assert state() == before
    again = [causal_trace(model, fact(model), kind=kind, corruption=NOISE).scores for kind in KINDS]
    assert all(np.array_equal(a, b) for a, b in zip(scores, again, strict=True))  # to the bit, and without dropout

    with torch.no_grad():
        base, _ = corrupted(model)
        branches = mixed_branches(model, 3, base.ids.shape[1])
        with pytest.raises(KeyboardInterrupt):
            sweep(model, base, branches, fail)
        assert state() == before
        handle = model.module("attn", 3).register_forward_hook(fail)
        try:
            with_handle = state()
            for broken in (lambda: record(model, PROMPT), lambda: sweep(model, base, branches, lambda x: x)):
                with pytest.raises(KeyboardInterrupt):
                    broken()
                assert state() == with_handle
        finally:
            handle.remove()
    assert state() == before


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        ([], "without interventions"),
        ([Replace(Site("embed", token=1), torch.zeros(32))], "base run"),
        ([Replace(Site("hidden", 1), torch.zeros(32))], "name a token"),
        ([Replace(Site("hidden", 4, 1), torch.zeros(32))], "layers 0 to 3"),
        ([Replace(Site("hidden", 1, 99), torch.zeros(32))], "token 99"),
        ([Replace(Site("key", 1, 1), torch.zeros(32))], r"expected \[64\] or \[3, 64\]"),
        ([Replace(Site("mlp", 1, 1), torch.zeros(2, 32))], r"expected \[32\] or \[3, 32\]"),
    ],
)
def test_unusable_branches_are_refused(branch: list[Intervention], message: str, tiny: Tiny) -> None:
    model = tiny("gpt2")
    with torch.no_grad():
        base, _ = corrupted(model)
        with pytest.raises(TracerError, match=message):
            sweep(model, base, [branch], lambda logits: logits)


@pytest.mark.parametrize("max_rows", [0, -3])
def test_less_than_one_row_is_refused(max_rows: int, tiny: Tiny) -> None:
    with pytest.raises(TracerError, match="max_rows"):
        record(tiny("gpt2"), PROMPT, max_rows=max_rows)


def test_numbers_that_are_none_are_refused(tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))
    with torch.no_grad():
        base, _ = corrupted(model)
        model.down_projection(2).weight[0, 0] = float("nan")
        with pytest.raises(TracerError, match="not numbers"):
            record(model, PROMPT)
        with pytest.raises(TracerError, match="not numbers"):
            sweep(model, base, [[Replace(Site("hidden", 0, 1), torch.zeros(32))]], lambda logits: logits)
