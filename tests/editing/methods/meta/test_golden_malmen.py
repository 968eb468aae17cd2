"""MALMEN against the outputs of the published code with fixed parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import golden_meta
import numpy as np
import pytest
import torch
from goldens import Arrays, arrays, relative

from editing.edits.weights import applied
from editing.methods.meta.losses import effect
from editing.methods.meta.malmen import Malmen
from editing.methods.training import losses
from tracer.engine.hooks import frozen
from tracer.model import Model


@pytest.fixture(scope="module")
def parameters(golden: Path) -> Arrays:
    return arrays(golden / "meta" / "malmen_params.npz")


CASES = {"frozen": (2, False), "published": (2, True), "one_block": (4, False)}


@pytest.mark.parametrize("case", CASES)
def test_an_edit_is_the_published_one(case: str, golden: Path, golden_model: Model, parameters: Arrays) -> None:
    theirs = arrays(golden / "meta" / f"malmen_four_{case}.npz")
    block, moving = CASES[case]
    editor = golden_meta.malmen(golden_model, parameters, block, moving)
    rows = [row for place in range(4 // block) for row in golden_meta.rows(theirs, f"block{place}/", shifted=True)]
    with frozen(golden_model):
        changes = editor.changes(golden_model, [rows], max_rows=3)
    for i, place in enumerate(editor.places):
        told, low = changes.told[place.key], changes.low[place.key]
        own = {"x": "x", "delta": "delta", "x_tilde": "x_made", "delta_tilde": "delta_made", "D": "wanted"}
        for name, ours in own.items():
            assert relative(told[ours], theirs[f"{name}.{i}"]) < 1e-5, (place.key, name)
        dense = low.u[0].double().T @ low.v[0].double()
        # theirs is solved in float32: the exact one, of their own factors, is met more closely
        x, wanted = (torch.tensor(theirs[f"{name}.{i}"]).double() for name in ("x", "D"))
        ridge = float(theirs[f"lambda.{i}"]) * torch.eye(x.shape[1], dtype=torch.float64)
        assert relative(dense, torch.linalg.solve(x.T @ x + ridge, x.T @ wanted)) < 1e-5
        left, right = (torch.tensor(parameters[f"probe.{width}"]).double() for width in place.width)
        assert relative(left @ dense, theirs[f"dW_left.{i}"]) < 1e-3
        assert relative(dense @ right.T, theirs[f"dW_right.{i}"]) < 1e-3
        assert float(dense.norm()) == pytest.approx(float(theirs[f"dW_norm.{i}"]), rel=1e-3)
    for shape, own in changes.statistics.items() if moving else ():
        for name, value in (("mean", own.mean), ("var", own.squares)):
            assert relative(value, theirs[f"used/{shape}/{name}"]) < 1e-5
    assert relative(losses(golden_model, rows).detach(), theirs["nll_before"]) < 1e-5
    with applied(golden_model, {p.weight: changes.low[p.key].factors(p, 0) for p in editor.places}):
        after = losses(golden_model, rows).detach().numpy()
    assert np.allclose(after, theirs["nll_after"], rtol=1e-2, atol=1e-5)


def test_a_step_of_training_is_the_published_one(golden: Path, golden_model: Model, parameters: Arrays) -> None:
    """Their backward pass in two stages, through shifts that are written into the weights, is plain autograd here."""
    theirs = arrays(golden / "meta" / "malmen_train.npz")
    editor = golden_meta.malmen(golden_model, parameters, 2, True)
    asking = golden_meta.asking(editor.nets.parameters)
    learner = Malmen(replace(editor.nets, parameters=asking), 2, True)
    edits, said, kept = (
        [golden_meta.rows(theirs, f"{name}_tuples/block{place}/", shifted=True) for place in (0, 1)]
        for name in ("edit", "equiv", "unrel")
    )
    with frozen(golden_model):
        changes = learner.changes(golden_model, [[*edits[0], *edits[1]]])
        found = [effect(golden_model, editor.places, changes.low, said[b], [0, 0], kept[b], [0, 0]) for b in (0, 1)]
    generalisation, locality = (torch.stack([getattr(each, name).mean() for each in found]) for name in ("nll", "kl"))
    assert generalisation.mean().item() == pytest.approx(float(theirs["gen_loss"]), rel=1e-3, abs=1e-6)
    assert locality.mean().item() == pytest.approx(float(theirs["loc_loss"]), rel=1e-3)
    (generalisation + float(theirs["loc_coef"]) * locality).sum().backward()
    grads = {name: parameter.grad for name, parameter in asking.items()}
    assert all(grad is not None for grad in grads.values())
    for name, grad in grads.items():
        if name in ("rate", "log_ridge"):
            expected = golden_meta.by_place(
                {f"{k[5:]}": v for k, v in theirs.items() if k.startswith("grad/")},
                editor.places,
                {"rate": "lr", "log_ridge": "lamda"}[name],
            )
            assert relative(grad, expected) < (1e-4 if name == "rate" else 1e-2)
        else:
            assert relative(grad, theirs[f"grad/{name}"]) < 1e-4, name
    for shape, own in changes.statistics.items():
        assert own.count == float(theirs[f"after/{shape}/n"][0])
        for name, value in (("mean", own.mean), ("var", own.squares)):
            assert relative(value, theirs[f"after/{shape}/{name}"]) < 1e-5
