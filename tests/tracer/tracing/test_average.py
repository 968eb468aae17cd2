"""Averages over facts: against a plain loop, interrupted and resumed, and the errors."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agreement
import numpy as np
import pytest
import torch
from averages import (
    FACTS,
    FIRST,
    FURTHER,
    LAST,
    LAST_SUBJECT,
    MIDDLE,
    NOISE,
    SETTINGS,
    SUBSEQUENT,
    UNKNOWN,
    Tiny,
    assert_same,
    counting,
)

from tracer.engine.answer import knows, own_answer
from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.facts.readout import answer_text
from tracer.model import Model, load
from tracer.tracing.average import AverageTrace, average_traces
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise, TokenReplacement
from tracer.tracing.trace import CausalTrace


def class_of(token: int, length: int, subject: tuple[int, int]) -> list[int]:
    first, last = subject[0], subject[1] - 1
    if token < first:
        return []
    classes = []
    if token == first:
        classes.append(FIRST)
    if token == last:
        classes.append(LAST_SUBJECT)
    if first < token < last:
        classes.append(MIDDLE)
    if token == last + 1:
        classes.append(SUBSEQUENT)
    if last + 1 < token < length - 1:
        classes.append(FURTHER)
    if token == length - 1:
        classes.append(LAST)
    return classes


@pytest.mark.parametrize("kind", agreement.KINDS)
def test_equals_the_plain_loop(kind: Any, tiny: Tiny) -> None:
    model = tiny("gpt2")
    pools: dict[int, list[np.ndarray]] = defaultdict(list)
    facts = [FACTS[0], FACTS[1], FACTS[4]]
    for fact in facts:
        trace = causal_trace(model, fact, kind=kind, window=3, corruption=agreement.NOISE, tokens=[0])
        table = agreement.plain(model, fact, kind, 3) - trace.corrupted
        for token, row in enumerate(table):
            for index in class_of(token, len(trace.tokens), trace.subject_range):
                pools[index].append(row)
    average = average_traces(model, facts, kind=kind, window=3, corruption=agreement.NOISE, resamples=20)
    assert average.tokens.tolist() == [len(pools[index]) for index in range(6)]
    assert not pools.pop(FURTHER)
    assert np.isnan(average.effect[FURTHER]).all()
    for index, pool in pools.items():
        np.testing.assert_allclose(average.effect[index], np.mean(pool, axis=0), atol=1e-6)
    often = ~np.isnan(average.low)  # the other classes have too few facts for an interval
    assert often.any(1).sum() >= 4
    assert (average.low <= average.effect)[often].all()
    assert (average.effect <= average.high)[often].all()
    assert (average.high - average.low)[often].max() > 1e-4
    assert (average.kind, average.window, average.layers) == (kind, 3, tuple(range(model.n_layers)))


def test_facts_of_a_model_that_knows_them(golden: Path, golden_model: Model) -> None:
    table = json.loads((golden / "facts.json").read_text())[:4]
    facts = [Fact(row["prompt"], row["subject"], row["object"]) for row in table]
    wrong = [Fact(facts[0].prompt, facts[0].subject, facts[3].target), facts[1]]
    known = [fact for fact in facts if knows(golden_model, fact)]
    assert len(known) >= 3
    average = average_traces(golden_model, [wrong[0], *known, wrong[1]], **SETTINGS)
    traces = [causal_trace(golden_model, fact, corruption=NOISE) for fact in known]
    assert_same(average, AverageTrace.of(traces, [wrong[0].text], resamples=50))
    assert average.unknown == (facts[0].text,)  # of the same prompt, the right target is traced and the wrong one not
    assert average.facts == len(known)
    assert average.total_effect > 0.2


def test_masked_models_and_settings_passed_on(tiny: Tiny) -> None:
    model = tiny("bert")
    facts = [Fact("{} is [MASK].", name) for name in ("Paris", "Seattle")]
    settings: dict[str, Any] = {"kind": "attn", "window": 2, "metric": "logit_diff", "foil": "France", "layers": [3, 1]}
    settings["max_rows"] = 3
    average = average_traces(model, facts, **SETTINGS, **settings)
    traces = [causal_trace(model, fact, corruption=NOISE, **settings) for fact in facts]
    assert_same(average, AverageTrace.of(traces, resamples=50))
    assert average.layers == (3, 1)
    assert average.tokens[LAST] == 2


@pytest.mark.parametrize("sever", [None, "mlp", "attn"])
def test_severed_paths_and_one_row(sever: Any, tiny: Tiny) -> None:
    model = tiny("gpt2")
    settings: dict[str, Any] = {"sever": sever, "tokens": "subject_last", "published_noise": sever is not None}
    average = average_traces(model, FACTS[:3], **SETTINGS, **settings)
    traces = [causal_trace(model, fact, corruption=NOISE, **settings) for fact in FACTS[:3]]
    assert_same(average, AverageTrace.of(traces, resamples=50))
    assert average.sever == sever
    assert average.tokens[[FURTHER, LAST_SUBJECT]].tolist() == [0, 3]


def test_a_foil_for_each_fact(tiny: Tiny, tmp_path: Path) -> None:
    model, foils = tiny("gpt2"), [" Rome", None, " violin"]
    average = average_traces(model, FACTS[:3], metric="logit_diff", foil=foils, folder=tmp_path, **SETTINGS)
    pairs = zip(FACTS[:3], foils, strict=True)
    traces = [causal_trace(model, f, metric="logit_diff", foil=foil, corruption=NOISE) for f, foil in pairs]
    assert_same(average, AverageTrace.of(traces, resamples=50))
    trace, calls = counting()
    foils[0] = " Oslo"  # another question about the same fact
    average_traces(model, FACTS[:3], metric="logit_diff", foil=foils, folder=tmp_path, trace=trace, **SETTINGS)
    assert calls == FACTS[:1]


def test_facts_given_twice_are_used_once(tiny: Tiny) -> None:
    model = tiny("gpt2")
    trace, calls = counting()
    again = [FACTS[0], Fact("Paris is in", "Paris"), FACTS[1], FACTS[0]]
    assert_same(average_traces(model, again, trace=trace, **SETTINGS), average_traces(model, FACTS[:2], **SETTINGS))
    assert calls == FACTS[:2]


def test_the_noise_is_measured_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def level_for(self: GaussianNoise, model: Model) -> float:
        if self.level is None:
            calls.append(self)
        return 0.5 if self.level is None else self.level

    monkeypatch.setattr(GaussianNoise, "level_for", level_for)
    average = average_traces(tiny("gpt2"), FACTS[:3], corruption=GaussianNoise(samples=2), resamples=5)
    assert len(calls) == 1
    assert average.corruption["level"] == 0.5


# resuming


@pytest.fixture
def facts(tiny: Tiny) -> list[Fact]:
    """Known with a target, known without, unknown."""
    model = tiny("gpt2")
    asked = [Fact("{} is", name) for name in ("Sweden", "Spanish", "Seattle")]
    said = [answer_text(model, own_answer(model, fact)) for fact in asked]
    answered = [dataclasses.replace(fact, target=text) for fact, text in zip(asked, said, strict=True) if text.strip()]
    known = [fact for fact in answered if knows(model, fact)]
    assert known
    return [*known, *FACTS[:4], dataclasses.replace(FACTS[5], target=" Sweden"), *FACTS[6:], UNKNOWN]


def test_an_interrupted_run_goes_on(facts: list[Fact], tiny: Tiny, tmp_path: Path) -> None:
    model, folder = tiny("gpt2"), tmp_path / "new" / "run"
    whole = average_traces(model, facts, **SETTINGS)
    assert whole.unknown == ("Yo-Yo Ma plays the", "Uppsala is")
    trace, calls = counting(limit=4)
    with pytest.raises(KeyboardInterrupt):
        average_traces(model, facts, folder=folder, trace=trace, **SETTINGS)
    assert len(calls) == 4
    rest, more = counting()
    resumed = average_traces(model, facts, folder=folder, trace=rest, **SETTINGS)
    assert_same(resumed, whole)
    assert [*calls, *more] == [fact for fact in facts if fact.text not in whole.unknown]
    # and once more, with other settings of the intervals; nothing is traced, the unknown are known to be unknown
    never, none = counting()
    again = average_traces(
        model, facts, folder=folder, trace=never, corruption=NOISE, resamples=9, seed=3, confidence=0.8, max_rows=5
    )
    assert none == []
    assert_same(again, AverageTrace.of(_loaded(folder, facts), whole.unknown, resamples=9, seed=3, confidence=0.8))
    assert not list(folder.glob(".*"))


def _loaded(folder: Path, facts: list[Fact]) -> list[CausalTrace]:
    traces = [CausalTrace.load(path) for path in folder.glob("*.npz") if "unknown" not in path.name]
    by_prompt = {trace.prompt: trace for trace in traces}
    return [by_prompt[fact.text] for fact in facts if fact.text in by_prompt]


def test_what_is_unknown_is_not_asked_again(
    facts: list[Fact], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gpt2")
    whole = average_traces(model, facts, folder=tmp_path, **SETTINGS)
    monkeypatch.setattr("tracer.tracing.member.knows", lambda *_: pytest.fail("asked again"))
    assert_same(average_traces(model, facts, folder=tmp_path, **SETTINGS), whole)


def test_more_facts_later(facts: list[Fact], tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("gpt2")
    average_traces(model, facts[2:4], folder=tmp_path, **SETTINGS)
    trace, calls = counting()
    whole = average_traces(model, facts, folder=tmp_path, trace=trace, **SETTINGS)
    assert_same(whole, average_traces(model, facts, **SETTINGS))
    assert not set(facts[2:4]) & set(calls)


# errors


@pytest.mark.parametrize(
    ("facts", "settings", "message"),
    [
        ([], {}, "there are no facts to average over"),
        (FACTS[0], {}, "expected several facts"),
        ("Paris is in", {}, "expected several facts"),
        (None, {}, "expected several facts"),
        ([FACTS[0], "Paris is in"], {}, r"entry 1 of facts is 'Paris is in'; expected a Fact"),
        ([FACTS[0], Fact("{} is" + " in" * 5000, "Paris")], {}, "fact 1: prompt .* take .* tokens"),
        (FACTS, {"kind": "key"}, "kind 'key' is unknown"),
        (FACTS, {"window": 0}, "window is 0"),
        (FACTS, {"metric": "loss"}, "metric 'loss' is unknown"),
        (FACTS, {"metric": ["prob", "kl"]}, "averages of several metrics are several calls"),
        (FACTS, {"sever": "both"}, "sever is 'both'"),
        (FACTS, {"layers": [9]}, r"layers=\[9\] is out of range"),
        (FACTS, {"tokens": [0]}, r"tokens is \[0\]; expected 'subject_last' or None"),
        (FACTS, {"max_rows": 0}, "max_rows"),
        (FACTS, {"foil": [" Rome"]}, "there are 1 foils for 8 facts"),
        (FACTS, {"foil": 3 * [" Rome", None] + [3, None]}, "the foil of fact 6 is 3"),
        (FACTS, {"confidence": 1.0}, "confidence is 1.0"),
        (FACTS, {"resamples": 0}, "resamples is 0"),
        (FACTS, {"corruption": TokenReplacement("Miles Davis")}, r"fact 0 \('Paris is in'\): .* tokens"),
        (FACTS, {"trace": lambda *_, **__: 1}, r"fact 0 .* returned a int; expected a CausalTrace"),
    ],
)
def test_errors(facts: Any, settings: dict[str, Any], message: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TracerError, match=message):
        average_traces(tiny("gpt2"), facts, folder=folder, **settings)
    assert [path.name for path in folder.glob("*")] in ([], ["run.json"])


def test_no_fact_known(tiny: Tiny) -> None:
    facts = [dataclasses.replace(fact, target=" violin") for fact in FACTS[:4]]
    with pytest.raises(TracerError, match=r"knows none of the 4 facts \('Paris is in', .*, \.\.\.\); give facts"):
        average_traces(tiny("gpt2"), facts, **SETTINGS)


def test_weights_that_change_meanwhile_are_noticed(tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))

    def meddling(*arguments: Any, **settings: Any) -> Any:
        with torch.no_grad():
            model.down_projection(0).weight[0, 0] += 1
        return causal_trace(*arguments, **settings)

    with pytest.raises(TracerError, match="changed while facts were traced"):
        average_traces(model, [Fact("In {} is", "Paris")], corruption=NOISE, trace=meddling)
