"""What holds of trained editors whatever the model: their changes are ordinary edits, and stand alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_command import RECORDS as GIVEN
from handmade import own

import editing
from editing.edits.weights import applied
from editing.methods.meta.episodes import line_of
from editing.methods.meta.factors import inputs_at, token_factors
from editing.methods.meta.losses import effect, kl
from editing.methods.meta.lowrank import LowRank, compressed, edited
from editing.methods.meta.malmen import solved
from editing.methods.meta.mend import Mend
from editing.methods.meta.nets import Nets, new_parameters
from editing.methods.meta.places import keys_of, places_of
from editing.methods.meta.statistics import Statistics
from editing.methods.meta.whitening import Whitening
from editing.methods.training import losses, read_logits
from editing.prepared.default import SHIPPED
from tracer import Model, TracerError
from tracer.engine.above import Above
from tracer.engine.answer import own_answer
from tracer.engine.hooks import capture, frozen
from tracer.engine.sites import Site

Tiny = Callable[[str], Model]
RECORDS = json.loads(json.dumps(GIVEN).replace("Rome", "Seattle"))  # which every tiny tokenizer has tokens for
ARCHITECTURES = ("gpt2", "llama", "gemma3", "bloom", "opt", "neox", "phi3")
REQUESTS = [
    editing.EditRequest("{} is in", "The Space Needle", "Paris"),
    editing.EditRequest("{} plays the", "Miles Davis", "capital of France"),
    editing.EditRequest("{} was born in the city of", "Yo-Yo Ma", "Seattle"),
]
QUICK: dict[str, Any] = {
    "steps": 0,
    "rank": 4,
    "measured": 4,
    "cache": False,
    "held_out": RECORDS[:1],
    "directions": 0,
}
EDIT: dict[str, Any] = {"known": "edit", "check": None}


@pytest.fixture(scope="module")
def prepared(tiny: Tiny) -> Callable[[str, str], editing.Prepared]:
    """Editors of random nets, quick to make: what holds of them holds of trained ones."""
    made: dict[tuple[str, str], editing.Prepared] = {}

    def of(method: str, name: str) -> editing.Prepared:
        if (method, name) not in made:
            plain = editing.prepare(tiny(name), method, RECORDS, edits=[1, 3], projections=None, **QUICK)
            draw = torch.Generator().manual_seed(0)
            tensors = {
                part: torch.randn(tensor.shape, generator=draw).half() * 0.1 if "/B." in part else tensor
                for part, tensor in plain.tensors.items()
            }
            made[method, name] = replace(plain, tensors={**tensors, "rate": 0.1 * torch.ones_like(tensors["rate"])})
        return made[method, name]

    return of


def close(found: torch.Tensor, expected: torch.Tensor, allowed: float = 1e-4) -> bool:
    return float((found.double() - expected.double()).norm()) <= allowed * float(expected.double().norm())


# --- factors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "rule"), [*((name, "weighted") for name in ARCHITECTURES), ("gpt2", "mend")])
def test_factors_make_up_the_gradient_and_an_identical_net_gives_it(name: str, rule: str, tiny: Tiny) -> None:
    model = own(tiny(name))
    places = places_of(model, keys_of(model, None, None))
    assert {place.key.partition(".")[2] for place in places} == set(model.projections(0))
    rows = [line_of(model, request.fact) for request in REQUESTS]
    weights = [model.hf.get_parameter(place.weight) for place in places]
    with torch.enable_grad():
        losses(model, rows[:1]).sum().backward()
    gradients = {place.key: weight.grad.clone() for place, weight in zip(places, weights, strict=True)}  # type: ignore[union-attr]
    parameters = {
        **new_parameters(places, rule, 4, 2, 1.0, torch.Generator(), model.device),
        "rate": torch.ones(len(places)),
    }
    statistics = {
        p.shape: replace(Statistics.none(sum(p.width)), count=2.0, squares=torch.ones(sum(p.width))) for p in places
    }
    nets = Nets(places, parameters, statistics, blocks=2, rule=rule, epsilon=0.0, floor=0.0)
    with frozen(model):
        alone = Mend(nets).changes(model, [rows[:1]])
        among = Mend(nets).changes(model, [rows[1:2], rows[:1], rows[2:]], max_rows=2)
    for place in places:
        for low, group in ((alone.low, 0), (among.low, 1)):
            u, v = low[place.key].factors(place, group)
            assert close(u @ v.T, gradients[place.key]), place.key


def test_a_group_does_not_see_others_and_no_parameter_gets_a_gradient(tiny: Tiny) -> None:
    model = own(tiny("llama"))
    before = model.fingerprint()
    rows = [line_of(model, request.fact) for request in REQUESTS]
    places = places_of(model, ("2.down", "3.gate"))
    with frozen(model):
        whole = token_factors(model, rows, places, [0, 1, 2])
        parts = [token_factors(model, [row], places) for row in rows]
    for place in places:
        for name in ("x", "delta"):
            apart = torch.cat([getattr(part.factors[place.key], name) for part in parts])
            assert close(getattr(whole.factors[place.key], name), apart)
    assert all(parameter.grad is None for parameter in model.hf.parameters()) and model.fingerprint() == before
    assert not any(module._forward_hooks for module in model.hf.modules())


# --- the forward of low rank -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "gemma3", "opt"])
def test_a_forward_of_low_rank_is_that_of_the_written_edit(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    places = places_of(model, keys_of(model, (1, 3), None))
    draw = torch.Generator().manual_seed(1)
    low = {
        place.key: LowRank(*(0.3 * torch.randn(2, 3, width, generator=draw) for width in place.width))
        for place in places
    }
    rows = [line_of(model, request.fact) for request in REQUESTS]
    with torch.no_grad(), edited(model, places, low, [0, 1, 0]):
        together = read_logits(model, rows).split([len(row.read) for row in rows])
    for group, members in ((0, (0, 2)), (1, (1,))):
        factors = {place.weight: low[place.key].factors(place, group) for place in places}
        with applied(model, factors), torch.no_grad():
            for i in members:
                assert torch.allclose(together[i], read_logits(model, [rows[i]]), atol=1e-4)


def test_changes_add_up_and_are_put_together_exactly() -> None:
    draw = torch.Generator().manual_seed(0)
    one, two = (LowRank(torch.randn(2, n, 5, generator=draw), torch.randn(2, n, 7, generator=draw)) for n in (3, 4))
    x = torch.randn(2, 6, 5, generator=draw)
    group = torch.tensor([1, 0])
    assert torch.allclose(one.joined(two).added(x, group), one.added(x, group) + two.added(x, group), atol=1e-5)
    u, v = torch.randn(5, 40, generator=draw).double(), torch.randn(7, 40, generator=draw).double()
    small = compressed(u, v)
    assert small[0].shape == (5, 5) and torch.allclose(small[0] @ small[1].T, u @ v.T, atol=1e-12)


def test_the_ridge_is_that_of_either_side() -> None:
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    ridge = torch.tensor(0.3).double()
    white = Whitening.of(
        torch.randn(50, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([9.0, 4, 1, 1]), 2
    )
    moments = matrix_of(white)
    for given, c in ((None, torch.eye(4).double()), (white, moments)):
        gram = x.transpose(1, 2) @ x + ridge * c
        assert torch.allclose(solved(x, ridge, given), torch.linalg.solve(gram, x.transpose(1, 2)).transpose(1, 2))


def matrix_of(white: Whitening) -> torch.Tensor:
    directions, strength = white.directions.double(), white.strength.double()
    rest = torch.eye(len(directions)).double() - directions @ directions.T
    return directions @ torch.diag(strength[:-1]) @ directions.T + strength[-1] * rest


def test_whitening_is_that_of_the_second_moments() -> None:
    inputs = torch.randn(400, 12, generator=torch.Generator().manual_seed(0)) * torch.logspace(1, -2, 12)
    moments = (inputs.T.double() @ inputs.double()) / 400
    white = Whitening.of(inputs, 5)
    values = torch.linalg.eigvalsh(moments)
    assert torch.allclose(white.strength[:-1].double(), values[-5:])
    assert float(white.strength[-1]) == pytest.approx(max(float(values[:-5].mean()), 1e-2 * float(values.mean())))
    rows = torch.randn(3, 12, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    assert close(white.applied(rows).detach(), torch.linalg.solve(matrix_of(white), rows.detach().T).T)
    assert white.applied(rows).requires_grad and white.size == pytest.approx(float(matrix_of(white).diagonal().mean()))
    again = Whitening.kept(white.tensors("1.down"), "1.down")
    assert close(matrix_of(again), matrix_of(white), 1e-2)
    assert Whitening.of(inputs[:3], 9).directions.shape == (12, 3)  # no more than there are inputs


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_a_forward_that_begins_at_a_block_gives_the_same(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    rows = [line_of(model, request.fact) for request in REQUESTS]
    above = Above(model, 2, kept=1)  # nothing stays
    for some in (rows, rows[1:], rows):
        with torch.no_grad():
            with above.begun(some):
                found = read_logits(model, some)
            assert torch.allclose(found, read_logits(model, some), atol=1e-5)
    assert above._able and not above._states
    counted = []
    handle = model.module("attn", 0).register_forward_pre_hook(lambda *_: counted.append(1))
    kept = Above(model, 2)
    for _ in range(3):
        with kept.begun(rows), torch.no_grad():
            read_logits(model, rows)
    handle.remove()
    assert len(counted) == 1 + len(rows)  # one to see whether it can be done, and each row once


# --- edits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["mend", "malmen"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_edits_are_ordinary_ones(method: str, name: str, tiny: Tiny, prepared: Any, tmp_path: Path) -> None:
    model, editor = own(tiny(name)), prepared(method, name)
    before = model.fingerprint()
    digest = editor.digest
    batch = editing.compute_edit(model, REQUESTS, method, prepared=editor, **EDIT)
    assert batch.settings["prepared"] == digest == editor.digest and batch.settings["edits"] == [1, 3]
    assert set(batch.settings["layers"]) == {1, 2, 3}
    again = editing.compute_edit(model, REQUESTS, method, prepared=editor.save(tmp_path / "one"), max_rows=1, **EDIT)
    singles = editing.compute_edits(model, REQUESTS, method, prepared=editor, **EDIT)
    for weight in batch.weights:
        assert close(again.to_dense()[weight], batch.to_dense()[weight], 1e-3)
    alone = editing.compute_edit(model, REQUESTS[1], method, prepared=editor, **EDIT)
    assert all(close(alone.to_dense()[weight], singles[1].to_dense()[weight], 1e-3) for weight in alone.weights)
    ledger = editing.Editor(model, prepared=editor)
    for request in REQUESTS[:2]:  # the second on the edited model, with the editor of the first
        ledger.edit(request, method, **EDIT)
    ledger.apply(batch, force=True)
    assert model.fingerprint() != before
    ledger.reset()
    assert model.fingerprint() == before


def test_many_edits_have_no_higher_rank_than_the_matrix(tiny: Tiny, prepared: Any) -> None:
    model = tiny("gpt2")
    names = [f"Town {letter}{other}" for letter in "ABCDEF" for other in "vwxyz"]
    many = [editing.EditRequest("{} is in", name, "the city of Paris, France") for name in names]
    with pytest.warns(editing.request.EditWarning, match="was trained for 1 to 3 edits at once and is used for 30"):
        edit = editing.compute_edit(model, many, "malmen", prepared=prepared("malmen", "gpt2"), **EDIT)
    assert set(edit.rank().values()) == {32}
    x, wanted = ((edit.evidence or {})[f"{name}.2.down"].double() for name in ("x", "wanted"))
    assert len(x) > 64
    exact = torch.linalg.solve(x.T @ x + torch.eye(64).double(), x.T @ wanted)
    assert close(edit.to_dense()[model.down_projection(2).name], exact)


@pytest.mark.parametrize("method", ["mend", "malmen"])
def test_whitened_inputs_are_those_of_kept_facts(method: str, tiny: Tiny) -> None:
    """The change of an untrained editor: MEND's keys are C^-1 (x - mean), MALMEN's the rows of C^-1 X^T."""
    model = own(tiny("gpt2"))
    options = {**QUICK, "directions": 5, "layers": [2, 3], "edits": [1, 3], "rate": 1e-3, "floor": 0.0}
    prepared = editing.prepare(model, method, RECORDS, **options)
    editor = editing.Editor(model, prepared=prepared)
    evidence = (edit := editor.compute(REQUESTS[1], method, **EDIT)).evidence or {}
    for layer in (2, 3):
        white = Whitening.kept(prepared.tensors, f"{layer}.down")
        matrix = matrix_of(white)
        x, made, delta = (evidence[f"{name}.{layer}.down"].double() for name in ("x", "x_made", "delta_made"))
        if method == "malmen":
            wanted = -1e-3 * (x * made).sum(1, keepdim=True) * delta
            expected = torch.linalg.solve(x.T @ x + matrix, x.T @ wanted)
        else:
            spread = Statistics.of(prepared.tensors, "64x32").spread(64, 1e-7, 0.0)[:64]
            keys = torch.linalg.solve(matrix, (made * spread).T) * (white.size / spread.mean())
            expected = 1e-3 * keys @ delta
        assert close(edit.to_dense()[model.down_projection(layer).name], expected, 1e-3)
    asked = [line_of(model, editing.EditRequest("{} is in", "The Seine", "Seattle").fact)]
    (read,) = inputs_at(model, asked, places_of(model, ["2.down"])).values()
    site = Site("key", 2, len(asked[0].ids) - 1)
    assert torch.allclose(read[-1], capture(model, asked[0].ids, [site])[site][0])
    (read,) = inputs_at(model, asked, places_of(model, ["2.down"]), "subject_last").values()
    site = Site("key", 2, asked[0].lookup)
    assert len(read) == 1 and torch.allclose(read[0], capture(model, asked[0].ids, [site])[site][0])


@pytest.mark.parametrize("method", ["mend", "malmen"])
def test_published_statistics_move_with_the_edit(method: str, tiny: Tiny, prepared: Any) -> None:
    model, editor = tiny("gpt2"), prepared(method, "gpt2")
    requests = REQUESTS[1:]  # of several tokens: those of one have no spread
    plain, moved, again = (
        editing.compute_edit(model, requests, method, prepared=editor, published=published, **EDIT)
        for published in (False, True, True)
    )
    weight = plain.weights[0]
    assert not close(moved.to_dense()[weight], plain.to_dense()[weight], 1e-2)
    assert moved.same_as(again)


def test_what_does_not_go(tiny: Tiny, prepared: Any) -> None:
    model, editor = own(tiny("gpt2")), prepared("mend", "gpt2")
    for options, message in (
        ({"layers": [2]}, r"at the layers \[1, 2, 3\] of .* and \[2\] were asked for.*layers=\[2\]"),
        ({"prepared": prepared("malmen", "gpt2")}, "prepared for malmen, and mend was asked for"),
        ({"prepared": prepared("mend", "llama")}, "on the weights .* tracer prepare mend"),
        ({"prepared": replace(editor, tokenizer="0" * 64)}, "with the tokenizer 0000"),
        ({"prepared": None}, r"editing.prepare\(model, 'mend', records\).*tracer prepare mend RECORDS --out FILE"),
        ({"locate": [1]}, "mend takes no layers"),
        ({"published": 3}, "published is 3"),
    ):
        with pytest.raises(TracerError, match=message):
            editing.compute_edit(model, REQUESTS[0], "mend", **{"prepared": editor, **EDIT, **options})
    with pytest.raises(TracerError, match=r"has no projection 'gate'.*it has up, down"):
        editing.prepare(model, "mend", RECORDS, projections=["gate"], **QUICK)
    model.hf.is_quantized = True  # type: ignore[assignment]
    for act in (
        lambda: editing.prepare(model, "mend", RECORDS, **QUICK),
        lambda: editing.compute_edit(model, REQUESTS[0], "mend", prepared=editor, **EDIT),
    ):
        with pytest.raises(TracerError, match="without quantisation"):
            act()


def test_kl_and_effect(tiny: Tiny) -> None:
    p, q = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(
        -1
    )
    assert torch.allclose(kl(p, q), expected, atol=1e-6)
    model = tiny("gpt2")
    rows = [line_of(model, request.fact) for request in REQUESTS]
    with torch.no_grad():
        found = effect(model, (), {}, rows[:1], [0], rows[1:], [0, 0])
    assert bool(found.same.all()) and float(found.kl.abs().max()) < 1e-6
    assert len(found.nll) == len(rows[0].target) and len(found.kl) == sum(len(row.read) for row in rows[1:])


@pytest.mark.parametrize("method", ["mend", "malmen"])
def test_what_comes_with_the_package_edits_the_embedded_model(method: str, world: Model) -> None:
    records = editing.load_records("factworld", split="test", limit=12)
    requests = [record.requests()[0] for record in records]
    edits = editing.compute_edits(world, requests, method, check=None)
    said = []
    for request, edit in zip(requests, edits, strict=True):
        with edit.applied(world):
            said.append(tuple(own_answer(world, request.fact)) == tuple(request.fact.align(world).target_ids))
    assert sum(said) >= 10, said
    assert editing.load_prepared(SHIPPED / f"{method}-factworld.safetensors", world).nbytes < 2e6
