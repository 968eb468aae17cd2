"""Layers to edit: suggestions by hand, evidence equal to the traces and edits it is made of, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade_located import located
from synthetic import synthetic_attribution, synthetic_average, synthetic_trace

import editing.localisation.evidence
from editing.edits.edit import Edit
from editing.edits.weights import applied, names_of
from editing.layers.from_result import layers_from
from editing.layers.located import Located, suggest
from editing.localisation.choose import locate
from editing.localisation.evidence import with_prompts
from editing.methods.compute import compute_edit
from editing.methods.method import Method
from editing.questions.measures import edit_scores
from editing.questions.target_scores import MEASURES
from editing.request import EditRequest
from tracer import (
    AverageTrace,
    Fact,
    GaussianNoise,
    Model,
    TracerError,
    attribute_neurons,
    causal_trace,
    export,
    factworld,
    load,
)
from tracer.engine.answer import own_answer
from tracer.facts.readout import answer_text
from tracer.files import npz as storage

NAN = float("nan")


# suggestions by hand


@pytest.mark.parametrize(
    ("profile", "share", "most", "layers", "window"),
    [
        ([0.1, 0.8, 1.0, 0.9, 0.2], 0.8, 6, (2, 3, 1), (1, 2, 3)),
        ([0.1, 0.8, 1.0, 0.9, 0.2], 0.85, 6, (2, 3), (2, 3)),
        ([0.1, 0.8, 1.0, 0.9, 0.2], 0.0, 3, (2, 3, 1), (1, 2, 3)),  # the better side first
        ([0.1, 0.8, 1.0, 0.9, 0.2], 0.0, 2, (2, 3), (2, 3)),
        ([0.1, 0.8, 1.0, 0.9, 0.2], 0.0, 6, (2, 3, 1, 4, 0), (0, 1, 2, 3, 4)),
        ([0.9, 0.1, 1.0, 0.1, 0.9], 0.8, 6, (2,), (2,)),  # a range without gaps
        ([1.0, 0.9, NAN, 0.9], 0.8, 6, (0, 1), (0, 1)),
        ([NAN, NAN, 0.3, NAN], 0.8, 6, (2,), (2,)),
        ([1.0, 1.0, 1.0], 1.0, 6, (0, 1, 2), (0, 1, 2)),  # of equal ones the lower
        ([0.0, 1.0, 1.0 + 1e-12], 1.0, 1, (1,), (1,)),  # rounding tells nothing apart
        ([-0.3, -0.1, -0.1], 0.8, 6, (1,), (1,)),  # nothing above zero: one layer
        ([0.0, 0.0], 0.0, 6, (0,), (0,)),
        ([0.5], 0.8, 6, (0,), (0,)),
    ],
)
def test_suggestions(profile: list[float], share: float, most: int, layers: Any, window: Any) -> None:
    assert suggest(np.array(profile), share, most) == (layers, window)


def test_equal_layers_are_told_apart_by_margins() -> None:
    assert suggest(np.ones(4), 0.8, ties=np.array([0.1, 0.4, 0.3, 0.2]))[0] == (1, 2, 3, 0)
    assert suggest(np.array([0.9, 1.0, 0.9]), 0.8, ties=np.array([9, 0, 9.5]))[0] == (1, 2, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], 1.5), "share is 1.5"),
        (([1.0], -0.1), "share is -0.1"),
        (([1.0], True), "share is True"),
        (([1.0], 0.8, 0), "most is 0"),
        (([1.0], 0.8, 1.5), "most is 1.5"),
        (([NAN, NAN],), "no layer was measured"),
    ],
)
def test_suggestions_refused(arguments: tuple, message: str) -> None:
    profile, *rest = arguments
    with pytest.raises(TracerError, match=message):
        suggest(np.array(profile), *(rest or [0.8]))  # pyright: ignore[reportArgumentType]


# results


def test_the_profile_of_a_sweep_is_the_harmonic_mean() -> None:
    found = located("sweep", n_layers=3, reliability=[[1, 1, 0]], generalisation=[[0.5, 1, 1]], locality=[[0.25, 1, 1]])
    np.testing.assert_allclose(found.profile, [3 / (1 + 2 + 4), 1, 0])
    assert found.layers == (1,)
    assert found.settings["share"] == 0.95
    missing = located("sweep", n_layers=3, reliability=[[1, 0.5, 0]], generalisation=[[NAN] * 3], locality=[[NAN] * 3])
    np.testing.assert_allclose(missing.profile, [1, 0.5, 0])  # what is missing does not count as 0
    margins: dict[str, Any] = {"reliability margin": [[0.1, 0.3, 0.2]], "locality margin": [[NAN, 0.1, 0.5]]}
    equal = located("sweep", n_layers=3, reliability=[[1, 1, 1]], **margins)
    assert equal.layers == (2, 1, 0)  # of equal shares the larger margins
    several = located("sweep", n_layers=2, reliability=[[1, 0], [0, 0]], generalisation=[[1, 1], [NAN, NAN]])
    np.testing.assert_allclose(several.mean("generalisation")[0], [1, 1])
    np.testing.assert_allclose(several.mean("reliability")[0], [0.5, 0])


def test_means_over_facts_have_intervals() -> None:
    found = located("trace", n_layers=2, effect=[[0, 1], [1, 1], [0, 1], [1, 1]])
    mean, low, high = found.mean("effect")
    assert mean.tolist() == [0.5, 1]
    assert low[0] < 0.5 < high[0]
    assert low[1] == high[1] == 1
    frame = found.to_frame()
    assert list(frame.columns) == ["layer", "rank", "profile", "effect", "effect low", "effect high"]
    assert frame["rank"].tolist() == [0, 1]
    assert frame["effect low"].tolist() == low.tolist()


@pytest.mark.parametrize("using", ["trace", "neurons", "sweep"])
def test_saved_and_loaded_is_the_same(tmp_path: Path, using: str) -> None:
    found = located(using, unknown=("Zürich is in",), note="a remark")
    again = Located.load(found.save(tmp_path / "located.npz"))
    for field in dataclasses.fields(Located):
        one, other = getattr(found, field.name), getattr(again, field.name)
        if field.name in ("evidence", "unedited"):
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
        else:
            assert one == other, field.name
    for suffix in ("csv", "json", "npz"):
        export(found, tmp_path / f"located.{suffix}")
    assert len((tmp_path / "located.csv").read_text().splitlines()) == 1 + found.n_layers


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TracerError, match="no file"):
        Located.load(tmp_path / "none.npz")
    synthetic_trace().save(tmp_path / "trace.npz")
    with pytest.raises(TracerError, match=r"not a saved editing\.Located"):
        Located.load(tmp_path / "trace.npz")
    storage.write(tmp_path / "other.npz", "editing.Located/1", {}, {"layers": []})
    with pytest.raises(TracerError, match="not a saved Located"):
        Located.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"using": "guess"}, "using is 'guess'"),
        ({"layers": (1, 2)}, "not the same layers"),
        ({"layers": (), "window": ()}, "not the same layers"),
        ({"evidence": {}}, "lacks 'effect'"),
        ({"evidence": {"effect": np.zeros((2, 3))}}, r"'effect' has the shape \(2, 3\); expected \(4, 8\)"),
        ({"unedited": {"locality": np.zeros(3)}}, r"'locality' has the shape \(3,\); expected \(4,\)"),
    ],
)
def test_results_that_contradict_themselves_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        dataclasses.replace(located("trace"), **change)


def test_results_are_read_only_and_say_what_was_found() -> None:
    found = located("trace", n_layers=3, effect=[[0.1, 0.5, 0.45]] * 2, unknown=("x",))
    with pytest.raises(ValueError, match="read-only"):
        found.evidence["effect"][0] = 1
    assert str(found).splitlines() == [
        "layer 1, window 1 to 2, by MLP trace; 2 facts, left out as unknown to the model: 1; model factworld",
        "at layer 1: effect 0.5",
    ]
    assert "says little" in str(located("neurons", n_layers=2, mass=[[-0.2, -0.1]]))
    assert found.rank_correlation(located("trace", n_layers=3, effect=[[3, 1, 2]])) == pytest.approx(-0.5 - 0.5)
    with pytest.raises(TracerError, match="different models"):
        found.rank_correlation(located("trace", n_layers=3, effect=[[3, 1, 2]], fingerprint="1" * 64))


# from traces and neurons


@pytest.fixture(scope="module")
def world() -> Model:
    return load().pinned()


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
        for name in MEASURES[1:]:
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
    asked = {group: [q.prompt for q in probe.questions if q.group == group] for group in ("paraphrase", "neighbour")}
    assert asked == {"paraphrase": record["paraphrase_prompts"], "neighbour": record["neighborhood_prompts"]}
    _, (replaced,) = with_prompts(world, [record], ["Anchorage, a city of"], None)
    assert [q.prompt for q in replaced.questions if q.group == "paraphrase"] == ["Anchorage, a city of"]
    assert [q.prompt for q in replaced.questions if q.group == "neighbour"] == asked["neighbour"]
    bare = EditRequest(request.prompt, request.subject, request.target_new)
    _, (known,) = with_prompts(world, [bare], None, None)
    fact = factworld.find("Anchorage", "city_country")
    held_out = {one.text for one in factworld.paraphrases(fact, held_out=True)}
    assert held_out <= {q.prompt for q in known.questions if q.group == "paraphrase"}
    assert any(q.group == "neighbour" for q in known.questions)
    assert all(q.true is not None for q in known.questions)
    other = dataclasses.replace(world, name="another")  # of another model nothing is known: what it says is asked
    _, (unknown,) = with_prompts(other, [bare], None, None)
    (question,) = unknown.questions
    assert question.true is not None
    assert question.true.strip() == answer_text(world, own_answer(world, bare.text)).strip()


# what other results say


def eight(world: Model, **fields: Any) -> dict[str, Any]:
    return {"fingerprint": world.fingerprint(), **fields}


def test_layers_from_traces(world: Model) -> None:
    # synthetic traces: 0.5 * 0.8 ** |layer - 2| at the subject's last token, more than that at the prompt's last
    for kind in ("hidden", "mlp"):
        trace = synthetic_trace(kind, **eight(world))
        assert layers_from(trace, single=True, model=world) == (2,)
        assert layers_from(trace, single=False, model=world) == (1, 2, 3)
    part = synthetic_trace("mlp", layers=(3, 4, 5), positions=(3,), **eight(world))
    assert layers_from(part, single=True, model=world) == (3,)
    rising = synthetic_trace("mlp", layers=(3, 4, 5), positions=(3,), scores=[[0.3, 0.4, 0.5]], **eight(world))
    assert layers_from([part, part, rising], single=True, model=world) == (3,)  # 0.4, 0.32, 0.256; 0.1, 0.2, 0.3
    assert layers_from([part, rising], single=True, model=world) == (5,)
    falling = {"metric": "kl", "clean": 0.0, "corrupted": 2.0}
    kl = synthetic_trace("mlp", layers=(0, 1), positions=(3,), scores=[[1.5, 0.5]], **falling, **eight(world))
    assert layers_from(kl, single=True, model=world) == (1,)


def test_layers_from_averages(world: Model) -> None:
    average = synthetic_average("mlp", **eight(world))
    assert layers_from(average, single=True, model=world) == (2,)
    assert layers_from(average, single=False, model=world) == (1, 2, 3)
    traces = [synthetic_trace("mlp", subject=name, **eight(world)) for name in "ab"]
    assert layers_from(AverageTrace.of(traces), single=False, model=world) == layers_from(
        traces, single=False, model=world
    )


def test_layers_from_neurons(world: Model) -> None:
    fact = factworld.find("The Space Needle")
    last = fact.align(world).subject_range[1] - 1
    at = {"prompt": fact.text, "subject": fact.subject, "positions": (last,)}
    scores = np.zeros((8, 20))
    scores[5, :4], scores[3, 0] = 0.1, 0.35  # more in sum, fewer at the top
    found = synthetic_attribution(scores=scores, activations=scores, **at, **eight(world))
    assert layers_from(found, single=True, model=world) == (5,)
    assert layers_from([found, found], single=False, model=world) == (5,)
    elsewhere = dataclasses.replace(found, positions=(len(found.tokens) - 1,))
    with pytest.raises(TracerError, match="attribute with token='subject_last'"):
        layers_from(elsewhere, single=True, model=world)
    with pytest.raises(TracerError, match="do not add up"):
        layers_from(dataclasses.replace(found, method="activation_contrast"), single=True, model=world)


def test_layers_from_located(world: Model) -> None:
    found = located("trace", effect=[[0, 0.1, 0.8, 0.9, 1.0, 0.3, 0, 0]], **eight(world))
    assert layers_from(found, single=True, model=world) == (4,)
    assert layers_from(found, single=False, model=world) == (2, 3, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda own: synthetic_trace("attn", **own), "of kind 'attn' does not say"),
        (lambda own: synthetic_trace(sever="mlp", **own), "with mlp severed does not say"),
        (lambda own: synthetic_trace("mlp", positions=(0, 6), **own), "lacks the subject's last token"),
        (lambda own: synthetic_average("attn", **own), "of kind 'attn'"),
        (lambda own: synthetic_average(effect=np.full((6, 8), NAN), **own), "lacks the subjects' last tokens"),
        (lambda own: synthetic_trace("mlp", scores=np.full((7, 8), 0.1), **own), "no layer of the result"),
        (lambda _: synthetic_trace("mlp"), "of other weights"),
        (lambda _: located("trace"), "of other weights"),
        (lambda _: [], "got nothing"),
        (lambda _: 3, "got int"),
        (lambda own: [synthetic_trace("mlp", **own), synthetic_average("mlp", **own)], "got AverageTrace, CausalTrace"),
        (lambda own: [located("trace", **own)], "got Located"),
    ],
)
def test_results_that_name_no_layers(world: Model, given: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        layers_from(given(eight(world)), single=True, model=world)
