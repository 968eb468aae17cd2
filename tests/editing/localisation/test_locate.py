"""Evidence for layers: equal to the traces and edits it is made of; what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import editing.localisation.evidence
from editing.edits.edit import Edit
from editing.edits.weights import applied, names_of
from editing.localisation.choose import locate
from editing.methods.compute import compute_edit
from editing.methods.method import Method
from editing.questions.gather import with_prompts
from editing.questions.measures import SCORED, edit_scores
from editing.request import EditRequest
from tracer import (
    Fact,
    GaussianNoise,
    Model,
    TracerError,
    attribute_neurons,
    causal_trace,
    factworld,
)
from tracer.engine.answer import own_answer
from tracer.facts.readout import answer_text

FACT = Fact("{} is in", "The Space Needle", " Seattle")


def test_a_trace_is_that_of_the_mlps_at_the_last_subject_token(world: Model) -> None:
    facts = [factworld.find("The Space Needle"), factworld.find("France", "capital")]
    noise = GaussianNoise(samples=3, seed=4)
    found = locate(world, facts, window=3, corruption=noise, layers=range(1, 6))
    for row, fact in enumerate(facts):
        trace = causal_trace(world, fact, kind="mlp", window=3, corruption=noise)
        last = trace.subject_range[1] - 1
        np.testing.assert_allclose(found.evidence["effect"][row, 1:6], trace.effect[last, 1:6], atol=1e-5)
        assert found.answers[row] == trace.answer
    assert np.isnan(found.evidence["effect"][:, [0, 6, 7]]).all()
    assert found.layers[0] == 1 + np.argmax(found.evidence["effect"][:, 1:6].mean(0))
    assert found.settings["window"] == 3
    assert found.settings["corruption"]["samples"] == 3
    assert (found.using, found.fingerprint, found.n_layers) == ("trace", world.fingerprint(), 8)


def test_requests_are_traced_as_they_are_now(world: Model) -> None:
    fact = factworld.find("The Space Needle")
    request = EditRequest(fact.prompt, fact.subject, " Paris", fact.target)
    quick: dict[str, Any] = {"corruption": GaussianNoise(samples=2), "layers": [2, 3]}
    expected = locate(world, fact, **quick).evidence["effect"]
    np.testing.assert_array_equal(locate(world, request, **quick).evidence["effect"], expected)
    record = {"requested_rewrite": {"prompt": fact.prompt, "subject": fact.subject, "target_new": {"str": "Paris"}}}
    own = locate(world, [record], **quick)  # no true target: what the model says
    assert own.answers == (" Seattle",)
    np.testing.assert_allclose(own.evidence["effect"], expected, atol=1e-6)


def test_facts_the_model_does_not_know_are_left_out(world: Model) -> None:
    known, wrong = factworld.find("The Space Needle"), Fact("{} is in", "The Eiffel Tower", " Oslo")
    found = locate(world, [wrong, known], corruption=GaussianNoise(samples=2), layers=[2])
    assert (found.unknown, found.subjects) == (("The Eiffel Tower is in",), ("The Space Needle",))
    with pytest.raises(TracerError, match="knows none of the facts"):
        locate(world, wrong)


def test_neurons_are_summed_over_each_layer(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    fact = Fact("{} is in", "The Space Needle")
    found = locate(model, [fact, Fact("{} plays", "Miles Davis")], "neurons", steps=4, layers=[0, 1, 3])
    one = attribute_neurons(model, fact, 4, rule="gauss", token="subject_last")
    np.testing.assert_allclose(found.evidence["mass"][0, [0, 1, 3]], one.scores.sum(1)[[0, 1, 3]], atol=1e-7)
    np.testing.assert_array_equal(found.evidence["count"][0, [0, 1, 3]], one.per_layer(0.2)[[0, 1, 3]])
    assert np.isnan(found.evidence["mass"][:, 2]).all()
    assert found.answers[0] == one.answer
    assert model.fingerprint() == before


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((FACT, "guess"), {}, "using is 'guess'"),
        (([],), {}, "no fact to locate"),
        ((FACT,), {"method": "rome"}, "takes no 'method'; its options are window"),
        ((FACT, "neurons"), {"window": 3}, "takes no 'window'; its options are steps"),
        ((FACT,), {"layers": [9]}, "out of range"),
        (("The Space Needle",), {}, "fact 0: an edit request is"),
        (([FACT, 3],), {}, "fact 1: an edit request is"),
        ((FACT, "sweep"), {}, "fact 0 .* has no new target"),
    ],
)
def test_refusals(tiny: Callable[[str], Model], arguments: tuple, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        locate(tiny("gpt2"), *arguments, **options)


# sweeps, with a method made by hand


REQUEST = EditRequest("{} is in", "The Space Needle", " Paris", " Seattle")
STRENGTH = 0.3


def by_hand(
    model: Model, groups: Sequence[Any], method: str, *, known: str, layers: Any, check: Any = None, **hparams: Any
) -> list[Edit]:
    """A random change of rank one at the layer, the larger the higher it is; the same for the same request."""
    assert known == "refuse" and check is None  # scores tell what a swept edit does
    (layer,) = layers
    name = names_of(model, layers)[0]
    edits = []
    for group in groups:
        draw = torch.Generator().manual_seed(sum(map(ord, group[0].subject)))
        rows, columns = model.hf.get_parameter(name).shape
        factors = torch.randn(rows, 1, generator=draw) * (1 + layer) * STRENGTH, torch.randn(columns, 1, generator=draw)
        edits.append(Edit({name: factors}, method, {"layers": [layer], **hparams}, tuple(group), "", model.name))
    return edits


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Settings:
        layers: Any = None
        strength: float = 1.0

    def named(name: str) -> Method:
        return Method(name, Settings, lambda *_: [], layers="none" if name == "context" else "range")

    monkeypatch.setattr(editing.localisation.evidence, "compute_edits", by_hand)
    monkeypatch.setattr(editing.localisation.evidence, "method_named", named)


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_sweep_scores_each_edit_alone(tiny: Callable[[str], Model], name: str) -> None:
    model = tiny(name)
    before = model.fingerprint()
    requests = [REQUEST, EditRequest("{} plays the", "Miles Davis", " cello", " trumpet")]
    paraphrases = [["See The Space Needle in", "The Space Needle stands in"], ["It is Miles Davis who plays the"]]
    neighbours = [["Boeing is in", "Pike Place is in"], []]
    found = locate(
        model,
        requests,
        "sweep",
        method="mine",
        paraphrases=paraphrases,
        neighbours=neighbours,
        layers=[0, 2],
        strength=2.0,
    )
    assert model.fingerprint() == before
    _, probes = with_prompts(model, requests, paraphrases, neighbours)
    for layer in (0, 2):
        for row, (request, probe) in enumerate(zip(requests, probes, strict=True)):
            (edit,) = by_hand(model, [[request]], "mine", known="refuse", layers=[layer])
            with applied(model, edit.factors):
                expected = edit_scores(model, [probe])
            for measure in expected:
                np.testing.assert_array_equal(found.evidence[measure][row, layer], expected[measure][0])
    for measure, values in edit_scores(model, probes).items():
        np.testing.assert_array_equal(found.unedited[measure], values)
    assert np.isnan(found.evidence["locality"][1]).all()  # no neighbours: missing
    assert not np.isnan(found.evidence["generalisation"][:, [0, 2]]).any()
    assert np.isnan(found.evidence["reliability"][:, [1, 3]]).all()
    moved = found.evidence["reliability margin"]
    assert abs(moved[0, 0] - moved[0, 2]) > 1e-4
    assert set(found.layers) <= {0, 2}
    assert found.settings["method"] == "mine"
    assert found.settings["hparams"] == {"strength": 2.0}
    assert found.answers == (" Paris", " cello")


@pytest.mark.usefixtures("swept")
def test_a_request_alone_is_swept_for_reliability(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    for request in (REQUEST, EditRequest("{} is in", "The Space Needle", " Paris")):
        found = locate(model, request, "sweep")
        answer = with_prompts(model, [request], None, None)[1][0].questions[0].true
        assert found.settings["by"] == ("greedy" if answer is None else "preferred")
        assert not np.isnan(found.evidence["reliability"]).any()
        for name in list(SCORED.values())[1:]:
            assert np.isnan(found.evidence[name]).all()
            assert np.isnan(found.unedited[name]).all()
        assert found.settings["method"] == "rome"
    greedy = locate(model, REQUEST, "sweep", by="greedy", layers=[1])
    assert greedy.settings["by"] == "greedy"


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize(
    ("request_", "options", "message"),
    [
        (REQUEST, {"method": "context"}, "takes none; choose another method"),
        (REQUEST, {"layers": [0], "width": 3}, "no hyper-parameter 'width'"),
        (REQUEST, {"paraphrases": "one"}, "paraphrases are 'one'"),
        (REQUEST, {"paraphrases": 3}, "paraphrases are 3"),
        ([REQUEST] * 2, {"neighbours": ["one", "two"]}, "neighbours is 'one'"),
        ([REQUEST] * 2, {"neighbours": [["one"]]}, "one list of prompts for each of 2 requests"),
        ([REQUEST, {"prompt": "{} is"}], {}, "request 1: a request needs"),
        (REQUEST, {"by": "best"}, "by is 'best'"),
    ],
)
def test_sweeps_refused(tiny: Callable[[str], Model], request_: Any, options: dict[str, Any], message: str) -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    with pytest.raises(TracerError, match=message):
        locate(model, request_, "sweep", **options)
    assert model.fingerprint() == before


def test_a_sweep_of_a_real_method(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    settings: dict[str, Any] = {"method": "rome", "mom2_adjustment": False, "v_steps": 6, "context_templates": ["{}"]}
    neighbours = ["Boeing is in", "Pike Place is in"]
    found = locate(model, REQUEST, "sweep", layers=[0, 2], neighbours=neighbours, **settings)
    (request,), probes = with_prompts(model, [REQUEST], None, neighbours)
    for layer in (0, 2):
        edit = compute_edit(model, request, layers=[layer], **settings)
        with applied(model, edit.factors):
            expected = edit_scores(model, probes)
        for name, values in expected.items():
            np.testing.assert_allclose(found.evidence[name][:, layer], values, atol=1e-4)
    assert found.evidence["reliability margin"][0, 0] > found.unedited["reliability margin"][0]
    assert "layers" not in found.settings["hparams"]
    assert found.settings["hparams"]["v_steps"] == 6
    assert model.fingerprint() == before
    # and what was found says where to edit
    best = compute_edit(model, REQUEST, locate=found, **settings)
    assert list(best.factors) == names_of(model, found.layers[:1])


def test_prompts_come_from_the_record_or_from_factworld(world: Model) -> None:
    record = factworld.records("validation")[0]
    (request,), (probe,) = with_prompts(world, [record], None, None)
    asked = {group: [q.prompt for q in probe.questions if q.kind == group] for group in ("paraphrase", "neighbour")}
    assert asked == {"paraphrase": record["paraphrase_prompts"], "neighbour": record["neighborhood_prompts"]}
    _, (replaced,) = with_prompts(world, [record], ["Anchorage, a city of"], None)
    assert [q.prompt for q in replaced.questions if q.kind == "paraphrase"] == ["Anchorage, a city of"]
    assert [q.prompt for q in replaced.questions if q.kind == "neighbour"] == asked["neighbour"]
    bare = EditRequest(request.prompt, request.subject, request.target_new)
    _, (known,) = with_prompts(world, [bare], None, None)
    fact = factworld.find("Anchorage", "city_country")
    held_out = {one.text for one in factworld.paraphrases(fact, held_out=True)}
    assert held_out <= {q.prompt for q in known.questions if q.kind == "paraphrase"}
    assert any(q.kind == "neighbour" for q in known.questions)
    assert all(q.true is not None for q in known.questions)
    other = dataclasses.replace(world, name="another")  # of another model nothing is known: what it says is asked
    _, (unknown,) = with_prompts(other, [bare], None, None)
    (question,) = unknown.questions
    assert question.true is not None
    assert question.true.strip() == answer_text(world, own_answer(world, bare.text)).strip()


def test_changes_are_those_that_wilke_chooses_by(world: Model) -> None:
    record, last = factworld.records("test")[0], world.n_layers - 1
    layers = [1, 2, last]
    settings: dict[str, Any] = {"mom2_adjustment": False, "context_templates": ["{}"]}
    found = locate(world, record, "change", layers=layers, **settings)
    edit = compute_edit(world, record, "wilke", layers=layers, check=None, **settings)
    assert edit.evidence is not None
    change, works = edit.evidence["change"][0].numpy(), edit.evidence["works"][0].numpy() > 0
    np.testing.assert_allclose(found.evidence["change"][0, layers], change)
    np.testing.assert_allclose(found.evidence["ease"][0, layers], np.where(works, 1 / np.maximum(change, 1e-9), 0))
    assert works.tolist() == [True, True, False] and np.isnan(found.evidence["change"][0, 0])
    assert found.layers[0] == int(edit.evidence["layer"][0]) and list(edit.factors) == names_of(world, found.layers[:1])
    assert "context_templates" in found.settings["hparams"] and "by least change" in str(found)
