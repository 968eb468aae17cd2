"""Transformer-Patcher against the published code's own outputs: losses, patches, curves, and what the model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
import torch
from goldens import Arrays, relative

from editing import EditRequest, compute_edit
from editing.edits.edit import Edit
from editing.methods.published_settings import published
from editing.methods.t_patcher.losses import activation_loss, memory_loss, smoothed
from editing.prepared import Prepared, tokenizer_hash
from tracer import Model
from tracer.engine import Line, Site, capture
from tracer.engine.batch import logits_of
from tracer.engine.follow import follow

TOLERANCE = 2e-4
"""Of the patches, relative. The golden outputs of an edit of two patches end 6e-5 from their own in float64."""


def arrays(golden: Path, name: str) -> Arrays:
    return goldens.arrays(golden / "memory" / f"{name}.npz")


def states(model: Model, theirs: Arrays) -> Prepared:
    """The golden states, as prepared for the method."""
    return Prepared(
        method="t_patcher",
        settings={},
        seed=0,
        fingerprint=model.weights_fingerprint(),
        model=model.name,
        tokenizer=tokenizer_hash(model),
        records="",
        tensors={"states": torch.tensor(theirs["memory"])},
        header={"layer": int(theirs["layer"])},
    )


def edited(model: Model, theirs: Arrays, number: int) -> Edit:
    prompt, target = (str(theirs[f"edit_{name}"][number - 1]) for name in ("prompts", "targets"))
    subject = " ".join(prompt.split()[:2])
    given = published("t_patcher", "bart-base") | {
        "layers": int(theirs["layer"]),
        "steps": int(theirs["steps"]),
        "validate_every": 0,
        "repeats": int(theirs["repeats"][number - 1]),
        "memory_weight": float(theirs["memory_weight"]),
        "margins": theirs["margins"].tolist(),
        "seed": int(theirs["seeds"][number - 1]),
    }
    request = EditRequest(prompt, subject, target)
    return compute_edit(model, request, "t_patcher", check=None, prepared=states(model, theirs), **given)


def check(model: Model, edit: Edit, theirs: Arrays, number: int, first: int) -> None:
    """Patches, curve and logits of one edit; `first` is the number of patches before it."""
    memory = model.memories[0]
    tensors: Any = memory.tensors  # type: ignore[attr-defined]
    assert len(tensors["keys"]) == first + len(theirs[f"positions_{number}"])
    value = (theirs[f"value_end_{number}"] * theirs[f"amplify_end_{number}"]).T
    expected = {"keys": theirs[f"key_end_{number}"], "biases": theirs[f"bias_end_{number}"], "values": value}
    for name, wanted in expected.items():
        assert relative(tensors[name][first:], wanted) < TOLERANCE, name
    assert edit.evidence is not None
    gap = float(theirs[f"float64_gap_{number}"][-1])  # of the gradients' norms, above all
    np.testing.assert_allclose(edit.evidence["curve"], theirs[f"curve_{number}"], rtol=1e-3, atol=max(1e-3, gap))
    for prompt, logits in zip(theirs["query_prompts"], theirs[f"logits_after_{number}"], strict=True):
        ids = torch.tensor([model.tokenizer(str(prompt))["input_ids"]])
        np.testing.assert_allclose(logits_of(model, ids)[0, -1].detach(), logits, atol=max(2e-3, gap / 10))
    for prompt, target, forced in zip(
        theirs["edit_prompts"], theirs["edit_targets"], theirs[f"forced_after_{number}"], strict=False
    ):
        ids, wanted = (tuple(model.tokenizer(str(text))["input_ids"]) for text in (prompt, target))
        found = follow(model, [Line(ids, (wanted,))])[0].log_probs[0]
        logp = torch.tensor(forced).log_softmax(-1)[range(len(wanted)), list(wanted)]
        np.testing.assert_allclose(found, logp, atol=2e-3)


@pytest.mark.parametrize("name", ["tpatcher", "tpatcher_margins"])
def test_patches_are_those_of_the_published_code(name: str, golden: Path, golden_model: Model) -> None:
    """One token that is not said, then two; the second edit knows the first one's states."""
    model, theirs, first = golden_model, arrays(golden, name), 0
    one = edited(model, theirs, 1)
    with one.applied(model):
        check(model, one, theirs, 1, 0)
        if len(theirs["edit_prompts"]) > 1:
            first = len(theirs["positions_1"])
            two = edited(model, theirs, 2)
            assert two.memories[0].kept["keys"] == first
            with two.applied(model):
                check(model, two, theirs, 2, first)
    assert not model.memories


def test_states_are_what_enters_the_mlp(golden: Path, golden_model: Model) -> None:
    theirs = arrays(golden, "tpatcher")
    site = Site("mlp_in", int(theirs["layer"]))
    found = [capture(golden_model, str(text), [site])[site][0].detach() for text in theirs["memory_texts"]]
    np.testing.assert_allclose(torch.cat(found), theirs["memory"], atol=1e-5)


def test_losses_of_given_numbers_are_as_published(golden: Path) -> None:
    theirs = arrays(golden, "tpatcher_losses")
    many, one, others = (torch.tensor(theirs[name]) for name in ("activation", "one_activation", "memory_activation"))
    seen = 0
    for name, expected in theirs.items():
        if name.startswith("act_"):
            kind, margin = name.removeprefix("act_").removeprefix("one_").rsplit("_", 1)
            active = one if "one_" in name else many
            found = activation_loss(kind, active, float(margin), len(active))
        elif name.startswith("memory_") and "+" in name:
            kinds, *margins = name.removeprefix("memory_").rsplit("_", 2)
            found = memory_loss(kinds, many, others, (float(margins[0]), float(margins[1])), len(many))
        else:
            continue
        seen += 1
        assert float(found) == pytest.approx(float(expected), rel=1e-6), name
    assert seen == 34
    log_probs = torch.tensor(theirs["smoothing_logits"]).log_softmax(-1)
    targets = torch.tensor(theirs["smoothing_targets"])
    kept = targets != int(theirs["smoothing_ignored"])
    smooth, nll = smoothed(log_probs[kept], targets[kept], float(theirs["smoothing_epsilon"]))
    assert float(smooth.sum()) == pytest.approx(float(theirs["smoothed_sum"]), rel=1e-6)
    assert float(nll.sum()) == pytest.approx(float(theirs["nll_sum"]), rel=1e-6)
