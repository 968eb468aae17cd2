"""An edit that ruins a model is said at once; one that holds is not."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping

import pytest
import torch
from typer.testing import CliRunner

import editing
import tracer
from editing.evaluation.run.controls import random_direction
from editing.health.drift import KNOWN, WORSE, Drift, Drifted
from editing.health.harm import TOKENS, HarmWarning, check_harm
from tracer.errors import TracerError
from tracer.model import Model

REQUEST = editing.EditRequest("{} is in downtown", "The Space Needle", "Paris")


@pytest.fixture(scope="module")
def model() -> Model:
    return tracer.load()


@pytest.fixture(scope="module")
def edit(model: Model) -> editing.Edit:
    return editing.compute_edit(model, REQUEST, "rome")


def found_in(edit: editing.Edit) -> Mapping[str, torch.Tensor]:
    assert edit.evidence is not None
    return edit.evidence


def test_an_edit_that_holds_says_what_it_did_and_warns_of_nothing(model: Model, edit: editing.Edit) -> None:
    before, after = found_in(edit)["perplexity"].tolist()
    drift = Drift.recorded(model, tokens=TOKENS)
    with editing.Editor(model).preview(edit):
        found = drift.both(model)
    assert (before, after) == pytest.approx((drift.both(model).perplexity, found.perplexity))
    assert float(found_in(edit)["drift"]) == pytest.approx(found.kl) and after / before < 1.01
    assert "harm" not in edit.note


def test_a_ruined_model_is_said(model: Model, edit: editing.Edit) -> None:
    bits = model.fingerprint()
    huge = random_direction(edit.scale(40.0), seed=0)
    with pytest.warns(HarmWarning, match=r"this edit harms the model: perplexity .* from 3\.\d+ to"):
        (said,) = check_harm(model, [huge], "warn")
    before, after = found_in(said)["perplexity"].tolist()
    assert after > WORSE * before and "it harms the model" in said.note and "it harms" in str(said)
    with pytest.raises(TracerError, match=r"this edit harms the model.*a smaller clamp.*check='warn' to have it"):
        check_harm(model, [huge], "refuse")
    (unseen,) = check_harm(model, [dataclasses.replace(huge, evidence={}, note="")], None)
    assert unseen.note == "" and not unseen.evidence
    assert model.fingerprint() == bits


def test_numbers_that_are_none_are_harm(model: Model, edit: editing.Edit) -> None:
    broken = dataclasses.replace(edit, factors={name: (u * 1e30, v) for name, (u, v) in edit.factors.items()})
    with pytest.warns(HarmWarning, match="to inf"):
        check_harm(model, [broken], "warn")


@pytest.mark.parametrize(
    ("before", "after", "ruined"),
    [
        (10, 10, False),
        (10, 11.9, False),
        (10, 12.1, True),
        (10, math.nan, True),
        (10, math.inf, True),
        (10, 2, False),
    ],
)
def test_where_harm_begins(before: float, after: float, ruined: bool) -> None:
    assert Drifted(0.1, after, before, 50_000).ruined is ruined
    # a model that guesses words has no language to lose
    assert not Drifted(0.1, after, before, int(before / KNOWN)).ruined


def test_editor_refuses_before_anything_is_changed(edit: editing.Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editing.health.drift.WORSE", 0.5)  # whatever an edit does is harm
    editor = editing.Editor(tracer.load())
    bits = editor.model.fingerprint()
    with pytest.raises(TracerError, match="harms the model"):
        editor.edit(REQUEST, "rome", check="refuse")
    assert editor.model.fingerprint() == bits and not editor.history
    with pytest.warns(HarmWarning):
        made = editor.edit(REQUEST, "rome")
    assert editor.position == 1 and "it harms the model" in made.note
    editor.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "perplexity" not in found_in(editor.edit(REQUEST, "rome", check=None))
    with pytest.raises(TracerError, match="check is 'maybe'; expected 'warn', 'refuse' or None"):
        editor.edit(REQUEST, "rome", check="maybe")


def test_what_it_does_to_text_is_told_with_the_edit(edit: editing.Edit) -> None:
    before, after = found_in(edit)["perplexity"].tolist()
    told = f"unrelated text: perplexity {before:.4g} before, {after:.4g} after; drift "
    assert edit.on_text.startswith(told) and told in str(edit)
    assert set(edit.parts) >= {"search", "solve", "hash", "covariance", "check"}
    within = sum(seconds for name, seconds in edit.parts.items() if name != "check")
    assert 0 < within <= edit.seconds * 1.001
    bare = dataclasses.replace(edit, evidence=None)
    assert bare.on_text == "" and bare.parts == {} and "unrelated" not in str(bare)


def test_masked_and_random_models_are_not_judged(tiny: Callable[[str], Model]) -> None:
    one = editing.EditRequest("{} is in downtown", "The Space Needle", " Paris")
    edit = editing.compute_edit(tiny("llama"), one, "ft_l", layers=[1], known="edit")  # measured, on plain English
    assert found_in(edit)["perplexity"].shape == (2,) and "harm" not in edit.note
    assert torch.isfinite(found_in(edit)["drift"])
    assert check_harm(tiny("bert"), [edit], "warn") == [edit]


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from editing.cli import app

    monkeypatch.setattr("editing.health.drift.WORSE", 0.5)
    asked = ["edit", "rome", "{} is in downtown", "-s", "The Space Needle", "--to", "Paris"]
    warned = CliRunner().invoke(app, asked, env={"COLUMNS": "200"})
    assert warned.exit_code == 0 and warned.stdout.count("it harms the model: perplexity of unrelated text") == 1
    refused = CliRunner().invoke(app, [*asked, "--check", "refuse"])
    assert refused.exit_code == 2 and "tracer: this edit harms the model" in refused.stderr
    silent = CliRunner().invoke(app, [*asked, "--check", "none"])
    assert silent.exit_code == 0 and "harm" not in silent.stdout
