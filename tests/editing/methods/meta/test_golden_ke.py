"""KE against the outputs of the published code with fixed parameters."""

from __future__ import annotations

from pathlib import Path

import golden_ke
import golden_meta
import numpy as np
import pytest
import torch
from goldens import Arrays, arrays, relative

from editing.edits.weights import applied
from editing.methods.meta.constrained import constrained
from editing.methods.meta.episodes import line_of
from editing.methods.meta.losses import effect, smoothed
from editing.methods.training import read_logits, token_losses
from tracer.engine.batch import Row
from tracer.engine.hooks import frozen
from tracer.facts.fact import SLOT, Fact
from tracer.model import Model

OUTPUTS = ("col_a", "row_a", "col_b", "row_b", "norm")


@pytest.fixture(scope="module")
def parameters(golden: Path) -> Arrays:
    return arrays(golden / "meta" / "ke_params.npz")


def row(model: Model, prompt: object, target: object) -> Row:
    return line_of(model, Fact(SLOT, str(prompt), str(target)))


@pytest.mark.parametrize(("case", "condition"), [("ke_one", "change"), ("ke_plain", "plain")])
def test_an_edit_is_the_published_one(
    case: str, condition: str, golden: Path, golden_model: Model, parameters: Arrays
) -> None:
    model, theirs = golden_model, arrays(golden / "meta" / f"{case}.npz")
    editor = golden_ke.ke(model, parameters, condition)
    asked = row(model, theirs["prompt"], theirs["target"])  # what is to go is what the model writes: `true`
    (ids,) = editor.conditions.ids(model, [asked])
    assert list(ids) == theirs["condition_ids"].tolist()
    vector = editor.net.reader([ids], model.module("embed").weight)  # type: ignore[union-attr]
    assert relative(vector.detach()[0], theirs["condition_vector"]) < 1e-5
    with frozen(model), torch.no_grad():
        changes = editor.changes(model, [[asked]])
    for i, place in enumerate(editor.places):
        told, low = changes.told[place.key], changes.low[place.key]
        for name in ("x", "delta", *OUTPUTS):
            own = told[name][0] if name in OUTPUTS else told[name]
            assert relative(own, theirs[f"{name}.{i}"]) < 1e-5, (place.key, name)
        dense = low.u[0].double().T @ low.v[0].double()
        left, right = (torch.tensor(parameters[f"probe.{width}"]).double() for width in place.width)
        assert relative(left @ dense, theirs[f"dW_left.{i}"]) < 1e-5
        assert relative(dense @ right.T, theirs[f"dW_right.{i}"]) < 1e-5
        assert float(dense.norm()) == pytest.approx(float(theirs[f"dW_norm.{i}"]), rel=1e-5)
        assert low.u.shape[1] == len(theirs[f"token.{i}"]) + 1
    said = [asked, row(model, theirs["paraphrase"], theirs["target"])]
    kept = [
        golden_meta.row(ids, np.ones_like(ids), labels, shifted=False)
        for ids, labels in zip(theirs["loc_ids"], theirs["loc_labels"], strict=True)
    ]
    written = {place.weight: changes.low[place.key].factors(place, 0) for place in editor.places}
    with applied(model, written), torch.no_grad():
        after = token_losses(read_logits(model, said), said)
    expected = np.concatenate([theirs["logp_after"], theirs["logp_paraphrase_after"]])
    assert np.allclose(-after.numpy(), expected, atol=1e-4)
    with frozen(model), torch.no_grad():
        found = effect(model, editor.places, changes.low, said, [0, 0], kept, [0] * len(kept))
    assert np.allclose(-found.nll.numpy(), expected, atol=1e-4)
    assert float(found.kl.mean()) == pytest.approx(float(theirs["kl_after"]), rel=1e-3)


def test_a_step_of_training_is_the_published_one(golden: Path, golden_model: Model, parameters: Arrays) -> None:
    model, theirs = golden_model, arrays(golden / "meta" / "ke_train.npz")
    editor = golden_ke.ke(model, parameters, "change")
    asked, other = (row(model, theirs[name], theirs["target"]) for name in ("prompt", "paraphrase"))
    kept = [row(model, *each) for each in zip(theirs["loc_prompts"], theirs["loc_targets"], strict=True)]
    multiplier = torch.tensor(float(theirs["alpha"]), requires_grad=True)
    with frozen(model):
        low = editor.changes(model, [[asked]]).low
        loss = smoothed(float(theirs["epsilon"]))
        found = effect(model, editor.places, low, [asked, other], [0, 0], kept, [0] * len(kept), loss=loss)
    cr, kl = found.nll.mean(), found.kl.mean()
    total = constrained(cr, kl, multiplier, float(theirs["margin"]))
    for own, name in ((cr, "cr"), (kl, "kl"), (total, "loss")):
        assert own.item() == pytest.approx(float(theirs[name]), rel=1e-4)
    total.backward()
    for name, own in golden_ke.grads(editor.net).items():
        if not name.endswith("weight_v"):
            assert relative(own, theirs[name]) < 1e-4, name
    # the multiplier goes up where the constraint is not kept: downhill for an optimiser is uphill for it
    assert multiplier.grad is not None
    assert float(multiplier.grad) == pytest.approx(float(theirs["margin"]) - kl.item(), rel=1e-4)
