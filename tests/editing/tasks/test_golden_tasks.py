"""Task arithmetic against what the published code gave: task vectors, their sums at every factor, adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import Arrays, arrays

from editing import Edit, EditRequest, finetune, scaled_losses
from editing.tasks import cosines, mixed_adapters, mixed_scales, negated_scales
from tracer import Model


@pytest.fixture(scope="module")
def theirs(golden: Path) -> Arrays:
    return arrays(golden / "retrieval" / "task_vectors.npz")


@pytest.fixture(scope="module")
def sets(theirs: Arrays) -> dict[str, list[EditRequest]]:
    def request(prompt: str, target: str) -> EditRequest:
        words = prompt.removeprefix("The mother tongue of ").split()
        subject = " ".join(words[:2])
        return EditRequest(prompt.replace(subject, "{}"), subject, target)

    return {name: [request(*pair) for pair in some] for name, some in json.loads(str(theirs["sets"])).items()}


@pytest.fixture(scope="module")
def vectors(golden_model: Model, theirs: Arrays, sets: dict[str, list[EditRequest]]) -> dict[str, Edit]:
    same: dict[str, Any] = {name: float(theirs[name]) for name in ("lr", "weight_decay")}
    same |= {"steps": int(theirs["steps"]), "clip_norm": float(theirs["clip"]), "stop_loss": 0, "check": None}
    return {name: finetune(golden_model, sets[name], **same) for name in "ABC"}


@pytest.mark.parametrize("name", "ABC")
def test_task_vectors_are_the_published_ones(name: str, vectors: dict[str, Edit], theirs: Arrays) -> None:
    edit = vectors[name]
    assert edit.evidence is not None
    np.testing.assert_allclose(edit.evidence["loss"][:-1], theirs[f"loss_{name}"], rtol=1e-3, atol=1e-5)
    assert sorted(edit.weights) == sorted(theirs["names"].tolist())  # the tied matrix once
    norms, probes = theirs[f"norm_{name}"], theirs[f"probe_{name}"]
    for weight, norm, probe in zip(theirs["names"], norms, probes, strict=True):
        assert edit.norm()[str(weight)] == pytest.approx(float(norm), rel=1e-2)
        first = edit.deltas[str(weight)].flatten()[: len(probe)]
        np.testing.assert_allclose(first, probe[: len(first)], atol=1e-2 * float(np.abs(probe).max()))
    assert edit.deltas[str(theirs["names"][0])].dtype == torch.float32


def test_cosines_are_the_published_ones(vectors: dict[str, Edit], theirs: Arrays) -> None:
    np.testing.assert_allclose(cosines([vectors[name] for name in "ABC"]), theirs["cosine"], atol=1e-4)


@pytest.mark.parametrize("formula", ["A", "-A", "A+B", "A+B+C", "C+B-A"])
def test_losses_of_sums_at_every_factor_are_the_published_ones(
    formula: str, golden_model: Model, vectors: dict[str, Edit], theirs: Arrays, sets: dict[str, list[EditRequest]]
) -> None:
    rows = theirs["grid_ops"] == formula
    edit: Edit = eval(formula, dict(vectors))
    found = scaled_losses(golden_model, edit, sets, theirs["grid_lambda"][rows].tolist())
    assert found.factors == (0.0, *theirs["grid_lambda"][rows])
    losses = np.stack([found.losses[name] for name in ("A", "B", "C", "control")], 1)
    np.testing.assert_allclose(losses[0], theirs["base_nll"], rtol=1e-4)
    np.testing.assert_allclose(losses[1:], theirs["grid_nll"][rows], rtol=1e-2)


def test_adapters_are_mixed_and_negated_as_published(theirs: Arrays) -> None:
    """Factors before they are multiplied; either of them is negated, both would cancel."""

    def adapter(number: int) -> Edit:
        b, a = (torch.tensor(theirs[f"lora_{side}{number}"]) for side in "BA")
        return Edit({"w": (b, a.T)}, "lora", {}, (), "same", "a model")

    mixed = mixed_adapters(adapter(1), adapter(2)).to_dense()["w"]
    np.testing.assert_allclose(mixed, theirs["lora_add"], atol=1e-6)
    total = (0.5 * adapter(1) + 0.5 * adapter(2)).to_dense()["w"]
    assert float((total - mixed).norm()) > 0.1 * float(mixed.norm())
    np.testing.assert_allclose((-0.7 * adapter(1)).to_dense()["w"], theirs["lora_neg"], atol=1e-6)
    np.testing.assert_allclose(mixed_scales(theirs["ia3_1"], theirs["ia3_2"]), theirs["ia3_add"], atol=1e-6)
    np.testing.assert_allclose(negated_scales(theirs["ia3_1"], 0.7), theirs["ia3_neg"], atol=1e-6)
