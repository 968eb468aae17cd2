"""How memories decided about questions, wherever questions are asked; and what each of their entries does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_runs import QUICK, RECORDS
from handmade import own
from toys import METHOD, TOYS, toy, vectors

import editing
from editing.evaluation import Evaluation
from editing.health.drift import Drift
from editing.memories import KINDS, Memory, attach, attached, detach, directed
from editing.methods.compute import METHODS
from editing.plots.memory import flattened
from editing.questions import ablate, ask
from editing.questions.answer import Routed
from editing.questions.question import Question
from editing.report import as_markdown
from tracer import Fact, Model, TracerError

PROMPTS = ("The Space Needle is in", "The Eiffel Tower is in", "Miles Davis is")
QUESTIONS = [
    Question.of(kind, prompt, " Rome", " Paris")
    for kind, prompt in zip(("rewrite", "paraphrase", "neighbour"), PROMPTS, strict=True)
]


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in TOYS.items():
        monkeypatch.setitem(KINDS, name, place)


@pytest.fixture
def model(tiny: Callable[[str], Model]) -> Iterator[Model]:
    yield own(tiny("gpt2"))


def ids(model: Model, prompt: str) -> tuple[int, ...]:
    return tuple(Fact(prompt, prompt).align(model).input_ids)


def near(model: Model, count: int = 2, radius: float = 1.0) -> Memory:
    """Keys at the states of the first prompts."""
    prompts = [ids(model, prompt) for prompt in PROMPTS]
    bare = toy(model, prompts[:count], vectors(model, count), layer=1)
    empty = Memory("near", "near", bare.fingerprint, {**bare.tensors, "keys": bare.tensors["vectors"]}, bare.header)
    keys = empty.acts.queries(empty, model, prompts[:count])
    return Memory("near", "near", bare.fingerprint, {**bare.tensors, "keys": keys}, {**bare.header, "radius": radius})


def test_a_prompt_is_decided_about_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """To act on it and to tell of it; and anew the next time, when the weights may be others."""
    memory = near(model)
    attach(model, memory)
    routes, seen = memory.acts.routes, list[tuple[int, ...]]()

    def counted(of: Memory, asked: Model, prompts: list[tuple[int, ...]]) -> object:
        seen.extend(prompts)
        return routes(of, asked, prompts)

    monkeypatch.setattr(type(memory.acts), "routes", lambda _, *given: counted(*given))
    for times in (1, 2):
        ask(model, QUESTIONS, write="short")
        assert sorted(seen) == sorted([ids(model, prompt) for prompt in PROMPTS] * times)


def test_every_answer_says_which_entry_acted_and_how_near_it_was(model: Model) -> None:
    memory = near(model)
    keys = memory.acts.queries(memory, model, [ids(model, prompt) for prompt in PROMPTS]).detach()
    assert all(one.routes == () for one in ask(model, QUESTIONS).each)
    with attached(model, memory):
        routes = [one.routes for one in ask(model, QUESTIONS, max_rows=1).each]
    for place, (route,) in enumerate(routes):
        distances = (keys[:2] - keys[place]).norm(dim=1)
        first, second = distances.argsort().tolist()
        assert (route.memory, route.entry, route.runner_up) == ("near", first, second)
        assert route.score == pytest.approx(float(distances[first]), abs=1e-5) and route.threshold == 1.0
        assert route.runner_up_score == pytest.approx(float(distances[second]), abs=1e-5)
        assert route.hit == (float(distances[first]) <= 1.0)
    assert [route.hit for (route,) in routes[:2]] == [True, True]


def test_a_route_is_told_in_a_line() -> None:
    assert (
        str(Routed("grace", True, 3, 4.25, 9.6, 7, 11.0))
        == "grace: entry 3 at 4.25 (threshold 9.6), next entry 7 at 11"
    )
    nan = float("nan")
    assert str(Routed("serac", False, 2, 0.1, 0.5, -1, nan)) == "serac: no hit, nearest entry 2 at 0.1 (threshold 0.5)"
    assert str(Routed("side", True, -1, nan, nan, -1, nan)) == "side: acts"
    assert str(Routed("side", False, -1, nan, nan, -1, nan)) == "side: no entry"


def test_an_evaluation_has_hit_rates_by_kind_of_question(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    import toys

    monkeypatch.setitem(METHODS, METHOD.name, "toys.METHOD")
    monkeypatch.setitem(sys.modules, "editing.methods.toys", toys)
    result = editing.evaluate(model, RECORDS, "toy", **{**QUICK, "canary_tokens": 32})
    frame = result.metrics[(result.metrics["method"] == "toy") & (result.metrics["control"] == "")]
    means = frame.groupby("metric")["value"].mean()
    assert means["rewrite hit"] == 1.0  # the toy knows the very prompt and nothing else
    assert means["neighbour hit"] == means["false alarm rate"] == means["false alarms (text)"] == 0.0
    asked = result.routes[result.routes["kind"].isin(["rewrite", "paraphrase", "subject_alias"])]
    by_case = asked.groupby("case_id")["hit"].mean()
    own_rate = frame[frame["metric"] == "hit rate"].set_index("case_id")["value"]
    np.testing.assert_allclose(own_rate.sort_index(), by_case.sort_index())
    assert 0 < by_case.mean() < 1
    assert not result.metrics[result.metrics["method"] == "unedited"]["metric"].str.contains("hit").any()
    assert set(result.routes["method"]) == {"toy"} and {"hit rate", "false alarm rate"} <= set(frame["metric"])
    assert "hit rate" in as_markdown(result)
    again = Evaluation.load(result.save(tmp_path / "run.sqlite"))
    assert again.routes.equals(result.routes) and len(again.routes) == len(result.routes) > len(RECORDS)


def test_text_that_a_memory_answers_is_counted(model: Model) -> None:
    drift = Drift.recorded(model, tokens=32, width=16)
    assert np.isnan(drift.both(model).hits)
    begun = tuple(drift.ids[0, :8].tolist())
    with attached(model, toy(model, [begun], vectors(model))):
        assert drift.both(model).hits == pytest.approx(1 / 4)  # of the first 4 and 8 tokens of two windows


def test_somebody_else_may_decide(model: Model) -> None:
    """The second prompt is answered as the first is, which the memory itself would not do; and the first is not."""
    attach(model, memory := near(model, 1, radius=1e-3))
    before, (first, second, third) = model.fingerprint(), (ids(model, prompt) for prompt in PROMPTS)
    with directed(model, "near", {second: first, third: None}):
        found = [one.nll for one in ask(model, QUESTIONS).each]
    assert model.fingerprint() == before
    own = [one.nll for one in ask(model, QUESTIONS).each]
    detach(model, "near")
    bare = [one.nll for one in ask(model, QUESTIONS).each]
    assert found[0] == bare[0] != own[0] and found[1] != own[1] and found[2] == bare[2]
    alike = toy(model, [second], memory.tensors["vectors"], layer=1)
    with attached(model, alike):
        assert ask(model, QUESTIONS).each[1].nll == found[1]
    with pytest.raises(TracerError, match="no memory 'near'"), directed(model, "near", {}):
        pass


def test_rows_that_a_memory_stays_out_of_are_left_alone_whatever_its_kind_does(model: Model) -> None:
    """A kind that acts at every token of every row, in a batch of which somebody lets it have one row."""
    keys, values = vectors(model, 2, seed=1), vectors(model, 2, seed=2)
    patch = Memory("patch", "patch", model.weights_fingerprint(), {"keys": keys, "values": values}, {"layer": 0})
    bare = [one.nll for one in ask(model, QUESTIONS).each]
    with attached(model, patch):
        whole = [one.nll for one in ask(model, QUESTIONS).each]
        first, *_ = (ids(model, prompt) for prompt in PROMPTS)
        with directed(model, "patch", {first: first}):
            found = [one.nll for one in ask(model, QUESTIONS).each]
    assert found == [whole[0], *bare[1:]] and all(one != other for one, other in zip(whole, bare, strict=True))


# --- entries ---------------------------------------------------------------------------------------------------------
def test_an_entry_taken_out_changes_what_it_acts_on(model: Model) -> None:
    attach(model, near(model, radius=1e-3))
    before = model.fingerprint()
    table = ablate(model, "near", QUESTIONS)
    assert model.fingerprint() == before
    assert table["acts_on"].tolist() == [1, 1] and min(table["change"]) > 1e-3
    with_memory = np.nanmean([one.nll < one.nll_against for one in ask(model, QUESTIONS).each])
    assert table["as_meant_with"].tolist() == [with_memory] * 2


def test_a_memory_without_an_entry_is_that_of_the_others(model: Model) -> None:
    memory = near(model)
    one = memory.acts.without(memory, 0)
    assert torch.equal(one.tensors["keys"], memory.tensors["keys"][1:])
    assert torch.equal(one.tensors["vectors"], memory.tensors["vectors"][1:])
    assert one.header["prompts"] == memory.header["prompts"][1:] and one.digest != memory.digest
    for entry in (-1, 2):
        with pytest.raises(TracerError, match=f"no entry {entry}; it has 2"):
            memory.acts.without(memory, entry)


def test_a_memory_that_is_not_there_is_named(model: Model) -> None:
    with pytest.raises(TracerError, match="has no memory 'grace'; it has none"):
        ablate(model, "grace", QUESTIONS)


# --- the map ---------------------------------------------------------------------------------------------------------
def test_the_map_shows_keys_radii_and_questions(model: Model) -> None:
    attach(model, near(model, radius=0.5))
    figure = editing.plot_memory(model, "near", QUESTIONS)
    assert [trace.name for trace in figure.data] == ["keys", "rewrite", "paraphrases", "neighbours"]  # type: ignore[attr-defined]
    assert len(figure.layout.shapes) == 2  # type: ignore[attr-defined]
    circle = figure.layout.shapes[0]  # type: ignore[attr-defined]
    assert circle.x1 - circle.x0 == pytest.approx(1.0)
    keys, rewrite, *_, neighbour = figure.data
    assert rewrite.x[0] == pytest.approx(keys.x[0], abs=1e-5) and rewrite.marker.symbol == ("circle",)  # type: ignore[attr-defined]
    expected = ask(model, QUESTIONS).each[-1].routes[0].hit
    assert neighbour.marker.symbol == ("circle" if expected else "circle-open",)  # type: ignore[attr-defined]
    assert "near: entry 0 at" in rewrite.customdata[0]  # type: ignore[attr-defined]


def test_what_has_no_map_is_said(model: Model) -> None:
    with pytest.raises(TracerError, match="no memory 'near' to draw; it has none"):
        editing.plot_memory(model, "near")
    attach(model, toy(model, [ids(model, PROMPTS[0])], vectors(model)))
    with pytest.raises(TracerError, match="kind toy, which compares no vectors"):
        editing.plot_memory(model, "toy", QUESTIONS)


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_the_plane_never_lengthens_a_distance(count: int) -> None:
    points = np.random.default_rng(count).normal(size=(count, 7))
    flat = flattened(points)
    assert flat.shape == (count, 2)
    true, shown = (np.linalg.norm(each[:, None] - each[None], axis=-1) for each in (points, flat))
    assert (shown <= true + 1e-9).all()
    if count in (2, 3):  # which lie in a plane
        np.testing.assert_allclose(shown, true, atol=1e-9)
