"""Edits of whole tensors, of any shape: the contract that edits of factors keep, and sums of both kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import checkpoints
import pytest
import torch
from handmade import handmade, own

from editing import Edit, Editor, load_edit
from tracer import Model, TracerError

Tiny = Callable[[str], Model]


def whole(model: Model, seed: int = 0, size: float = 0.05, only: str = "") -> Edit:
    """Normal changes of every parameter, or of those with ``only`` in their names."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {
        name: size * torch.randn(parameter.shape, generator=generator)
        for name, parameter in model.hf.named_parameters()
        if only in name
    }
    return replace(handmade(model), factors={}, deltas=deltas)


@pytest.fixture
def model(tiny: Tiny) -> Model:
    return own(tiny("gpt2"))


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_weights_are_w_plus_d_and_then_the_same_bits(architecture: str, tiny: Tiny) -> None:
    """Vectors and embeddings too; a tied matrix once."""
    model = own(tiny(architecture))
    before, edit = model.fingerprint(), whole(model)
    old = {name: parameter.detach().clone() for name, parameter in model.hf.named_parameters()}
    assert set(edit.weights) == set(old) and {delta.dim() for delta in edit.deltas.values()} >= {1, 2}
    with edit.applied(model):
        for name, parameter in model.hf.named_parameters():
            expected = (old[name].double() + edit.deltas[name].double()).float()
            assert torch.equal(parameter, expected) and torch.equal(edit.on_weight(name, old[name]), expected)
    assert model.fingerprint() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype, model: Model) -> None:
    _ = model.hf.bfloat16() if dtype == torch.bfloat16 else model.hf.half()
    edit, name = whole(model, size=1e-3), model.down_projection(1).name
    expected = (model.hf.get_parameter(name).double() + edit.deltas[name].double()).to(dtype)
    with edit.applied(model):
        gap = (model.hf.get_parameter(name) != expected).double().mean()
    assert float(gap) < 1e-3  # where torch rounds twice, by way of float32


def test_sizes_are_those_of_the_dense_change(model: Model) -> None:
    edit = whole(model)
    dense = edit.to_dense()
    assert list(dense) == list(edit.norm()) == list(edit.rank()) == list(edit.weights)
    for name, delta in dense.items():
        assert edit.norm()[name] == pytest.approx(float(delta.norm()), rel=1e-6)
    assert edit.nbytes == sum(4 * delta.numel() for delta in dense.values())
    vector = next(name for name, delta in dense.items() if delta.dim() == 1)
    rows = edit.to_frame().set_index("weight")
    assert tuple(rows.loc[vector, ["rows", "columns", "rank"]]) == (len(dense[vector]), 1, 1)
    assert f"{vector} [{len(dense[vector])}]: norm" in "\n".join(edit.describe())


def test_multiples_and_sums_also_with_factors(model: Model) -> None:
    """A sum is what the changes add up to; operators are the methods."""
    dense, low = whole(model), handmade(model, (1, 3), (2, 4))
    both = dense + low
    assert not both.factors and set(both.deltas) == set(dense.deltas)
    for name, change in both.to_dense().items():
        expected = dense.deltas[name].double() + low.to_dense().get(name, torch.zeros(1)).double()
        torch.testing.assert_close(change.double(), expected, rtol=0, atol=1e-6)
    apart = whole(model, only="wte") + low
    assert set(apart.factors) == set(low.factors) and len(apart.deltas) == 1
    for made, meant in (
        (2 * low, low.scale(2)),
        (dense * 0.5, dense.scale(0.5)),
        (-dense, dense.scale(-1)),
        (low - dense, low.compose(dense.scale(-1))),
        (sum([low, dense]), low.compose(dense)),
    ):
        assert isinstance(made, Edit) and made.same_as(meant)
    nothing = dense - dense
    assert max(nothing.norm().values()) == 0
    with pytest.raises(TypeError):
        dense + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        dense * "2"  # type: ignore[operator]


def test_saved_and_loaded_it_is_the_same(model: Model, tmp_path: Path) -> None:
    for edit in (whole(model), whole(model, only="wpe") + handmade(model, (2,))):
        again = load_edit(edit.save(tmp_path / "edit"), model)
        assert again.same_as(edit) and again.digest() == edit.digest()
        assert all(torch.equal(again.deltas[name], delta) for name, delta in edit.deltas.items())
    assert not whole(model).same_as(whole(model, seed=1))


def test_history_and_ledger_take_it(model: Model, tmp_path: Path) -> None:
    start = model.fingerprint()
    editor = Editor(model, tmp_path / "ledger")
    editor.apply(whole(model))
    once = model.fingerprint()
    editor.apply(handmade(model, (0,)))
    editor.undo()
    assert model.fingerprint() == once
    again = Editor.open(tmp_path / "ledger", _fresh(editor))
    assert again.model.fingerprint() == once
    editor.undo()
    assert model.fingerprint() == start


def _fresh(editor: Editor) -> Model:
    fork = editor.fork()
    fork.checkout(0)
    return fork.model


def test_its_control_is_as_large_in_a_random_direction(model: Model) -> None:
    edit = whole(model)
    control = edit.control(3)
    assert control.norm() == pytest.approx(edit.norm(), rel=1e-5) and not control.same_as(edit)
    cosine = sum(float((a * control.deltas[name]).sum()) for name, a in edit.deltas.items())
    assert abs(cosine) < 0.05 * sum(norm**2 for norm in edit.norm().values())
    assert control.same_as(edit.control(3)) and not control.same_as(edit.control(4))


def test_what_it_cannot_be_is_said(model: Model, tmp_path: Path) -> None:
    edit, before = whole(model), model.fingerprint()
    name = model.down_projection(0).name
    with pytest.raises(TracerError, match="an adapter holds changes of low rank"):
        edit.to_peft(tmp_path / "adapter", model)
    with pytest.raises(TracerError, match="has factors and a delta"):
        replace(edit, factors=handmade(model, (0,)).factors)
    for delta, message in (
        (torch.zeros(3), r"is \[3\], but the weight is"),
        (torch.full_like(edit.deltas[name], torch.inf), "not finite"),
    ):
        wrong = replace(edit, deltas={name: delta})
        with pytest.raises(TracerError, match=message), wrong.applied(model):
            pass
    assert model.fingerprint() == before
