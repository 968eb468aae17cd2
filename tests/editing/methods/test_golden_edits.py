"""Edits against the published code's own outputs: keys, values, loss curves, changes of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
from goldens import relative
from torch import Tensor

from editing.covariance.covariance import Covariance
from editing.covariance.estimate import estimate_covariance
from editing.edits.edit import Edit
from editing.methods.compute import compute_edit
from tracer.model import Model

# as published, and as the files were made
PUBLISHED: dict[str, Any] = {"v_steps": 20, "v_lr": 0.5, "v_weight_decay": 0.5, "kl_factor": 0.0625}


@pytest.fixture(scope="module")
def covariance(golden: Path, golden_model: Model) -> Covariance:
    return estimate_covariance(golden_model, [1, 2, 3], golden / "text.txt", window=64, max_tokens=20000, cache=False)


@pytest.fixture(scope="module")
def museum(golden: Path) -> dict[str, Any]:
    return goldens.arrays(golden / "rome_museum.npz")


@pytest.fixture(scope="module")
def three(golden: Path) -> dict[str, Any]:
    return goldens.arrays(golden / "memit_three.npz")


@pytest.fixture(scope="module")
def rome(golden_model: Model, covariance: Covariance, museum: dict[str, Any]) -> Edit:
    return compute_edit(
        golden_model,
        {"prompt": "{} is in downtown", "subject": "The Dipea Museum", "target_new": " Shovea"},
        "rome",
        layers=[2],
        clamp=4,
        covariance=covariance,
        context_templates=[str(text) for text in museum["templates"]],
        **PUBLISHED,
    )


@pytest.fixture(scope="module")
def memit(golden: Path, golden_model: Model, covariance: Covariance) -> Edit:
    return compute_edit(
        golden_model,
        json.loads((golden / "memit_requests.json").read_text()),
        "memit",
        layers=[1, 2, 3],
        clamp=0.75,
        mom2_weight=100,
        covariance=covariance,
        context_templates=json.loads((golden / "memit_templates.json").read_text()),
        **PUBLISHED,
    )


def evidence(edit: Edit, name: str) -> Tensor:
    assert edit.evidence is not None
    return edit.evidence[name]


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        ("k_star", "k_star", 1e-6),
        ("cur_input", "cur_input", 1e-6),
        ("cur_output", "cur_output", 1e-6),
        ("target_init", "target_init", 1e-6),
        ("delta", "delta", 1e-5),
    ],
)
def test_rome_finds_the_published_key_and_value(
    rome: Edit, museum: dict[str, Any], ours: str, theirs: str, tolerance: float
) -> None:
    assert relative(evidence(rome, ours), museum[theirs]) < tolerance


def test_rome_changes_the_weight_as_published(rome: Edit, museum: dict[str, Any], golden_model: Model) -> None:
    (name,) = rome.factors
    assert name == str(museum["weight_name"])
    left, right = rome.factors[name]
    # the published inverse of the covariance is taken in float32
    assert relative(left, museum["left_vector"]) < 1e-3
    assert relative(right, museum["right_vector"]) < 1e-3
    change = rome.to_dense()[name]
    assert relative(change, np.outer(museum["left_vector"], museum["right_vector"])) < 1e-3
    assert change.shape == golden_model.hf.get_parameter(name).shape
    assert float(change.norm()) == pytest.approx(float(museum["weight_delta_norm"]), rel=1e-3)


def test_rome_has_the_published_loss_curve(rome: Edit, museum: dict[str, Any]) -> None:
    np.testing.assert_allclose(evidence(rome, "loss")[0].numpy(), museum["loss"], atol=1e-5)


def test_memit_finds_the_published_states(memit: Edit, three: dict[str, Any]) -> None:
    assert relative(evidence(memit, "zs"), three["zs"]) < 1e-5
    for i in range(3):
        np.testing.assert_allclose(evidence(memit, "loss")[i].numpy(), three[f"req{i}_loss"], atol=1e-5)
        assert relative(evidence(memit, "delta")[i], three[f"req{i}_delta"]) < 1e-5


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_memit_changes_every_layer_as_published(
    memit: Edit, three: dict[str, Any], golden_model: Model, layer: int
) -> None:
    assert relative(evidence(memit, f"keys.{layer}"), three[f"layer{layer}_ks"]) < 1e-5
    assert relative(evidence(memit, f"residual.{layer}"), three[f"layer{layer}_resid"]) < 1e-4
    change = memit.to_dense()[golden_model.down_projection(layer).name]
    assert relative(change, three[f"layer{layer}_adj_k"] @ three[f"layer{layer}_resid"].T) < 1e-3
    assert float(change.norm()) == pytest.approx(float(three[f"layer{layer}_dW_norm"]), rel=1e-3)
