"""General ability: scores are those of a plain loop, the model is left as found, and names are checked."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import logging
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import assert_one_line, cells, done, run
from handmade import handmade

import editing.cli.ability  # noqa: F401 (adds its command to the app)
from editing.ability import AbilityChange, AbilityResult, Score, ability
from editing.edits.weights import applied
from tracer import Model, TracerError, factworld, load

harness = importlib.import_module("editing.ability.harness")
questions = importlib.import_module("editing.ability.questions")
needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval")
FILE = harness.TASKS / "factworld.jsonl"


@pytest.fixture(scope="module")
def world() -> Model:
    return load()


def shipped() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


@torch.inference_mode()
def plain_accuracy(model: Model, asked: list[dict[str, Any]]) -> float:
    """Share of questions whose right choice has the highest log-probability, one text at a time."""
    right = 0
    for question in asked:
        start = len(model.tokenizer(question["prompt"])["input_ids"])
        scores = []
        for choice in question["choices"]:
            ids = model.tokenizer(f"{question['prompt']} {choice}", return_tensors="pt")["input_ids"]
            logs = model.hf(ids).logits[0].log_softmax(-1)  # [tokens, vocabulary]
            scores.append(sum(float(logs[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])))
        right += scores.index(max(scores)) == question["answer"]
    return right / len(asked)


def test_the_shipped_questions_are_the_made_ones() -> None:
    asked = shipped()
    assert asked == questions.questions()
    assert asked != questions.questions(seed=1)
    assert len(asked) == questions.COUNT == len({question["subject"] for question in asked})
    edited = {record["requested_rewrite"]["subject"] for record in factworld.records()}
    assert not edited & {question["subject"] for question in asked}
    true = {(fact.relation, fact.subject, fact.object) for fact in factworld.facts()}
    wordings = {f.prompt for fact in factworld.facts() for f in factworld.paraphrases(fact)}
    for question in asked:
        known = [(question["relation"], question["subject"], choice) in true for choice in question["choices"]]
        assert known == [place == question["answer"] for place in range(questions.CHOICES)]
        assert question["prompt"].replace(question["subject"], "{}") not in wordings
    places = Counter(question["answer"] for question in asked)
    assert min(places.values()) > 0.8 * questions.COUNT / questions.CHOICES
    assert max(Counter(question["relation"] for question in asked).values()) < 25


@needs_harness
def test_scores_are_those_of_a_plain_loop_before_and_after_an_edit(world: Model) -> None:
    before = ability(world, "factworld", limit=24, batch_size=5)
    broken = handmade(world, (2, 3, 4), (8,), size=0.8)
    with applied(world, broken.factors):
        after = ability(world, ["factworld"], limit=24)
        plain = plain_accuracy(world, shipped()[:24])
        assert after.fingerprint == world.fingerprint()
    accuracy = before.score("factworld", "acc")
    assert accuracy == Score("factworld", "acc", plain_accuracy(world, shipped()[:24]), accuracy.stderr, 24)
    got = after.score("factworld", "acc")
    assert got.value == plain < accuracy.value
    assert got.stderr == pytest.approx(np.sqrt(plain * (1 - plain) / 23))  # of a mean, n - 1
    assert (before.model, before.limit, before.fewshot, before.fingerprint) == (
        *("factworld", 24, None),
        world.fingerprint(),
    )
    frame = AbilityChange(before, after).to_frame()
    assert list(frame.difference) == [got.value - accuracy.value]
    assert list(before.to_frame().columns) == ["task", "metric", "value", "stderr", "n"]
    with pytest.raises(TracerError, match="there are factworld acc"):
        before.score("factworld", "f1")
    with pytest.raises(TracerError, match="asked different tasks, or asked differently"):
        AbilityChange(before, replace(after, limit=3))


@needs_harness
def test_the_model_and_all_random_states_are_left_as_found(
    tiny: Callable[[str], Model], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny("llama")
    caplog.set_level("INFO", "lm_eval")

    def state() -> tuple[Any, ...]:
        tokenizer: Any = model.tokenizer
        generation = copy.deepcopy(model.hf.generation_config)
        return (
            model.fingerprint(),
            [id(parameter) for parameter in model.hf.parameters()],
            (tokenizer.pad_token, tokenizer.padding_side, len(tokenizer)),
            (generation.to_dict() if generation is not None else None, model.hf.training, model.hf.config.to_dict()),
            logging.getLogger("lm_eval").level,
            (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),  # type: ignore[union-attr]
        )

    before = state()
    result = ability(model, "factworld", limit=3, fewshot=0)
    assert state() == before
    assert not caplog.records
    assert [(score.task, score.n) for score in result.scores] == [("factworld", 3)]
    with pytest.raises(TracerError), harness._kept(), harness._quiet():
        assert torch.rand(3).sum() + np.random.rand(3).sum() + random.random() > 0
        raise TracerError("inside")
    assert state() == before


@needs_harness
def test_a_name_is_the_harness_s_own_and_an_unknown_one_is_told(world: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    names = harness._names("csqa, ANLI,mmlu,squad2,factworld,csqa,arc_easy")
    assert names == ["commonsense_qa", "anli", "mmlu", "squadv2", "factworld", "arc_easy"]
    some = harness._manager(names[:5])  # raises where the harness has not one of them
    assert len(some.all_tasks) < 200  # not every description there is was read
    given: list[bool] = []

    def manager(include_path: list[str], include_defaults: bool) -> TaskManager:
        given.append(include_defaults)
        return some

    monkeypatch.setattr("lm_eval.tasks.TaskManager", manager)
    asked: list[list[str]] = []

    def load(wanted: list[str]) -> Any:
        asked.append(wanted)
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(some, "load", load)
    with pytest.raises(TracerError, match=r"tasks commonsense_qa cannot be loaded \(ConnectionError: no network\)"):
        ability(world, "csqa")
    told = r"no task 'commonsense_qq'; did you mean commonsense_qa.*factworld, csqa, anli"
    with pytest.raises(TracerError, match=told):
        ability(world, "factworld,commonsense_qq")
    assert (asked, given) == ([["commonsense_qa"]], [False, True])


def test_results_of_groups_and_filters_become_rows() -> None:
    found = {
        "results": {
            "mmlu": {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "mmlu"},
            "mmlu_law": {"acc,none": 1, "acc_stderr,none": "N/A", "alias": " - law"},
            "gsm": {"exact_match,strict": 0.25, "exact_match_stderr,strict": 0.2, "sample_len": 4},
        },
        "groups": {"mmlu": {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "mmlu"}},
        "group_subtasks": {"mmlu": ["mmlu_law", "mmlu_art"]},
        "n-samples": {
            "mmlu_law": {"original": 9, "effective": 3},
            "mmlu_art": {"original": 9, "effective": 2},
            "gsm": {"original": 4, "effective": 4},
        },
    }
    assert harness._scores(found) == (
        Score("mmlu", "acc", 0.5, 0.1, 5),
        Score("mmlu_law", "acc", 1.0, None, 3),
        Score("gsm", "exact_match (strict)", 0.25, 0.2, 4),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": ""}, "no task to be asked; name some of factworld, csqa"),
        ({"tasks": []}, "no task to be asked"),
        ({"limit": 0}, "limit is 0; expected a whole number from 1"),
        ({"fewshot": -1}, "fewshot is -1"),
        ({"batch_size": 0.5}, "batch_size is 0.5"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, Any], message: str, tiny: Callable[[str], Model]) -> None:
    with pytest.raises(TracerError, match=message):
        ability(tiny("gpt2"), **{"tasks": "factworld", **given})


def test_a_masked_model_and_a_missing_harness_are_told(
    tiny: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TracerError, match="masked model"):
        ability(tiny("bert"), "factworld")
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    with pytest.raises(
        TracerError, match=r'lm-evaluation-harness, which is missing.*pip install "tracer-workbench\[ability\]"'
    ):
        ability(tiny("gpt2"), "factworld")


# --- the command ------------------------------------------------------------------------------------------------------
@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stands in for the harness: one score, lower if the model is edited. The list holds the calls."""
    calls: list[tuple[Any, ...]] = []
    prints: list[str] = []

    def measure(model: Model, tasks: str, limit: int | None, **more: Any) -> AbilityResult:
        prints.append(model.fingerprint())
        calls.append((model.name, tasks, limit, more))
        value = 0.75 if prints[-1] == prints[0] else 0.5
        return AbilityResult((Score("factworld", "acc", value, 0.125, 8),), model.name, prints[-1], limit, None, "0")

    monkeypatch.setattr(importlib.import_module("editing.ability"), "ability", measure)
    return calls


