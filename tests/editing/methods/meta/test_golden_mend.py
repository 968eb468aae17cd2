"""MEND against the outputs of the published code with fixed parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import golden_meta
import numpy as np
import pytest
import torch
from goldens import Arrays, arrays, relative

from editing.edits.weights import applied
from editing.methods.meta.changes import Changes
from editing.methods.meta.episodes import line_of
from editing.methods.meta.losses import effect
from editing.methods.meta.mend import Mend
from editing.methods.meta.places import Place
from editing.methods.meta.statistics import Statistics
from editing.methods.training import read_logits, token_losses
from tracer.engine.batch import Row
from tracer.engine.hooks import frozen
from tracer.facts.fact import SLOT, Fact
from tracer.model import Model


@pytest.fixture(scope="module")
def parameters(golden: Path) -> Arrays:
    return arrays(golden / "meta" / "mend_params.npz")


@pytest.fixture
def editor(golden_model: Model, parameters: Arrays) -> Mend:
    return golden_meta.mend(golden_model, parameters)


def written(editor: Mend, changes: Changes) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {place.weight: changes.low[place.key].factors(place, 0) for place in editor.places}


def compare(
    place: Place, i: int, changes: Changes, theirs: Arrays, parameters: Arrays, tolerance: float = 1e-5
) -> None:
    told, low = changes.told[place.key], changes.low[place.key]
    pairs = {"x": "x", "delta": "delta", "x_tilde": "x_made", "delta_tilde": "delta_made"}
    for name, own in pairs.items():
        assert relative(told[own], theirs[f"{name}.{i}"]) < tolerance, (place.key, name)
    dense = low.u[0].double().T @ low.v[0].double()
    rows, columns = (torch.tensor(parameters[f"probe.{width}"]).double() for width in place.width)
    assert relative(rows @ dense, theirs[f"dW_left.{i}"]) < tolerance
    assert relative(dense @ columns.T, theirs[f"dW_right.{i}"]) < tolerance
    assert float(dense.norm()) == pytest.approx(float(theirs[f"dW_norm.{i}"]), rel=tolerance)
    if f"dW.{i}" in theirs:
        assert relative(dense, theirs[f"dW.{i}"]) < tolerance


def check(model: Model, editor: Mend, theirs: Arrays, parameters: Arrays) -> Changes:
    rows = golden_meta.rows(theirs)
    with frozen(model):
        changes = editor.changes(model, [rows], max_rows=2)
    for i, place in enumerate(editor.places):
        compare(place, i, changes, theirs, parameters)
    assert float(changes.nll.mean()) == pytest.approx(float(theirs["nll_before"]), rel=1e-5)
    assert torch.allclose(-changes.nll, torch.tensor(theirs["logp_before"]), atol=1e-4)
    with applied(model, written(editor, changes)), torch.no_grad():
        after = token_losses(read_logits(model, rows), rows)
    assert torch.allclose(-after, torch.tensor(theirs["logp_after"]), atol=1e-4)
    return changes


@pytest.mark.parametrize("case", ["mend_one", "mend_three"])
def test_an_edit_is_the_published_one(
    case: str, golden: Path, golden_model: Model, editor: Mend, parameters: Arrays
) -> None:
    check(golden_model, editor, arrays(golden / "meta" / f"{case}.npz"), parameters)


def test_edits_one_after_the_other(golden: Path, golden_model: Model, editor: Mend, parameters: Arrays) -> None:
    first, second = (arrays(golden / "meta" / f"mend_sequence_{name}.npz") for name in ("first", "second"))
    changes = check(golden_model, editor, first, parameters)
    with applied(golden_model, written(editor, changes)):
        check(golden_model, editor, second, parameters)


def test_what_an_edit_moves(golden: Path, golden_model: Model, editor: Mend) -> None:
    theirs = arrays(golden / "meta" / "mend_one.npz")
    kept = [
        golden_meta.every_token(ids[mask == 1]) for ids, mask in zip(theirs["loc_ids"], theirs["loc_mask"], strict=True)
    ]
    said = golden_meta.rows(theirs)
    with frozen(golden_model), torch.no_grad():
        low = editor.changes(golden_model, [said]).low
        found = effect(golden_model, editor.places, low, said, [0], kept, [0] * len(kept))
    assert float(found.nll.mean()) == pytest.approx(float(theirs["nll_after"]), rel=1e-5)
    assert float(found.kl.mean()) == pytest.approx(float(theirs["kl_after"]), rel=1e-3)


def test_a_step_of_training_is_the_published_one(golden: Path, golden_model: Model, editor: Mend) -> None:
    theirs = arrays(golden / "meta" / "mend_train.npz")
    parameters = golden_meta.asking(editor.nets.parameters)
    learner = Mend(replace(editor.nets, parameters=parameters), moving=True)
    target = len(golden_model.tokenizer(str(theirs["target"]))["input_ids"])

    def behind(ids: np.ndarray) -> Row:
        read = tuple(range(len(ids) - target - 1, len(ids) - 1))
        return Row(tuple(int(i) for i in ids[:-1]), read[0], read, tuple(int(i) for i in ids[-target:]))

    with frozen(golden_model):
        changes = learner.changes(golden_model, [[behind(theirs["edit_ids"][0])]])
        kept = golden_meta.every_token(theirs["loc_ids"][0])
        found = effect(golden_model, editor.places, changes.low, [behind(theirs["outer_ids"][0])], [0], [kept], [0])
    edit, locality = found.nll.mean(), found.kl.mean()
    assert edit.item() == pytest.approx(float(theirs["l_edit"]), rel=1e-4)
    assert locality.item() == pytest.approx(float(theirs["l_loc"]), rel=1e-3)
    (float(theirs["cedit"]) * edit + float(theirs["cloc"]) * locality).backward()
    for name, theirs_name in named(parameters).items():
        expected = theirs[f"grad/{theirs_name}"]
        own = parameters[name].grad
        assert own is not None
        assert relative(own.T if name[-3:-1] in ("A.", "B.") else own, expected) < 1e-4, name
    for shape, own in changes.statistics.items():
        same_statistics(own, golden_meta.statistics_of(theirs, f"after/{shape}/"))


def named(parameters: dict[str, torch.Tensor]) -> dict[str, str]:
    letters = {"A": "v", "B": "u"}

    def theirs(name: str) -> str:
        shape, _, rest = name.partition("/")
        part, _, block = rest.partition(".")
        return f"{shape}/{letters.get(part, part)}.{block}"

    return {name: "lr" if name == "rate" else theirs(name) for name in parameters}


def same_statistics(own: Statistics, expected: Statistics) -> None:
    assert own.count == expected.count
    assert relative(own.mean, expected.mean) < 1e-5 and relative(own.squares, expected.squares) < 1e-5


def test_statistics_from_nothing(golden: Path, golden_model: Model, editor: Mend) -> None:
    theirs = arrays(golden / "meta" / "mend_train.npz")
    nets = replace(editor.nets, statistics={shape: Statistics.none(960) for shape in editor.nets.statistics})
    for prompt, target in zip(theirs["fresh/prompts"], theirs["fresh/targets"], strict=True):
        row = line_of(golden_model, Fact(SLOT, str(prompt), str(target)))
        with frozen(golden_model):
            statistics = Mend(nets, moving=True).changes(golden_model, [[row]]).statistics
        nets = replace(nets, statistics=statistics)
    for shape, own in nets.statistics.items():
        same_statistics(own, golden_meta.statistics_of(theirs, f"fresh/{shape}/"))
