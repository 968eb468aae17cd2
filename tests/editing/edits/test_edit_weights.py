"""Weights: W + U V^T to the bit, in every type; the same bits again afterwards; and what cannot be edited."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from handmade import handmade
from torch import Tensor, nn

from editing.edits import weights
from editing.edits.weights import applied, check_editable, names_of, orientation_of, parameter, proposed, write
from tracer.errors import TracerError
from tracer.model import Model, load

ARCHITECTURES = tuple(checkpoints.ARCHITECTURES)
TYPES = (torch.float32, torch.bfloat16, torch.float16)
Tiny = Callable[[str], Model]


# --- the sum -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_are_w_plus_u_v_and_then_the_same_bits(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    before, edit = model.fingerprint(), handmade(model, (0, 2), (1, 5))
    old = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
    identity = {name: (id(p), p.data_ptr(), p.requires_grad) for name, p in model.hf.named_parameters()}
    with applied(model, edit.factors) as same:
        assert same is model
        for name, (u, v) in edit.factors.items():
            expected = old[name].double() + u.double() @ v.double().T
            assert torch.equal(parameter(model, name), expected.float())
        changed = {name for name, p in model.hf.named_parameters() if not torch.equal(p, old[name])}
        assert changed == set(edit.factors)
        assert model.fingerprint() != before
    assert model.fingerprint() == before
    assert identity == {name: (id(p), p.data_ptr(), p.requires_grad) for name, p in model.hf.named_parameters()}


def nearest(exact: Fraction, around: Tensor) -> Tensor:
    """The number of ``around``'s type closest to ``exact``; of two, the one whose last bit is 0."""
    far = torch.tensor(float("inf"), dtype=around.dtype)
    candidates = [torch.nextafter(around, -far), around, torch.nextafter(around, far)]

    def badness(number: Tensor) -> tuple[Fraction, int]:
        size = torch.int32 if number.dtype == torch.float32 else torch.int16
        return abs(Fraction(float(number)) - exact), int(number.view(size)) & 1

    return min(candidates, key=badness)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_sum_is_rounded_once(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(12, 20, generator=generator).to(dtype)
    u, v = (torch.randn(side, 1, generator=generator) * 0.2 for side in weight.shape)
    new = weights.added(weight, u, v)
    assert new.dtype == dtype
    for i in range(12):
        for j in range(20):
            exact = Fraction(float(weight[i, j])) + Fraction(float(u[i, 0])) * Fraction(float(v[j, 0]))
            assert new[i, j] == nearest(exact, new[i, j]), (i, j)
    assert (new != weight).float().mean() > 0.1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dtype", "half"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_a_hair_above_the_middle_is_rounded_up(dtype: torch.dtype, half: float, sign: int) -> None:
    """1 + half + 2^-30 lies nearer to 1 + 2 half; by way of float32 it would be a tie, and become 1."""
    u, v = torch.ones(1, 2), torch.tensor([[half, 2**-30], [half, -(2**-30)], [half, 0.0]])
    new = weights.added(torch.full((1, 3), sign, dtype=dtype), u, sign * v)
    assert new.tolist() == [[sign * (1 + 2 * half), sign, sign]]


def test_the_bits_do_not_depend_on_how_the_work_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, u, v = (torch.randn(*shape, generator=generator) for shape in ((300, 70), (300, 40), (70, 40)))
    whole, threads = weights.added(weight, u, v), torch.get_num_threads()
    monkeypatch.setattr(weights, "_BLOCK", 500)
    try:
        torch.set_num_threads(2)
        assert torch.equal(weights.added(weight, u, v), whole)
    finally:
        torch.set_num_threads(threads)
    turned = weights.added(weight.T.contiguous().T, u, v)  # another layout in memory
    assert torch.equal(turned, whole)
    torch.testing.assert_close(whole, (weight.double() + u.double() @ v.double().T).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_half_precision_models(architecture: str, dtype: str, tiny_folder: Callable) -> None:
    model = load(tiny_folder(architecture), dtype=dtype)
    before, edit = model.fingerprint(), handmade(model)
    (name, (u, v)) = next(iter(edit.factors.items()))
    exact = parameter(model, name).detach().double() + u.double() @ v.double().T
    with applied(model, edit.factors):
        now = parameter(model, name)
        assert now.dtype == getattr(torch, dtype)
        kind = torch.finfo(now.dtype)
        step = kind.eps * exact.abs().clamp(min=kind.tiny)  # between neighbours; even, where numbers are subnormal
        assert ((now.double() - exact).abs() <= step / 2 * (1 + 1e-9)).all()
    assert model.fingerprint() == before


# --- all or nothing ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("error", [TracerError, KeyboardInterrupt, MemoryError, SystemExit, GeneratorExit])
def test_whatever_is_raised_inside_the_bits_come_back(error: type[BaseException], tiny: Tiny) -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    with pytest.raises(error), applied(model, handmade(model, (0, 1)).factors):
        with applied(model, handmade(model, (1, 2), seed=1).factors):  # nested, on a weight in common
            pass
        assert model.fingerprint() != before
        raise error("stop")
    assert model.fingerprint() == before


def test_the_second_write_fails_and_the_first_is_taken_back(tiny: Tiny) -> None:
    model = tiny("llama")
    before = model.fingerprint()
    first, second = names_of(model, (0, 1))
    new = {first: torch.zeros_like(parameter(model, first)), second: torch.zeros(3, 3)}
    with pytest.raises(RuntimeError, match="size"):
        write(model, new)
    assert model.fingerprint() == before


class Interrupting(Mapping):
    """Tensors; looking up the second one presses Ctrl-C."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self.looked = tensors, 0

    def __getitem__(self, name: str) -> Tensor:
        self.looked += 1
        if self.looked == 2:
            signal.raise_signal(signal.SIGINT)
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_an_interrupt_while_writing_waits_for_the_last_weight(tiny_folder: Callable) -> None:
    model = load(tiny_folder("gpt2"))
    handler = signal.getsignal(signal.SIGINT)
    new = proposed(model, handmade(model, (0, 1, 2)).factors)
    with pytest.raises(KeyboardInterrupt):
        write(model, Interrupting(new))
    assert all(torch.equal(parameter(model, name), tensor) for name, tensor in new.items())
    assert signal.getsignal(signal.SIGINT) is handler


# --- what cannot be edited -----------------------------------------------------------------------------------------
def with_weight(folder: Path, made: Callable[[Tensor], Any]) -> Model:
    """A model whose down-projection of layer 1 is what ``made`` makes of it."""
    model = load(folder)
    module: Any = model.module("key", 1)
    weight = made(module.weight.data)
    module.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, requires_grad=False)
    return model


class Packed(torch.Tensor):
    """Stands for the tensor subclasses of quantisation libraries."""


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda w: w.to("meta"), "offloaded and holds no numbers; load the model on one device"),
        (lambda w: w.to(torch.int8), r"quantised or sharded one \(Tensor, torch.int8\).*without quantisation"),
        (lambda w: w.to(torch.float8_e4m3fn), "quantised or sharded one"),
        (lambda w: w.as_subclass(Packed), r"quantised or sharded one \(Packed"),
    ],
)
def test_weights_that_hold_no_plain_numbers_are_refused(made: Callable, message: str, tiny_folder: Callable) -> None:
    model = with_weight(tiny_folder("llama"), made)
    name = names_of(model, [1])[0]
    with pytest.raises(TracerError, match=message) as error:
        check_editable(model, [name])
    assert name in str(error.value)
    check_editable(model, names_of(model, [0, 2]))


@pytest.mark.parametrize("mark", ["is_quantized", "quantization_config"])
def test_a_model_marked_as_quantised_is_refused(mark: str, tiny_folder: Callable) -> None:
    model = load(tiny_folder("gpt2"))
    setattr(model.hf if mark == "is_quantized" else model.hf.config, mark, {"load_in_4bit": True})
    with pytest.raises(TracerError, match="without quantisation"):
        check_editable(model, names_of(model, [1]))


def test_what_has_no_such_weight_or_layer(tiny: Tiny) -> None:
    model = tiny("gpt2")
    with pytest.raises(TracerError, match=r"no weight 'h.1.weight'.*for example 'transformer.h.0.mlp.c_proj.weight'"):
        check_editable(model, ["h.1.weight"])
    with pytest.raises(TracerError, match="layer from 0 to 3, got 4"):
        names_of(model, [1, 4])
    with pytest.raises(TracerError, match="one weight under two names"):
        check_editable(model, ["transformer.wte.weight", "lm_head.weight"])
    assert names_of(model, [2, 0]) == [f"transformer.h.{layer}.mlp.c_proj.weight" for layer in (2, 0)]


@pytest.mark.parametrize(
    ("dtype", "change", "message"),
    [
        ("float32", lambda u, v: (u * float("nan"), v), "not finite in torch.float32"),
        ("float32", lambda u, v: (u * 1e30, v * 1e30), "not finite in torch.float32"),
        ("float16", lambda u, v: (u * 1e6, v), "not finite in torch.float16.*wider dtype"),
        ("float32", lambda u, v: (v, u), r"U \[32, 1\] and V \[64, 1\], but the weight is \[64, 32\]"),
        ("float32", lambda u, v: (u, v.repeat(1, 2)), r"V \[32, 2\]"),
    ],
)
def test_a_change_that_does_not_work_out_changes_nothing(
    dtype: str, change: Callable, message: str, tiny_folder: Callable
) -> None:
    model = load(tiny_folder("gpt2"), dtype=dtype)
    before = model.fingerprint()
    (fine, pair), (wrong, other) = handmade(model, (0, 1)).factors.items()
    with pytest.raises(TracerError, match=message) as error, applied(model, {fine: pair, wrong: change(*other)}):
        raise AssertionError("inside")
    assert wrong in str(error.value)
    assert model.fingerprint() == before


# --- orientation ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_orientation(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    assert orientation_of(model, names_of(model, range(4))) == model.down_projection(0).orientation
    embedding = next(name for name, p in model.hf.named_parameters() if p is model.module("embed").weight)
    assert orientation_of(model, [embedding]) is None
    assert orientation_of(model, ["none.weight"]) is None


def test_orientation_of_both_kinds_together_is_none(tiny_folder: Callable) -> None:
    model = load(tiny_folder("gpt2"))
    assert orientation_of(model, ["transformer.h.0.mlp.c_proj.weight", "lm_head.weight"]) is None