def test_the_command_shows_before_and_after_and_writes_both(
    tmp_path: Path, tiny: Callable[[str], Model], tiny_folder: Callable[[str], Path], measured: list[tuple[Any, ...]]
) -> None:
    model, folder = load(tiny_folder("gpt2")), str(tiny_folder("gpt2"))
    first = handmade(model, seed=1)
    first.save(tmp_path / "one.safetensors")
    with applied(model, first.factors):
        handmade(model, (2,), seed=2).save(tmp_path / "two.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    out = tmp_path / "ability.json"
    printed = done(
        *("ability", "--edit", files[0], "--edit", files[1], "-m", folder, "--limit", "8", "--out", str(out)),
        *("--tasks", "factworld,csqa", "--fewshot", "2", "--batch-size", "3"),
    )
    assert cells(printed, "factworld") == [
        *("factworld", "acc", "8", "0.7500 ± 0.1250", "0.5000 ± 0.1250", "-0.2500"),
    ]
    assert measured == [(folder, "factworld,csqa", 8, {"fewshot": 2, "batch_size": 3})] * 2
    told = json.loads(out.read_text(encoding="utf-8"))
    assert told["edits"] == files
    assert (told["before"]["fingerprint"], told["before"]["scores"][0]["value"]) == (model.fingerprint(), 0.75)
    assert told["after"]["scores"][0]["value"] == 0.5
    assert cells(done("ability", "-m", folder), "factworld") == ["factworld", "acc", "8", "0.7500 ± 0.1250"]
    found = json.loads(done("ability", "-m", folder, "--edit", files[0], "--json"))
    assert (found["edits"], found["wrote"]) == (files[:1], [])
    assert [found["result"][when]["scores"][0]["value"] for when in ("before", "after")] == [0.75, 0.5]
    other = run("ability", "--edit", files[1], "-m", folder)
    assert_one_line(other, "this edit was computed on the weights")
    assert "-0.2500" in done("ability", "--edit", files[1], "-m", folder, "--anyway")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "scores.csv"], "name a .json file in a folder that is there"),
        (["--out", "nowhere/scores.json"], "name a .json file in a folder that is there"),
        (["--edit", "nothing.safetensors"], "nothing.safetensors"),
        (["--limit", "0"], "limit"),
    ],
)
def test_bad_options_end_the_command_before_the_work(
    arguments: list[str], message: str, measured: list[tuple[Any, ...]]
) -> None:
    assert_one_line(run("ability", *arguments), message)
    assert not measured


@needs_harness
def test_the_command_asks_the_harness(tiny_folder: Callable[[str], Path]) -> None:
    printed = done("ability", "-m", str(tiny_folder("gpt2")), "--limit", "2")
    assert cells(printed, "factworld")[:3] == ["factworld", "acc", "2"]
