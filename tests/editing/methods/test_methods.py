"""The closed forms against their definitions written out, on every architecture, and what they leave untouched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from closed_forms import CAUSAL, OWN, QUICK, SEVERAL, SPREAD, TEXT, change, evidence
from torch import Tensor

from editing.covariance.covariance import Covariance
from editing.covariance.estimate import estimate_covariance
from editing.edits.edit import Edit
from editing.edits.weights import applied
from editing.methods.compute import compute_edit, compute_edits
from editing.request import EditRequest
from tracer.engine.arriving import behind_norm
from tracer.engine.hooks import Site, capture
from tracer.model import Model, load

VALUE = ("rome", "r_rome", "memit", "emmet", "alphaedit", "pmet")


def damped(moment: Covariance, layer: int) -> Tensor:
    matrix = moment.matrix(layer).double()
    return matrix + QUICK["damping"] * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


def value_at(model: Model, request: EditRequest, layer: int) -> tuple[Tensor, Tensor]:
    """Key and value of the bare prompt at the last subject token."""
    found = request.fact.align(model)
    token = found.subject_range[1] - 1
    sites = [Site("key", layer, token), Site("value", layer, token)]
    states = capture(model, list(found.input_ids), sites)
    return states[sites[0]][0].detach(), states[sites[1]][0].detach()


@pytest.mark.parametrize("name", CAUSAL)
def test_rome_maps_the_bare_key_to_the_target(name: str, exact: Any) -> None:
    model, moment = exact(name)
    before = model.fingerprint()
    edit = compute_edit(model, SEVERAL[0], "rome", layers=[1], covariance=moment, **QUICK)
    assert model.fingerprint() == before
    key, value = value_at(model, SEVERAL[0], 1)
    target = evidence(edit, "target_init")[0] + evidence(edit, "delta")[0]
    moved = key @ change(edit, model, 1)
    torch.testing.assert_close(moved, target - value, rtol=1e-4, atol=1e-4)
    assert moved.norm() > 0.05
    # and along C^-1 k*, the direction that disturbs other keys least
    direction = torch.linalg.solve(damped(moment, 1), evidence(edit, "k_star")[0])
    left = change(edit, model, 1) @ moved / moved.norm() ** 2
    cosine = torch.nn.functional.cosine_similarity(left, direction, dim=0)
    assert float(cosine) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_r_rome_maps_the_mean_key_to_the_target(name: str, exact: Any) -> None:
    model, moment = exact(name)
    edit = compute_edit(model, SEVERAL[0], "r-rome", layers=[1], covariance=moment, **QUICK)
    target = evidence(edit, "target_init")[0] + evidence(edit, "delta")[0]
    mean = evidence(edit, "k_star")[0]
    torch.testing.assert_close(evidence(edit, "cur_input")[0], mean)
    torch.testing.assert_close(
        mean @ change(edit, model, 1), target - evidence(edit, "cur_output")[0], rtol=1e-4, atol=1e-4
    )


def test_rome_without_the_covariance_writes_along_the_key(exact: Any) -> None:
    model, moment = exact("gpt2")
    edit = compute_edit(model, SEVERAL[0], "rome", layers=[1], covariance=moment, mom2_adjustment=False, **QUICK)
    left, _ = edit.factors[model.down_projection(1).name]
    key = evidence(edit, "k_star")[0]
    torch.testing.assert_close(left[:, 0].double(), key / key.norm(), rtol=1e-5, atol=1e-6)


def test_several_requests_of_rome_are_written_one_after_the_other(exact: Any) -> None:
    model, moment = exact("llama")
    edit = compute_edit(model, SEVERAL, "rome", layers=[1], covariance=moment, **QUICK)
    (pair,) = edit.factors.values()
    assert pair[0].shape[1] == 3
    whole = torch.zeros_like(change(edit, model, 1))
    for i, request in enumerate(SEVERAL):  # each maps its key right when it is written
        part = edit.factors[model.down_projection(1).name]
        u, v = part[1][:, i].double(), part[0][:, i].double()  # Linear: stored [d_model, d_mlp]
        whole += torch.outer(u, v)
        key, value = value_at(model, request, 1)
        target = evidence(edit, "target_init")[i] + evidence(edit, "delta")[i]
        torch.testing.assert_close(value + key @ whole, target, rtol=1e-4, atol=1e-4)


def test_rome_at_two_layers_writes_the_second_on_top_of_the_first(exact: Any) -> None:
    model, moment = exact("gpt2")
    both = compute_edit(model, SEVERAL[0], "rome", layers=[1, 2], covariance=moment, **QUICK)
    first = compute_edit(model, SEVERAL[0], "rome", layers=[1], covariance=moment, **QUICK)
    name = model.down_projection(1).name
    torch.testing.assert_close(both.to_dense()[name], first.to_dense()[name])
    with applied(model, first.factors):
        origin = moment.fingerprint
        second = compute_edit(model, SEVERAL[0], "rome", layers=[2], covariance=moment, origin=origin, **QUICK)
    name = model.down_projection(2).name
    torch.testing.assert_close(both.to_dense()[name], second.to_dense()[name])


def literal(
    method: str, model: Model, moment: Covariance, requests: Sequence[EditRequest], layers: Sequence[int], edit: Edit
) -> dict[int, Tensor]:
    """The changes by the formulas of the papers, as d_mlp x d_mlp systems, from the states that were found."""
    kind = "mlp" if method == "pmet" else "hidden"
    templates = [(("{}",), 1.0), (("It is said. {}",), 1.0)]
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    changes: dict[int, Tensor] = {}
    for place, layer in enumerate(layers):
        with applied(model, factors):
            keys, there, values = [], [], []
            for request in requests:
                own = []
                for (text,), _ in templates:
                    wrapped = EditRequest(text.replace("{}", request.prompt), request.subject, request.target_new)
                    own.append(value_at(model, wrapped, layer)[0])
                keys.append(torch.stack(own).mean(0))
                found = request.fact.align(model)
                site = Site(kind, layers[-1], found.subject_range[1] - 1)
                there.append(capture(model, list(found.input_ids), [site])[site][0].detach())
                values.append(value_at(model, request, layer)[1])
        k, h, m = torch.stack(keys, 1), torch.stack(there, 1), torch.stack(values, 1)
        left = len(layers) - place
        r = (evidence(edit, "zs") - h) / (left**0.5 if method == "pmet" else left)
        if behind_norm(model, layer):  # the values, as long as they are, in the direction that brings r
            norm = model.module("mlp", layer)
            with torch.no_grad():
                gain = norm(torch.ones(1, 1, model.d_model, dtype=model.dtype))[0, 0]
                wanted = (norm(m.T[None])[0].T + r) / gain[:, None]
            r = wanted * m.norm(dim=0) / wanted.norm(dim=0) - m
        c, eye = damped(moment, layer), torch.eye(len(k), dtype=k.dtype)
        if method in ("memit", "pmet"):
            delta = r @ k.T @ torch.linalg.inv(50.0 * c + k @ k.T)
        elif method == "emmet":
            inner = k.T @ torch.linalg.inv(c) @ k
            inner = inner + 0.2 * torch.eye(len(inner), dtype=inner.dtype)
            delta = r @ torch.linalg.inv(inner) @ k.T @ torch.linalg.inv(c)
        else:
            values, vectors = torch.linalg.eigh(moment.matrix(layer).double())
            small = vectors[:, values < 0.05]
            assert 0 < small.shape[1] < len(k)
            p = small @ small.T
            delta = torch.linalg.solve(p @ (k @ k.T) + 0.3 * eye, p @ k @ r.T).T
        changes[layer] = delta.T
        down = model.down_projection(layer)
        u, v = delta.T, torch.eye(delta.shape[0], dtype=delta.dtype)
        factors[down.name] = (u, v) if down.orientation == "in_out" else (v, u)
    return changes


@pytest.mark.parametrize("method", SPREAD)
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "opt", "gemma2"])
def test_closed_forms_are_those_of_the_papers(name: str, method: str, exact: Any) -> None:
    model, moment = exact(name)
    before = model.fingerprint()
    edit = compute_edit(model, SEVERAL, method, layers=[1, 2], covariance=moment, **{**QUICK, **OWN[method]})
    assert model.fingerprint() == before
    expected = literal(method, model, moment, SEVERAL, [1, 2], edit)
    for layer in (1, 2):
        found = change(edit, model, layer)
        assert float((found - expected[layer]).norm() / expected[layer].norm()) < 1e-4
        assert float(found.norm()) > 1e-3


@pytest.mark.parametrize("method", VALUE)
@pytest.mark.parametrize("name", [*CAUSAL, *(one for one in checkpoints.BEHIND if one not in CAUSAL)])
def test_every_method_brings_every_architecture_to_its_target_states(name: str, method: str, exact: Any) -> None:
    model, moment = exact(name)
    kind = "value" if "rome" in method else "mlp" if method == "pmet" else "hidden"
    turned = "rome" not in method and behind_norm(model, 1)
    assert turned == ("rome" not in method and name in checkpoints.BEHIND and name != "granite")
    own: dict[str, dict[str, Any]] = {
        "memit": {"mom2_weight": 1e-6},
        "pmet": {"mom2_weight": 1e-6},
        "emmet": {"emmet_lambda": 1e-8},
        "alphaedit": {"nullspace_share": 1.0, "ridge": 1e-8},
    }
    settings = {**QUICK, "context_templates": ["{}"], **own.get(method, {})}
    # behind a norm one layer brings all that is wanted; what an earlier one brought changes what a later one can
    layers = [1] if "rome" in method else [2] if turned else [1, 2]
    edit = compute_edit(model, SEVERAL[0], method, layers=layers, covariance=moment, **settings)
    found = SEVERAL[0].fact.align(model)
    site = Site(kind, layers[-1], found.subject_range[1] - 1)
    with applied(model, edit.factors):
        there = capture(model, list(found.input_ids), [site])[site][0].detach()
    init = evidence(edit, "target_init")[0]
    target = init + evidence(edit, "delta")[0] if "rome" in method else evidence(edit, "zs").T.reshape(-1)
    assert (target - init).norm() > 0.1
    torch.testing.assert_close(there, target, rtol=1e-3, atol=1e-3 * float((target - init).norm()))


@pytest.mark.parametrize("method", VALUE)
def test_groups_computed_together_are_those_computed_alone(method: str, exact: Any) -> None:
    model, moment = exact("llama")
    layers = [1] if "rome" in method else [1, 2]
    settings: Any = {"layers": layers, "covariance": moment, **QUICK}
    together = compute_edits(model, [SEVERAL[:2], [SEVERAL[2]]], method, **settings)
    for group, edit in zip((SEVERAL[:2], [SEVERAL[2]]), together, strict=True):
        alone = compute_edit(model, group, method, **settings)
        assert alone.requests == edit.requests == tuple(group)
        for name, dense in alone.to_dense().items():
            assert float((dense - edit.to_dense()[name]).norm() / dense.norm()) < 1e-5


@pytest.mark.parametrize("method", VALUE)
def test_the_same_inputs_give_the_same_bits(method: str, tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    moment = estimate_covariance(model, None, TEXT, window=32, cache=False)
    settings: Any = {"v_steps": 3, "damping": 0.01, "known": "edit", "covariance": moment, "seed": 3}
    one, two = (compute_edit(model, SEVERAL[:2], method, **settings) for _ in range(2))
    assert one.settings == two.settings
    assert one.settings["context_templates"][0] == ["{}"]
    for name, pair in one.factors.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, two.factors[name], strict=True))
    again = compute_edit(
        model, SEVERAL[:2], method, **{**settings, "seed": 9, "context_templates": one.settings["context_templates"]}
    )
    for name, pair in one.factors.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, again.factors[name], strict=True))
    other = compute_edit(model, SEVERAL[:2], method, **{**settings, "seed": 9})
    assert other.settings["context_templates"] != one.settings["context_templates"]


@pytest.mark.parametrize("method", VALUE)
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom"])
def test_bfloat16(name: str, method: str, tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder(name), dtype=torch.bfloat16)
    before = model.fingerprint()
    moment = estimate_covariance(model, None, TEXT, window=32, cache=False)
    edit = compute_edit(model, SEVERAL[:2], method, covariance=moment, **{**QUICK, "clamp": None, "v_lr": None})
    assert model.fingerprint() == before
    for pair in edit.factors.values():
        assert pair[0].dtype == torch.float32 and all(bool(torch.isfinite(part).all()) for part in pair)
    # close to what float32 gives: bfloat16 keeps eight bits
    single = load(tiny_folder(name))
    moment32 = estimate_covariance(single, None, TEXT, window=32, cache=False)
    like = compute_edit(single, SEVERAL[:2], method, covariance=moment32, **{**QUICK, "clamp": None, "v_lr": None})
    for key, dense in like.to_dense().items():
        other = edit.to_dense()[key]
        assert float(torch.nn.functional.cosine_similarity(dense.flatten(), other.flatten(), dim=0)) > 0.8
