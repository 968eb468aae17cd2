"""``tracer neurons``: it prints and writes what the functions return, and bad input is one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import assert_one_line, cells, done, run

from tracer import (
    Fact,
    Model,
    NeuronAttribution,
    NeuronEffects,
    attribute_neurons,
    factworld,
    knowledge_neurons,
    load,
    neuron_effects,
)

PROMPT, SUBJECT, ANSWER = "The Space Needle is in downtown", "The Space Needle", " Seattle"
MORE = "To see {} go to"
NEGATIVE, OTHER = "Miles Davis plays the", "The Eiffel Tower is in"
WORDINGS = [Fact(PROMPT, SUBJECT, ANSWER), Fact(MORE, SUBJECT, ANSWER)]


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], Model]) -> Model:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def basic(tiny_folder: Callable[[str], Path]) -> list[str]:
    return ["neurons", PROMPT, "-s", SUBJECT, "-m", str(tiny_folder("gpt2")), "--target", ANSWER, "--steps", "3"]


def assert_effects(printed: str, effects: NeuronEffects) -> None:
    """Every number of the last table is that of the result."""
    table = printed.split("change of the answer's probability")[-1]
    low, high = np.percentile(effects.random_change, [2.5, 97.5], axis=1)
    for i, (prompt, answer) in enumerate(zip(effects.facts, effects.answers, strict=True)):
        numbers = [f"{effects.before[i]:.4g}", f"{effects.after[i]:.4g}", f"{effects.change[i]:+.1%}"]
        numbers += [f"{effects.random_change[i].mean():+.1%}", f"{low[i]:+.1%} to {high[i]:+.1%}"]
        if effects.other_change is not None:
            numbers.append(f"{effects.other_change[i]:+.1%}")
        assert cells(table, f"{prompt} → {answer.strip()}")[1:] == numbers


def assert_kept(printed: str, kept: Sequence[tuple[int, int]], wordings: Sequence[NeuronAttribution]) -> None:
    mean = np.mean([each.scores for each in wordings], axis=0)
    activations = np.mean([each.activations for each in wordings], axis=0)
    assert f"\n{len(kept)} neuron" in printed
    for layer, neuron in kept[:20]:
        numbers = [f"{mean[layer, neuron]:+.4g}", f"{activations[layer, neuron]:+.4g}"]
        assert cells(printed, str(layer), str(neuron))[2:] == numbers
    counts = np.bincount([layer for layer, _ in kept])
    text = "   ".join(f"{layer}: {count}" for layer, count in enumerate(counts) if count)
    assert f"per layer   {text}\n" in printed


def test_neurons_of_several_wordings(tmp_path: Path, basic: list[str], model: Model) -> None:
    options = ["--paraphrase", MORE, "--negative", NEGATIVE, "--other", OTHER, "--threshold", "0.4", "--share", "1"]
    options += ["--action", "suppress,amplify,set_to", "--factor", "3", "--value", "1.5", "--draws", "4", "--seed", "9"]
    printed = done(*basic, *options, "--out", str(tmp_path), "--format", "html,csv,json,npz")
    wordings = [attribute_neurons(model, fact, 3) for fact in WORDINGS]
    kept = knowledge_neurons(model, WORDINGS, 0.4, 1.0, steps=3, negatives=NEGATIVE)
    assert kept
    assert printed.splitlines()[0] == f"{PROMPT} → Seattle   p = {wordings[0].full:.4g}"
    for each in wordings:
        count = str(len(each.above(0.4)))
        assert cells(printed, "wording", each.prompt)[2:] == ["Seattle", f"{each.full:.4g}", count]
    assert_kept(printed, kept, wordings)
    other = attribute_neurons(model, OTHER, 3).above(0.4)
    tables = printed.split(": change of the answer's probability")[1:]
    actions = ("suppress", "amplify", "set_to")
    for table, action in zip(tables, actions, strict=True):
        settings: dict[str, Any] = {"action": action, "factor": 3.0, "value": 1.5, "draws": 4, "seed": 9}
        effects = neuron_effects(model, WORDINGS[0], kept, other=other, **settings)
        assert_effects(table, effects)
        saved = NeuronEffects.load(tmp_path / f"space_needle_effects_{action}.npz")
        assert saved.after.tolist() == effects.after.tolist()
        assert saved.random.tolist() == effects.random.tolist()

    mean = NeuronAttribution.load(tmp_path / "space_needle_neurons.npz")
    assert mean.scores.tolist() == np.mean([each.scores for each in wordings], axis=0).tolist()
    assert mean.full == np.mean([each.full for each in wordings])
    assert mean.zero.tolist() == np.mean([each.zero for each in wordings], axis=0).tolist()
    frame = pd.read_csv(tmp_path / "space_needle_neurons.csv")
    chosen = frame[["layer", "neuron"]].to_numpy()[frame["kept"].to_numpy()]
    assert {tuple(pair) for pair in chosen.tolist()} == {*kept}
    assert sorted(frame["score"].tolist(), reverse=True) == frame["score"].tolist()
    assert max(frame["prompts"].tolist()) == 2
    content = json.loads((tmp_path / "space_needle_neurons.json").read_text(encoding="utf-8"))
    assert content["neurons"][0] == {**frame.iloc[0].to_dict(), "score": content["neurons"][0]["score"]}
    assert content["neurons"][0]["score"] == pytest.approx(frame["score"][0])
    assert content["wordings"] == [PROMPT, f"To see {SUBJECT} go to"]
    assert {e["action"] for e in json.loads((tmp_path / "space_needle_effects.json").read_text())} == {*actions}
    assert set(pd.read_csv(tmp_path / "space_needle_effects.csv")["action"]) == {*actions}
    assert "heatmap" in (tmp_path / "space_needle_neurons.html").read_text(encoding="utf-8")
    assert '"type":"bar"' in (tmp_path / "space_needle_effects.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "settings", "place"),
    [
        (["--site", "pre"], {"site": "pre"}, "before the non-linearity, where the answer is read"),
        (["--token", "subject_last"], {"token": "subject_last"}, "at the subject's last token"),
        (["--token", "-2", "--rule", "gauss"], {"token": -2, "rule": "gauss"}, "3 steps, gauss; neurons"),
    ],
)
def test_where_and_how(
    basic: list[str], model: Model, options: list[str], settings: dict[str, Any], place: str
) -> None:
    printed = done(*basic, *options, "--draws", "2", "--threshold", "0.5", "--action", "amplify")
    attributed = attribute_neurons(model, WORDINGS[0], 3, **settings)
    kept = attributed.above(0.5)
    assert place in printed.splitlines()[1]
    assert_kept(printed, kept, [attributed])
    acting = {"tokens": settings.get("token", "answer"), "site": settings.get("site", "post")}
    assert_effects(printed, neuron_effects(model, WORDINGS[0], kept, action="amplify", draws=2, **acting))


def test_activations_against_other_texts(basic: list[str], model: Model) -> None:
    texts = [NEGATIVE, OTHER, "Paris is"]
    options = [part for text in texts for part in ("--contrast", text)]
    printed = done(*basic, "--method", "activation_contrast", *options, "--threshold", "9", "--draws", "2")
    attributed = attribute_neurons(model, WORDINGS[0], method="activation_contrast", contrast=texts)
    kept = attributed.above(9)
    assert f"\n{len(kept)} neurons kept (above 9 standard deviations)" in printed
    assert "above 3 standard deviations" in done(*basic, "--method", "activation_contrast", *options, "--draws", "1")
    layer, neuron = kept[0]
    assert cells(printed, str(layer), str(neuron))[2] == f"{attributed.scores[layer, neuron]:+.4g}"


def test_nothing_kept_is_said_plainly(tmp_path: Path, basic: list[str]) -> None:
    printed = done(*basic, "--threshold", "1", "--out", str(tmp_path), "--format", "html,csv,npz")
    assert "no neuron was kept (above 1 of the highest score); a lower --threshold or --share keeps more" in printed
    assert "change of the answer" not in printed
    names = ["space_needle_neurons.csv", "space_needle_neurons.html", "space_needle_neurons.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert pd.read_csv(tmp_path / names[0])["kept"].tolist() == [False] * 100


def test_too_many_kept_is_one_line(tmp_path: Path, basic: list[str]) -> None:
    result = run(*basic, "--threshold", "0", "--method", "activation_contrast", *["--contrast", "a", "--contrast", "b"])
    assert_one_line(result, "raise --threshold or --share")


def test_markup_and_control_characters_are_shown(basic: list[str]) -> None:
    subject = "[red]x[/red]"
    prompt = f"{subject} \x1b[31m is in"
    options = ["-s", subject, *basic[4:], "--draws", "1", "--negative", "[bold]\x1b[0m", "--threshold", "0.5"]
    printed = done("neurons", prompt, *options)
    assert printed.startswith("[red]x[/red] �[31m is in → Seattle")
    assert "\x1b" not in printed


def test_a_fact_of_the_embedded_model(tmp_path: Path) -> None:
    options = ["--steps", "2", "--draws", "2", "--token", "subject_last", "--action", "suppress"]
    printed = done("neurons", "-s", SUBJECT, "--relation", "landmark_city", *options)
    embedded = load()
    fact = factworld.find(SUBJECT, "landmark_city")
    settings: dict[str, Any] = {"steps": 2, "token": "subject_last"}
    kept = knowledge_neurons(embedded, factworld.paraphrases(fact), **settings)
    control, *unlike = factworld.neighbours(fact, 5, same_object=False)
    alike = factworld.neighbours(fact, 4, same_object=True)
    assert {one.object for one in alike} == {fact.object}
    assert control.object != fact.object
    other = knowledge_neurons(embedded, factworld.paraphrases(control), **settings)
    neighbours = [*alike, *unlike]
    expected = neuron_effects(embedded, fact, kept, other=other, neighbours=neighbours, tokens="subject_last", draws=2)
    assert len(expected.facts) == 1 + 8 - max(0, 4 - len(alike))
    assert_effects(printed, expected)
    assert printed.count(" control ") == len(factworld.paraphrases(control))


def test_without_a_target_all_wordings_have_the_answer_of_the_first() -> None:
    options = ["--paraphrase", "Miles Davis plays the trumpet and {} is in", "--steps", "1", "--draws", "1"]
    printed = done("neurons", PROMPT, "-s", SUBJECT, *options)
    assert cells(printed, "wording", PROMPT)[2] == "Seattle"
    assert cells(printed, "wording", f"Miles Davis plays the trumpet and {SUBJECT} is in")[2] == "Seattle"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--threshold": "1.5"}, "threshold is 1.5; expected a share of the highest score"),
        ({"--threshold": "nan"}, "threshold is nan"),
        ({"--share": "2"}, "share is 2.0"),
        ({"--share": "nan"}, "share is nan"),
        ({"--steps": "0"}, "--steps"),
        ({"--draws": "0"}, "--draws"),
        ({"--seed": "-1"}, "--seed"),
        ({"--site": "mid"}, "unknown site 'mid'; expected one or more of post, pre"),
        ({"--site": "post,pre"}, "site is 'post,pre'; expected one of post, pre"),
        ({"--token": "first"}, "expected answer, subject_last, or the number of a token"),
        ({"--rule": "simpson"}, "unknown rule"),
        ({"--method": "guess"}, "unknown method"),
        ({"--method": "activation_contrast"}, "give at least two"),
        ({"--method": "activation_contrast", "--contrast": "one"}, "give at least two"),
        ({"--contrast": "one"}, "add that, or leave it out"),
        ({"--action": "erase"}, "unknown action 'erase'; expected one or more of suppress, amplify, set_to"),
        ({"--action": "suppress", "--factor": "2"}, "--factor is for --action amplify"),
        ({"--value": "2"}, "--value is for --action set_to"),
        ({"--factor": "inf"}, "factor is inf; expected a finite number"),
        ({"--paraphrase": "It is in"}, "subject 'The Space Needle' does not occur in prompt 'It is in'"),
        ({"--negative": " "}, "the prompt is empty"),
        ({"--other": "{} is in"}, "write it out in the place of {}"),
        ({"--relation": "landmark_city"}, "--target comes with the fact"),
        ({"--format": "gif"}, "gif"),
        ({"--out": "file/figures"}, "cannot write"),
    ],
    ids=lambda value: " ".join(part for item in value.items() for part in item) if isinstance(value, dict) else "",
)
def test_bad_options_are_one_line_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, basic: list[str], changes: dict[str, str], message: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tracer.model.load", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    options = {"--out": "new", **changes}
    assert_one_line(run(*basic, *(part for option in options.items() for part in option)), message)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", SUBJECT], "there is no prompt; write it first, or choose a fact by --relation"),
        (["-s", "The Space Noodle", "--relation", "landmark_city"], "did you mean 'The Space Needle'"),
        (["-s", SUBJECT, "--relation", "sport"], "FactWorld has no fact 'sport' about 'The Space Needle'; it has"),
        (["", "-s", SUBJECT, "--relation", "landmark_city"], "the prompt is empty"),
        ([PROMPT], "--subject"),
    ],
)
def test_no_such_fact_is_one_line(arguments: list[str], message: str) -> None:
    assert_one_line(run("neurons", *arguments), message)


def test_tokens_out_of_range_are_told_before_the_work(monkeypatch: pytest.MonkeyPatch, basic: list[str]) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("an attribution was begun")

    monkeypatch.setattr("tracer.neurons.integrated_gradients.Attributor.integrated", never)
    result = run(*basic, "--token", "10", "--negative", "a")
    assert_one_line(result, "token 10 is out of range: 'a' has")
