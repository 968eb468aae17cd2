"""Several facts about one subject, earlier edits that are kept, and the layers edited by default."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from closed_forms import OWN, QUICK, SEVERAL, SPREAD, change, evidence

from editing.edits.weights import applied
from editing.methods.alphaedit import AlphaEditSettings, free_space
from editing.methods.compute import compute_edit
from editing.methods.memit import MEMITSettings
from editing.methods.rome import default_layer
from editing.methods.value.spread import default_layers
from editing.request import EditRequest, EditWarning
from tracer import TracerError
from tracer.model import Model, load

# --- several facts about one subject ---------------------------------------------------------------------------------
SAME = (*SEVERAL[:2], EditRequest("{} was built by", "The Space Needle", "cello"), SEVERAL[2])


def probability(model: Model, request: EditRequest) -> float:
    found = request.fact.align(model)
    k = len(found.target_ids)
    with torch.no_grad():
        logits = model.hf(torch.tensor([[*found.input_ids, *found.target_ids[:-1]]])).logits[0, -k:]
    return float(logits.log_softmax(-1)[range(k), list(found.target_ids)].sum().exp())


@pytest.mark.parametrize("method", SPREAD)
def test_facts_about_one_subject_are_written_in_turn(method: str) -> None:
    """Both are reached; of values that are found apart and written at once, one key takes the sum."""
    model = load()
    pair = (
        EditRequest("{} is a company from", "Gedeon Richter", "the United Kingdom"),
        EditRequest("{} works in the field of", "Gedeon Richter", "machinery"),
    )
    before = model.fingerprint()
    reached = {}
    for way in ("in_turn", "together"):
        with pytest.warns(EditWarning, match="0 and 1 share the subject"):
            edit = compute_edit(model, pair, method, same_key=way, check=None)
        assert model.fingerprint() == before
        with applied(model, edit.factors):
            reached[way] = min(probability(model, request) for request in pair)
        turns = (edit.evidence or {}).get("round")
        assert ("in 2 rounds" in edit.note) is (way == "in_turn") is (turns is not None)
        assert edit.requests == pair and edit.settings["same_key"] == way
        assert evidence(edit, "keys.3").shape[1] == len(evidence(edit, "delta")) == len(evidence(edit, "clamp")) == 2
    assert reached["in_turn"] > 0.5 > reached["together"] + 0.1, reached


@pytest.mark.parametrize("method", SPREAD)
def test_turns_are_edits_one_after_the_other(method: str, exact: Any) -> None:
    """The first round is the batch without the second fact; what is in turn leaves others as if it were not there."""
    model, moment = exact("llama")
    options = {**QUICK, **OWN[method], "layers": [1, 2], "covariance": moment}
    with pytest.warns(EditWarning, match="share the subject"):
        whole = compute_edit(model, SAME, method, **options)
    alone = compute_edit(model, SEVERAL, method, **options)
    assert (whole.evidence or {})["round"].tolist() == [0, 0, 1, 0]
    for layer in (1, 2):
        left, right = whole.factors[model.down_projection(layer).name]
        first = (left[:, [0, 1, 3]].double() @ right[:, [0, 1, 3]].double().T).float()
        torch.testing.assert_close(first, alone.to_dense()[model.down_projection(layer).name], rtol=1e-4, atol=1e-5)
        for name in (f"keys.{layer}", f"residual.{layer}"):
            torch.testing.assert_close(evidence(whole, name)[:, [0, 1, 3]], evidence(alone, name), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(evidence(whole, "zs")[:, [0, 1, 3]], evidence(alone, "zs"))


def test_other_tokens_and_subjects_are_written_together() -> None:
    settings = MEMITSettings()
    assert settings.rounds(SAME) == [[0, 1, 3], [2]]
    assert settings.rounds([*SAME, SAME[0]]) == [[0, 1, 3], [2], [4]]
    assert settings.rounds(SEVERAL) == [[0, 1, 2]]
    for other in (MEMITSettings(same_key="together"), MEMITSettings(fact_token="last")):
        assert other.rounds(SAME) == [[0, 1, 2, 3]]
    with pytest.raises(TracerError, match=r"same_key is 'apart'; expected 'in_turn' or 'together'"):
        MEMITSettings(same_key="apart")


def test_alphaedit_leaves_used_directions_alone(exact: Any) -> None:
    model, moment = exact("gpt2")
    edit = compute_edit(model, SEVERAL, "alphaedit", layers=[1, 2], covariance=moment, **{**QUICK, **OWN["alphaedit"]})
    values, vectors = torch.linalg.eigh(moment.matrix(2).double())
    used = vectors[:, values >= 0.05]
    delta = change(edit, model, 2)
    assert float((used.T @ delta).norm()) < 1e-5 * float(delta.norm())


def test_alphaedit_keeps_what_earlier_edits_wrote(exact: Any) -> None:
    model, moment = exact("gpt2")
    settings: Any = {"layers": [2], "covariance": moment, **QUICK, "nullspace_share": 0.5, "ridge": 1e-6}
    first = compute_edit(model, SEVERAL[0], "alphaedit", **settings)
    keys = evidence(first, "keys.2")
    with applied(model, first.factors):
        settings["origin"] = moment.fingerprint
        careless = compute_edit(model, SEVERAL[1], "alphaedit", **settings)
        careful = compute_edit(model, SEVERAL[1], "alphaedit", earlier=[first], **settings)
    moved, kept = (float((keys.T @ change(edit, model, 2)).norm()) for edit in (careless, careful))
    assert kept < 1e-3 * moved
    assert careful.settings["earlier"] == 1


def test_alphaedit_says_when_nothing_is_free() -> None:
    with pytest.raises(TracerError, match="no direction of layer 3 is free: the smallest eigenvalue"):
        free_space(torch.ones(4), torch.eye(4), AlphaEditSettings(nullspace_threshold=0.5), 3)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(8, (1, 2, 3)), (18, (1, 2, 3)), (30, (1, 2, 3)), (48, (3, 4, 5)), (4, (0, 1, 2)), (3, (0, 1)), (1, (0,))],
)
def test_default_layers(layers: int, expected: tuple[int, ...]) -> None:
    class Sized:
        n_layers = layers
        stacks: ClassVar[dict[str, range]] = {}

    assert default_layers(Sized()) == expected  # type: ignore[arg-type]
    single = default_layer(Sized())  # type: ignore[arg-type]
    assert single == {8: 2, 18: 2, 30: 3, 48: 5, 4: 2, 3: 1, 1: 0}[layers]
