"""Outcomes: probabilities are those of plain forwards, what is missing is missing, and tables and figures show both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from answered import answered
from drawn import HOSTILE, check_no_markup, check_places, drawn, headings, layout, plain
from handmade import REQUEST, handmade

from editing.edits.weights import applied
from editing.plots.outcome import plot_outcome
from editing.questions.answers import Answers
from editing.questions.outcome import Outcome, measure
from editing.questions.probes import Probes, from_factworld
from editing.questions.question import Question
from editing.questions.table import shares, tables, worst
from editing.request import EditRequest
from tracer import Fact, Model, factworld, load
from tracer.engine.answer import own_answer
from tracer.errors import TracerError
from tracer.facts.readout import answer_text

RECORD = {
    "requested_rewrite": {
        "prompt": "{} is in downtown",
        "subject": "The Space Needle",
        "target_new": {"str": "Paris"},
        "target_true": {"str": "Seattle"},
    },
    "paraphrase_prompts": ["To see The Space Needle go to", "The Space Needle stands in"],
    "neighborhood_prompts": ["Smith Tower is in"],
    "same_subject_prompts": [{"prompt": "The Space Needle is in the country of", "target": "the United States"}],
    "generation_prompts": ["The Space Needle is", "The Space Needle is"],
}


@pytest.fixture(scope="module")
def embedded() -> Model:
    return load()


@pytest.fixture(scope="module")
def outcome(tiny: Callable[[str], Model]) -> Outcome:
    """A record before and after an edit drawn at random."""
    model = tiny("gpt2")
    before = measure(model, Probes.of(RECORD), max_new_tokens=4)
    with applied(model, handmade(model).factors):
        after = measure(model, Probes.of(RECORD), max_new_tokens=4)
    assert model.fingerprint() == before.fingerprint != after.fingerprint
    return Outcome(before, after)


def made(before: dict[str, Any], after: dict[str, Any], questions: tuple[Question, ...]) -> Outcome:
    """An outcome by hand: whole-target probabilities of targets of one token."""

    def one(numbers: dict[str, Any]) -> Answers:
        return answered(questions, numbers["new"], numbers["true"], ["so"] * len(questions))

    return Outcome(one(before), one(after))


def ask(group: str, number: int = 0, **fields: Any) -> Question:
    return Question.of(
        group, f"{group} {number}", fields.pop("new", " Paris"), fields.pop("true", " Seattle"), **fields
    )


# --- what is asked ---------------------------------------------------------------------------------------------------
def test_a_record_brings_its_prompts() -> None:
    probes = Probes.of(RECORD)
    assert [(q.kind, q.prompt, str(q.true).strip()) for q in probes.questions] == [
        ("rewrite", "The Space Needle is in downtown", "Seattle"),
        ("paraphrase", RECORD["paraphrase_prompts"][0], "Seattle"),
        ("paraphrase", RECORD["paraphrase_prompts"][1], "Seattle"),
        ("neighbour", "Smith Tower is in", "Seattle"),
        ("same_subject", "The Space Needle is in the country of", "the United States"),
    ]
    assert {str(q.new).strip() for q in probes.questions} == {"Paris"}
    assert probes.generate == ("The Space Needle is",)
    assert [q.wants_new for q in probes.questions] == [True, True, True, False, False]
    assert Probes.of(probes) is probes


def test_a_bare_request_asks_for_itself_alone() -> None:
    assert Probes.of(REQUEST).questions == (Question.of("rewrite", REQUEST.text, " Paris", " Seattle"),)


def test_joined_probes_are_numbered() -> None:
    joined = Probes.joined([Probes.of(RECORD), Probes.of(REQUEST), Probes.of(RECORD)])
    assert [q.case for q in joined.questions] == [0] * 5 + [1] + [2] * 5
    assert joined.cases == 3
    assert joined.generate == ("The Space Needle is",)


def test_records_of_factworld_ask_what_they_say() -> None:
    record = next(r for r in factworld.records("validation") if r["same_subject_prompts"])
    probes = Probes.of(record)
    counts = {"rewrite": 1, "paraphrase": len(record["paraphrase_prompts"])}
    counts |= {"neighbour": len(record["neighborhood_prompts"]), "same_subject": len(record["same_subject_prompts"])}
    assert {name: len(probes.group(name)) for name in counts} == counts


def test_factworld_knows_what_goes_with_a_request(embedded: Model) -> None:
    fact = factworld.find("The Space Needle", "landmark_city")
    wording = factworld.paraphrases(fact)[2]
    about = EditRequest(wording.prompt, fact.subject, " Lisbon")
    strange = EditRequest("{} was painted", "The Space Needle", " green")
    found, nothing, nobody = from_factworld([about, strange, EditRequest("{} is in downtown", "Nobody", " Rome")])
    assert (nothing, nobody) == (None, None)
    assert found is not None
    by_group = {name: [found.questions[i] for i in found.group(name)] for name in ("paraphrase", "neighbour")}
    held_out = [one.text for one in factworld.paraphrases(fact, held_out=True)]
    prompts = [q.prompt for q in by_group["paraphrase"]]
    assert prompts[: len(held_out)] == held_out
    assert wording.text not in prompts
    assert len(prompts) == 4
    assert {q.true for q in by_group["paraphrase"]} == {" Seattle"}
    alike = {one.text for one in factworld.neighbours(fact, None, same_object=True)}
    near = by_group["neighbour"]
    assert {q.prompt for q in near if q.true == " Seattle"} == alike
    assert len(near) == 5
    assert " Lisbon" not in {q.true for q in near}
    taught = {one.text: one.target for one in factworld.facts()}
    assert all(taught[q.prompt] == q.true for q in near)
    others = [found.questions[i] for i in found.group("same_subject")]
    assert [(q.prompt, q.true) for q in others] == [(f.text, f.target) for f in factworld.others_of(fact)]
    said = measure(embedded, found, max_new_tokens=1)
    kept = [i for i, q in enumerate(found.questions) if q.kind in ("neighbour", "same_subject")]
    assert said.as_meant[kept].tolist() == [1.0] * len(kept)  # the embedded model knows them


def test_answers_that_are_not_known_are_what_the_model_says(embedded: Model) -> None:
    request = EditRequest("{} is in downtown", "The Space Needle", " Paris")
    bare = Probes.of(request)
    near = ask("neighbour", true=None).model_copy(update={"prompt": "Smith Tower is in downtown"})
    glued = near.model_copy(update={"prompt": "The Unit"})  # its next token goes on with the word
    more = (ask("paraphrase", true=None), near, ask("neighbour", 1, true=" Rome"), glued)
    completed = replace(bare, questions=(*bare.questions, *more)).completed(embedded)
    rewrite, paraphrase, neighbour, known, unknown = completed.questions
    assert rewrite.true == paraphrase.true == " Seattle"
    said = own_answer(embedded, near.prompt)
    assert list(Fact("{}", near.prompt, neighbour.true).align(embedded).target_ids) == said
    assert known.true == " Rome"
    assert unknown.true is None
    assert completed.completed(embedded) == completed


def test_a_masked_model_is_asked_at_its_mask(tiny: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("bert")
    prompt = "The Space Needle is in [MASK]."
    said = measure(model, probes := Probes((Question.of("rewrite", prompt, "Paris"),)))
    assert said.answers == (answer_text(model, own_answer(model, Fact("{}", prompt, "Paris"))).strip(),)
    assert said.says_new.tolist() == [0.0]
    with pytest.raises(TracerError, match="masked model"):
        measure(model, replace(probes, generate=("The Space Needle is",)))
    vocabulary = model.tokenizer.get_vocab()
    piece = min(text for text in vocabulary if text.startswith("##"))
    for token, expected in (("is", "is"), (piece, None)):  # a piece of a word is no answer
        monkeypatch.setattr("editing.questions.probes.own_answer", lambda *_, token=token: [vocabulary[token]])
        assert probes.completed(model).questions[0].true == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Question.of("rumour", "x", "y"),
            "kind of a question is 'rumour'; expected one of rewrite, paraphrase",
        ),
        (lambda: Question.of("rewrite", " ", "y"), "prompt of a question is ' '"),
        (lambda: Question.of("rewrite", "x", "y", ""), "true answer of a question is ''"),
        (lambda: Probes.of({**RECORD, "paraphrase_prompts": "one"}), "paraphrase_prompts is 'one'"),
        (lambda: Probes.of({**RECORD, "same_subject_prompts": ["one"]}), "same_subject_prompts hold 'one'"),
        (lambda: Probes.of({**RECORD, "generation_prompts": [1]}), "generation_prompts is"),
        (lambda: Probes.of({"prompt": "x"}), "a request needs"),
    ],
)
def test_bad_questions_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        make()


# --- what is measured ------------------------------------------------------------------------------------------------
def log_probs(model: Model, prompt: str, target: str) -> list[float]:
    """By one plain forward over prompt and target."""
    found = Fact("{}", prompt, target).align(model)
    ids = [*found.input_ids, *found.target_ids]
    with torch.no_grad():
        logs = model.hf(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(found.input_ids) - 1
    return [float(logs[start + i, token]) for i, token in enumerate(found.target_ids)]


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_numbers_are_those_of_plain_forwards(tiny: Callable[[str], Model], arch: str) -> None:
    model = tiny(arch)
    probes = Probes.of(RECORD)
    said = measure(model, probes, max_new_tokens=3)
    for i, q in enumerate(probes.questions):
        for kind, target in (("new", str(q.new)), ("true", str(q.true))):
            logs = log_probs(model, q.prompt, target)
            assert getattr(said, kind)[i] == pytest.approx(np.exp(sum(logs)), rel=1e-4)
            assert getattr(said, f"{kind}_mean")[i] == pytest.approx(np.mean(logs), rel=1e-5)
        wanted, other = ("new_mean", "true_mean") if q.wants_new else ("true_mean", "new_mean")
        assert said.as_meant[i] == (getattr(said, wanted)[i] > getattr(said, other)[i])
    assert len(said.texts) == 1
    assert said.fingerprint == model.fingerprint()


def test_what_is_not_known_is_missing(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    probes = Probes((ask("rewrite", true=None), ask("neighbour", true=None), ask("neighbour", 1)))
    said = measure(model, probes)
    assert np.isnan(said.true).tolist() == [True, True, False]
    assert np.isnan(said.says_true).tolist() == [True, True, False]
    assert said.as_meant[0] == said.says_new[0] == 0  # nothing to compare with, so what it says decides
    assert np.isnan(said.as_meant[1])
    outcome = Outcome(said, said)
    assert set(outcome.groups()) == {"rewrite", "neighbour"}
    summary = outcome.summary().set_index("group")
    assert summary["judged"].to_dict() == {"rewrite": 1, "neighbour": 1}
    assert np.isnan(summary.loc["rewrite", "before true"])
    assert summary.loc["neighbour", "before true"] == pytest.approx(said.true[2])
    assert "–" in str(outcome)


def test_answers_are_whole_targets_or_what_is_said_instead(embedded: Model) -> None:
    country = Question.of("same_subject", "The Space Needle is in the country of", " Spain", " the United States")
    probes = Probes((ask("rewrite"), country, country.knowing(" Italy")))
    probes = replace(
        probes, questions=(Question.of("rewrite", REQUEST.text, " Paris", " Seattle"), *probes.questions[1:])
    )
    said = measure(embedded, probes)
    assert said.answers[:2] == ("Seattle", "the United States")
    assert said.says_true.tolist() == [1, 1, 0]
    assert said.answers[2].split()[0] == "the"


def test_an_empty_measurement_has_nothing(tiny: Callable[[str], Model]) -> None:
    said = measure(tiny("gpt2"), Probes(()))
    outcome = Outcome(said, said)
    assert (len(said.new), outcome.groups(), len(outcome.to_frame()), len(outcome.summary())) == (0, {}, 0, 0)
    assert tables(outcome) == []
    with pytest.raises(TracerError, match="nothing was asked"):
        plot_outcome(outcome)


def test_before_and_after_are_of_the_same_questions(outcome: Outcome) -> None:
    other = replace(outcome.after, probes=replace(outcome.probes, questions=outcome.probes.questions[::-1]))
    with pytest.raises(TracerError, match="asked different questions"):
        Outcome(outcome.before, other)
    with pytest.raises(TracerError, match="4 answers to 5 questions"):
        replace(outcome.after, each=outcome.after.each[1:])
    with pytest.raises(TracerError, match="0 texts for 1 prompts"):
        replace(outcome.after, texts=())
    with pytest.raises(ValueError, match="read-only"):
        outcome.after.new[0] = 1


# --- tables ----------------------------------------------------------------------------------------------------------
def test_the_frame_has_every_number(outcome: Outcome) -> None:
    frame = outcome.to_frame()
    assert frame["prompt"].tolist() == [q.prompt for q in outcome.probes.questions]
    for when in ("before", "after"):
        one = getattr(outcome, when)
        for name in ("new", "true", "new_mean", "true_mean", "as_meant"):
            np.testing.assert_array_equal(frame[f"{when} {name}"].to_numpy(), getattr(one, name))
        assert frame[f"{when} answer"].tolist() == list(one.answers)


SEVERAL = tuple(ask(group, number, case=number) for group in ("rewrite", "neighbour") for number in range(4))
MIXED = made(
    {"new": [0.1] * 8, "true": [0.8] * 8},
    {"new": [0.9, 0.2, 0.1, 0.7, 0.1, 0.6, 0.1, 0.8], "true": [0.05, 0.3, 0.8, 0.1, 0.8, 0.2, np.nan, 0.1]},
    SEVERAL,
)


def test_shares_are_counted_over_what_is_known() -> None:
    summary = MIXED.summary().set_index("group")
    assert summary["prompts"].to_dict() == {"rewrite": 4, "neighbour": 4}
    assert summary["after as meant"].to_dict() == {"rewrite": 0.5, "neighbour": pytest.approx(1 / 3)}
    assert summary["before as meant"].to_dict() == {"rewrite": 0, "neighbour": 1}
    assert summary["after new"].to_dict() == {"rewrite": pytest.approx(0.475), "neighbour": pytest.approx(0.4)}
    assert summary.loc["neighbour", "after true"] == pytest.approx(1.1 / 3)
    filled = shares(MIXED)
    assert [column.header for column in filled.columns][:3] == ["prompts about", "number", "as meant"]
    assert list(filled.columns[2].cells) == ["0.0 % → 50.0 %", "100.0 % → 33.3 %"]


def test_the_worst_come_first() -> None:
    places = worst(MIXED, 3)
    assert places == [2, 1, 7, 5]  # the least ratio of new to true among rewrites, the greatest among neighbours
    assert worst(MIXED, 1) == [2, 7]


def test_few_are_shown_one_by_one_and_many_as_shares(outcome: Outcome) -> None:
    text = str(outcome)
    for i, q in enumerate(outcome.probes.questions):
        line = next(line for line in text.splitlines() if f" {q.prompt} " in line)
        assert f"{outcome.before.new[i]:.4f} → {outcome.after.new[i]:.4f}" in line
        assert f"{outcome.before.true[i]:.4f} → {outcome.after.true[i]:.4f}" in line
        assert line.endswith("yes" if outcome.after.as_meant[i] else "no")
    assert "before: " in text
    assert "as meant" not in "".join(str(column.header) for column in tables(outcome, judged=False)[0].columns)
    assert len(tables(MIXED)) == 2
    assert len(tables(MIXED, judged=False)) == 1


def test_texts_are_shown_as_they_are() -> None:
    hostile = ask("rewrite").model_copy(update={"prompt": f"[red]{HOSTILE}\x1b[31m"})
    figures = made({"new": [0.1], "true": [0.8]}, {"new": [0.9], "true": [0.1]}, (hostile,))
    assert "[red]<script>" in str(figures)
    assert "\x1b" not in str(figures)
    check_no_markup(plot_outcome(figures))


# --- figures ---------------------------------------------------------------------------------------------------------
def curves(figure: go.Figure, kind: str) -> list[list[float]]:
    """The means of every panel."""
    return [[float(y) for y in each.y] for each in drawn(figure, "scatter", legendgroup=kind) if each.line.width == 3]


def test_the_figure_has_a_panel_per_group(outcome: Outcome) -> None:
    figure = plot_outcome(outcome)
    check_places(figure)
    means = outcome.summary()
    for kind in ("new", "true"):
        expected = means[[f"before {kind}", f"after {kind}"]].to_numpy()
        np.testing.assert_allclose(curves(figure, kind), expected)
    thin = [each for each in drawn(figure, "scatter", legendgroup="new") if each.line.width != 3]
    paraphrases = outcome.probes.group("paraphrase")
    found = [y for y in thin[1].y if y is not None]
    expected = np.stack([outcome.before.new, outcome.after.new], axis=1)[paraphrases].ravel()
    np.testing.assert_allclose(found, expected)
    titles = headings(figure)
    assert [title.split("as meant")[0].strip() for title in titles] == [
        "rewrite",
        "2 paraphrases",
        "1 neighbour",
        "1 other fact of the subject",
    ]
    assert plain(layout(figure).title.text) == "The Space Needle is in downtown →  Paris "
    every: Any = figure.data
    legend = [each.name for each in every if each.showlegend]
    assert legend == ["the new target", "the answer before the edit"]


def test_a_figure_of_many_counts_them() -> None:
    figure = plot_outcome(MIXED)
    check_places(figure)
    assert layout(figure).title.text == "4 edited facts"
    assert "as meant: 0 of 4 → 2 of 4" in headings(figure)[0]
    assert "as meant: 4 of 4 → 1 of 3" in headings(figure)[1]
    np.testing.assert_allclose(curves(figure, "true")[1], [0.8, 1.1 / 3])


def test_numbers_do_not_cover_each_other() -> None:
    close = made({"new": [0.5], "true": [0.5]}, {"new": [1.0], "true": [0.995]}, (ask("rewrite"),))
    numbers = [each for each in layout(plot_outcome(close)).annotations if each.xref == "x"]
    for moment in (0, 1):
        low, high = sorted(each.y for each in numbers if each.x == moment)
        assert high - low > 0.05
        assert high <= 1


def test_an_unknown_answer_has_no_line() -> None:
    nan = float("nan")
    figure = plot_outcome(made({"new": [0.1], "true": [nan]}, {"new": [0.9], "true": [nan]}, (ask("rewrite"),)))
    assert curves(figure, "true") == []
    assert curves(figure, "new") == [[pytest.approx(0.1), pytest.approx(0.9)]]
    check_places(figure)


def test_only_outcomes_are_drawn() -> None:
    with pytest.raises(TracerError, match="expected an Outcome, got dict"):
        plot_outcome({})  # type: ignore[arg-type]
