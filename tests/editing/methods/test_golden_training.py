"""Fine-tuning, adapters and edits of neurons against the published code's own outputs, with the published settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
import torch
from goldens import Arrays, relative

from editing.edits.edit import Edit
from editing.edits.weights import applied
from editing.methods.compute import compute_edit
from editing.request import EditRequest
from tracer.engine.answer import own_answer
from tracer.model import Model
from tracer.neurons import attribute_neurons

LAYER, LAYERS = 3, [2, 3, 4]
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, Any]:
    return goldens.cases(golden)


def arrays(golden: Path, name: str) -> Arrays:
    return goldens.arrays(golden / "edits" / f"{name}.npz")


def compute(model: Model, cases: Any, method: str, places: list[int], like: str = "gpt2-xl", **numbers: Any) -> Edit:
    given = goldens.settings(method, like, **numbers)
    return compute_edit(model, [cases["requests"][i] for i in places], method, check=None, **given)


def losses(edit: Edit) -> Any:
    """[passes, requests], of which the last is of the state that was reached."""
    assert edit.evidence is not None
    return edit.evidence["loss"].numpy()


# --- FT-L and FT-M ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("case", "places"),
    [
        ("ft_l.single", [1]),
        ("ft_l.multi", [0]),
        ("ft_m.multi", [0]),
        ("ft_l.batch", [0, 1, 2]),
        ("ft_m.batches_of_1", [0, 1, 2]),
    ],
)
def test_constrained_fine_tuning_is_as_published(
    case: str, places: list[int], golden: Path, golden_model: Model, cases: Any
) -> None:
    theirs, own = arrays(golden, "ft"), cases["ft"]
    numbers: dict[str, Any] = {"lr": own["lr"], "norm_constraint": own["eps"], "steps": own["steps"]}
    if case.endswith("of_1"):
        numbers["batch_size"] = 1
    edit = compute(golden_model, cases, case[:4], places, layers=[LAYER], **numbers)
    change = edit.to_dense()[golden_model.down_projection(LAYER).name]
    assert relative(change, theirs[f"{case}.change"]) < TOLERANCE
    assert float(change.norm()) == pytest.approx(float(theirs[f"{case}.norm"]), rel=TOLERANCE)
    at_bound = float((change.abs() > own["eps"] * (1 - 1e-4)).float().mean())
    assert at_bound == pytest.approx(float(theirs[f"{case}.at_bound"]), abs=TOLERANCE)
    curve = losses(edit)[:-1]  # theirs are of before each step
    expected = theirs[f"{case}.loss"]
    curve = curve.reshape(-1) if expected.shape == (curve.size,) else curve.mean(1)
    np.testing.assert_allclose(curve, expected, atol=1e-4)


@pytest.mark.parametrize(("case", "place"), [("ft_l.stop", 1), ("ft_m.stop", 0)])
def test_fine_tuning_stops_where_the_published_one_stops(
    case: str, place: int, golden: Path, golden_model: Model, cases: Any
) -> None:
    theirs = arrays(golden, "ft")
    numbers: dict[str, Any] = {"lr": 5e-3, "norm_constraint": False}
    edit = compute(golden_model, cases, case[:4], [place], layers=[LAYER], **numbers)
    change = edit.to_dense()[golden_model.down_projection(LAYER).name]
    assert relative(change[::8], theirs[f"{case}.change_rows"]) < TOLERANCE
    assert float(change.norm()) == pytest.approx(float(theirs[f"{case}.norm"]), rel=TOLERANCE)
    curve = losses(edit)[:, 0]
    expected = theirs[f"{case}.loss"]
    assert expected[-1] < 1e-2 <= expected[:-1].min()
    np.testing.assert_allclose(curve[: len(expected)], expected, atol=1e-4)
    assert len(curve) == len(expected) + 1  # it is taken once more, of the state that was reached
    assert curve[-1] == pytest.approx(curve[-2], abs=1e-4)


# --- LoRA ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("case", "places", "module"),
    [("one", [1], "mlp.c_proj"), ("two_tokens", [0], "c_attn"), ("three_by_one", [0, 1, 2], "c_attn")],
)
def test_plain_lora_is_as_published(
    case: str, places: list[int], module: str, golden: Path, golden_model: Model, cases: Any
) -> None:
    theirs, own = arrays(golden, "lora"), cases["lora"]
    numbers = {name: own[name] for name in ("lr", "steps", "rank", "alpha")}
    edit = compute(golden_model, cases, "lora", places, layers=LAYERS, modules=[module], dropout=0.0, **numbers)
    names = {name.split(".change.")[1].rpartition(".")[0] for name in theirs if name.startswith(f"{case}.change.")}
    assert names == set(edit.factors)
    for name, change in edit.to_dense().items():
        left, right = (theirs[f"{case}.change.{name}.{side}"] for side in ("left", "right"))
        assert relative(change, left @ right.T) < TOLERANCE
    np.testing.assert_allclose(losses(edit)[:-1].reshape(-1), theirs[f"{case}.loss"], atol=2e-4)


# --- knowledge neurons -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", [1, 2])
def test_knowledge_neurons_are_as_published(place: int, golden: Path, golden_model: Model, cases: Any) -> None:
    theirs, own = arrays(golden, "kn"), cases["kn"]
    request = EditRequest.of(cases["requests"][place])
    found = attributed(golden_model, request, request.target_true, own["steps"])
    np.testing.assert_allclose(found, theirs[f"{place}.scores"], atol=1e-6)
    assert relative(found, theirs[f"{place}.scores"]) < 1e-5
    edit = compute(golden_model, cases, "kn", [place], threshold=own["threshold"], share=own["p"])
    assert edit.evidence is not None
    neurons = edit.evidence["neurons"][:, 1:].numpy()
    assert sorted(map(tuple, neurons)) == sorted(map(tuple, theirs[f"{place}.neurons"]))
    assert_rows(edit, golden_model, theirs, place)
    assert probability(golden_model, request) == pytest.approx(float(theirs[f"{place}.before"]), rel=1e-4)
    with applied(golden_model, edit.factors):
        assert probability(golden_model, request) == pytest.approx(float(theirs[f"{place}.after"]), rel=1e-4)


def test_answers_of_several_tokens_count_otherwise_in_the_published_code(
    golden: Path, golden_model: Model, cases: Any
) -> None:
    """There every token is scored behind the prompt, so that the second one's scores are nothing to its credit, and the
    old answer's first token alone is taken off. Given these neurons and this token the change is the published one."""
    theirs, request = arrays(golden, "kn"), EditRequest.of(cases["requests"][0])
    first = str(golden_model.tokenizer.decode(own_answer(golden_model, request.about(None))))
    assert str(request.target_true).startswith(first) and request.target_true != first
    found = attributed(golden_model, request, first, cases["kn"]["steps"])
    assert relative(found / 2, theirs["0.scores"]) < 2e-3
    tokens = request.fact.align(golden_model).target_ids
    assert len(tokens) == len(set(tokens)) == 2
    settings = goldens.settings("kn", "gpt2-xl", lambda2=float(len(tokens)))  # the mean counts here, there the sum
    neurons = [tuple(map(int, pair)) for pair in theirs["0.neurons"]]
    asked = EditRequest(request.prompt, request.subject, request.target_new, first)
    edit = compute_edit(golden_model, asked, "kn", check=None, neurons=neurons, **settings)
    assert_rows(edit, golden_model, theirs, 0)


def attributed(model: Model, request: EditRequest, answer: str | None, steps: int) -> Any:
    """[layers, d_mlp]: scores as the published code takes them."""
    options: dict[str, Any] = {"steps": steps, "rule": "published", "site": "pre", "token": "answer"}
    return attribute_neurons(model, request.about(answer), **options).scores


def assert_rows(edit: Edit, model: Model, theirs: Arrays, place: int) -> None:
    """The published rows moved, by what was published, and no others."""
    layers = {int(name.rpartition(".")[2]) for name in theirs if name.startswith(f"{place}.rows.")}
    dense = edit.to_dense()
    assert {*dense} == {model.down_projection(layer).name for layer in layers}
    for layer in layers:
        change, rows = dense[model.down_projection(layer).name], theirs[f"{place}.rows.{layer}"]
        assert relative(change[rows], theirs[f"{place}.change.{layer}"]) < 1e-6
        assert change.abs().sum(1).nonzero().flatten().tolist() == sorted(rows.tolist())


def probability(model: Model, request: EditRequest) -> float:
    """Of the new answer of one token."""
    (token,) = request.fact.align(model).target_ids
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([request.fact.align(model).input_ids])).logits[0, -1]
    return float(logits.double().softmax(-1)[token])
