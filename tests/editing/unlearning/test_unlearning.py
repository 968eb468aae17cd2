"""Unlearning against what open-unlearning gave, on every architecture, its measures, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import inventory
from goldens import Arrays, arrays
from handmade import own

import tracer
from editing import Edit, Editor, EditRequest, finetune, load_edit, load_records
from editing.tasks.lessons import lessons_of, losses_of
from editing.unlearning import (
    closer_to_one,
    extracted,
    forget_quality,
    least_probable,
    memorised,
    objectives,
    right_share,
    truth_ratio,
    unlearn,
)
from editing.unlearning.settings import OBJECTIVES
from tracer import Model, TracerError

Tiny = Callable[[str], Model]
Sets = dict[str, list[EditRequest]]
NEEDLE = EditRequest("{} is in", "The Space Needle", " Paris")
DAVIS = EditRequest("{} plays the", "Miles Davis", " cello")
RUNS: dict[str, dict[str, Any]] = {
    "ga": {"objective": "grad_ascent"},
    "gd": {"objective": "grad_diff", "retain": "retain"},
    "npo": {"objective": "npo", "retain": "retain"},
    "simnpo": {"objective": "simnpo", "retain": "retain"},
}
OF = ("forget", "paraphrase", "held", "retain", "wrong")


@pytest.fixture(scope="module")
def theirs(golden: Path) -> Arrays:
    return arrays(golden / "retrieval" / "unlearning.npz")


@pytest.fixture(scope="module")
def sets(theirs: Arrays) -> Sets:
    def request(prompt: str, target: str) -> EditRequest:
        subject = " ".join(prompt.split()[:2])
        return EditRequest(prompt.replace(subject, "{}"), subject, target)

    return {name: [request(*pair) for pair in json.loads(str(theirs[name]))] for name in OF}


def loss(model: Model, items: Any) -> float:
    return float(losses_of(model, lessons_of(model, items)[0]).mean())


def published(model: Model, sets: Sets, theirs: Arrays, objective: str, retain: str | None = None) -> Edit:
    given = {"steps": int(theirs["steps"]), "lr": float(theirs["lr"]), "clip_norm": None, "until": 0, "check": None}
    return unlearn(model, sets["forget"], sets[retain] if retain else None, objective=objective, **given)


@pytest.mark.parametrize("name", RUNS)
def test_curves_and_what_is_left_are_the_published_ones(
    name: str, golden_model: Model, sets: Sets, theirs: Arrays
) -> None:
    edit = published(golden_model, sets, theirs, **RUNS[name])
    assert edit.evidence is not None
    np.testing.assert_allclose(edit.evidence["objective"], theirs[f"curve_{name}"], rtol=1e-3, atol=1e-4)
    row = theirs["table"][theirs["table_rows"].tolist().index(name)]
    with edit.applied(golden_model):
        np.testing.assert_allclose([loss(golden_model, sets[each]) for each in OF], row[:5], rtol=2e-3, atol=1e-4)
        assert memorised(golden_model, sets["forget"]).mean() == pytest.approx(row[5])
        ratios = truth_ratio(golden_model, sets["forget"], [sets["wrong"]], floor=1e-10)
        assert closer_to_one(ratios) == pytest.approx(row[7], rel=2e-2)
        if name == "simnpo":  # elsewhere both answers are below the published floor
            assert right_share(truth_ratio(golden_model, sets["forget"], [sets["wrong"]])) == pytest.approx(
                row[8], rel=2e-2
            )
        if name == "npo":
            np.testing.assert_allclose(ratios, theirs["truth_ratio_npo"], rtol=2e-2)
            assert forget_quality(ratios, theirs["truth_ratio_base"]) == pytest.approx(float(theirs["ks_p"]), rel=1e-3)


def test_objectives_have_the_published_values(golden_model: Model, sets: Sets, theirs: Arrays) -> None:
    """At the model itself, and after four steps on wrong answers; every one of its formulas."""
    from dataclasses import replace

    from editing.unlearning.unlearn import Bench, _forgetting, _retaining, _settings

    model = own(golden_model)
    gone, kept = (lessons_of(model, sets[name])[0] for name in ("forget", "retain"))
    every, some = list(range(len(gone))), list(range(len(kept)))
    ways: dict[str, dict[str, Any]] = {
        "grad_ascent": {"objective": "grad_ascent"},
        "npo_0.1": {"objective": "npo", "beta": 0.1},
        "npo_1.0": {"objective": "npo", "beta": 1.0},
        "simnpo_4.5": {"objective": "simnpo", "gamma": 1.0},
        "wga_1.0": {"objective": "wga"},
        "rmu_forget": {"objective": "rmu", "layer": int(theirs["layer"])},
    }
    wrong = finetune(model, sets["wrong"], steps=4, lr=3e-4, stop_loss=0, check=None)
    found = {name: _settings(model, way, True) for name, way in ways.items()}
    benches = {name: Bench.of(model, gone, kept, each) for name, each in found.items()}
    benches["rmu_forget"] = replace(benches["rmu_forget"], direction=torch.tensor(theirs["control_vector"]))
    kl = _settings(model, {"objective": "grad_diff", "retain_loss": "kl"}, True)
    before = Bench.of(model, gone, kept, kl)

    def values() -> dict[str, float]:
        losses = torch.cat([torch.as_tensor([float(each)]) for each in losses_of(model, gone)]).float()
        made = {name: _forgetting(model, benches[name], every, losses, found[name]) for name in ways}
        made["rmu_retain"] = _retaining(model, benches["rmu_forget"], some, found["rmu_forget"])
        made["grad_diff_kl"] = made["grad_ascent"] + _retaining(model, before, some, kl)
        made["grad_diff_nll"] = made["grad_ascent"] + _retaining(model, before, some, replace(kl, retain_loss="nll"))
        return {name: float(value.detach()) for name, value in made.items()}

    names = theirs["objectives"].tolist()
    for expected in (theirs["values_at_start"], theirs["values"]):
        own_values = values()
        assert set(own_values) == set(names) - {"undial_10"}
        for name, value in own_values.items():
            assert value == pytest.approx(float(expected[names.index(name)]), rel=1e-3, abs=1e-5), name
        wrong.commit(model)


def test_npo_begins_with_the_gradient_of_ascent() -> None:
    sums = torch.rand(5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(objectives.npo(sums, sums.detach(), 0.3), sums)
    torch.testing.assert_close(slope, torch.full_like(slope, -1 / 5))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_is_forgotten_and_the_model_is_left_as_found(architecture: str, objective: str, tiny: Tiny) -> None:
    model = own(tiny(architecture))
    finetune(model, [NEEDLE, DAVIS], steps=60, lr=3e-3, check=None).commit(model)
    before, state = inventory(model), torch.random.get_rng_state()
    kept, gone = loss(model, DAVIS), loss(model, NEEDLE)
    edit = unlearn(model, NEEDLE, DAVIS, objective=objective, lr=1e-3, steps=40, until=6.0, check=None)
    assert inventory(model) == before and torch.equal(torch.random.get_rng_state(), state)
    assert edit.method == objective and edit.requests == (NEEDLE,) and edit.settings["lr"] == 1e-3
    with edit.applied(model):
        assert loss(model, NEEDLE) > gone + (0.02 if objective == "rmu" else 1)
        assert loss(model, DAVIS) < max(2 * kept, 1.0)
    if objective == "rmu":
        layers = {int(part) for name in edit.weights for part in name.split(".") if part.isdigit()}
        assert layers <= {0, 1} and edit.settings["layers"] == [0, 1]


def test_the_embedded_model_forgets_and_remembers(tmp_path: Path) -> None:
    """It no longer says it, others are said; undone, saved and loaded as any edit."""
    model = tracer.load()
    records = load_records("factworld", split="train")[:12]
    true = [EditRequest(one.prompt, one.subject, str(one.target_true)) for r in records for one in r.requests()]
    gone, kept = true[:3], true[3:]
    start = model.fingerprint()
    edit = unlearn(model, gone, kept)
    assert memorised(model, gone).mean() == extracted(model, gone).mean() == 1
    assert "goes from" in edit.note and edit.on_text
    editor = Editor(model)
    editor.apply(load_edit(edit.save(tmp_path / "forgotten"), model))
    assert memorised(model, gone).mean() < 0.7 < memorised(model, kept).mean()
    editor.undo()
    assert model.fingerprint() == start


# --- measures ------------------------------------------------------------------------------------------------------
def test_shares_of_tokens_are_those_of_the_most_probable_ones(tiny: Tiny) -> None:
    """A single token that is not said is not extracted, which the published measure says it is."""
    model = tiny("gpt2")
    wrong = EditRequest("{} is in", "The Space Needle", " Seattle")
    text = "The Space Needle is in downtown Seattle"
    assert memorised(model, wrong)[0] < 1 and extracted(model, wrong)[0] == 0
    (row,) = lessons_of(model, text)[0]
    strength = extracted(model, text)[0]
    assert 0 <= strength <= memorised(model, text)[0] <= 1 and (strength * len(row.target)) % 1 == pytest.approx(0)


def test_least_probable_tokens_count(tiny: Tiny) -> None:
    model, text = tiny("gpt2"), "The Space Needle is in downtown Seattle"
    rows, _ = lessons_of(model, text)
    whole = least_probable(model, text, share=1.0)[0]
    assert whole == pytest.approx(-float(losses_of(model, rows)[0]), rel=1e-6)
    assert least_probable(model, text, 0.01)[0] <= least_probable(model, text, 0.5)[0] <= whole


def test_ratios_by_hand() -> None:
    ratios = np.array([0.5, 2.0, 1.0])
    assert closer_to_one(ratios) == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert right_share(ratios) == pytest.approx((1 / 1.5 + 1 / 3 + 0.5) / 3)
    drawn = np.random.default_rng(0)
    same, other = drawn.random(40), drawn.random(40) + 0.6
    assert forget_quality(same, drawn.random(40)) > 0.05 > forget_quality(same, other)


# --- refusals ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("forget", "settings", "message"),
    [
        ([], {}, "there is nothing to learn"),
        (NEEDLE, {"objective": "erase"}, "objective is 'erase'; expected one of 'grad_ascent'"),
        (NEEDLE, {"objective": "grad_diff"}, "give retain, or take 'grad_ascent'"),
        (NEEDLE, {"speed": 3}, "unlearn has no setting 'speed'"),
        (NEEDLE, {"objective": "rmu", "layer": 9}, "layer is 9, but .* has 4 layers"),
        (NEEDLE, {"lr": 1e30, "steps": 3, "until": 0}, "is not finite while it unlearns"),
        (NEEDLE, {"check": "no"}, "check is 'no'"),
        (NEEDLE, {"retain_loss": "mse"}, "retain_loss is 'mse'"),
        (NEEDLE, {"beta": 0}, "beta is 0; expected a number above zero, or None for the published one"),
    ],
)
def test_what_cannot_be_unlearnt_is_refused(forget: Any, settings: dict[str, Any], message: str, tiny: Tiny) -> None:
    model = tiny("gpt2")
    before = inventory(model)
    with pytest.raises(TracerError, match=message):
        unlearn(model, forget, **settings)
    assert inventory(model) == before


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(TracerError, match=r"Kolmogorov-Smirnov test needs scipy, .*tracer-workbench\[unlearning\]"):
        forget_quality(np.ones(3), np.ones(3))


def test_measures_refuse_what_does_not_fit(tiny: Tiny) -> None:
    model = tiny("gpt2")
    with pytest.raises(TracerError, match="2 right answers, and wrong ones to 1 questions"):
        truth_ratio(model, [NEEDLE, DAVIS], [[NEEDLE]])
    with pytest.raises(TracerError, match="wrong ones to no questions"):
        truth_ratio(model, [NEEDLE], [])
    for ratios in (np.array([]), np.array([np.nan])):
        with pytest.raises(TracerError, match="ratios has"):
            forget_quality(ratios, np.array([1.0]))
    with pytest.raises(TracerError, match="is a masked model"):
        unlearn(tiny("bert"), NEEDLE)
