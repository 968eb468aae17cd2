"""Causal traces: identities that hold to the bit, selections, answers, notes and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from editing import locate
from editing.workbench import Session
from tracer.engine.hooks import Replace, Site, capture
from tracer.engine.sweep import record, sweep
from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.model import Model, load
from tracer.tracing.attribution_patching import attribution_trace
from tracer.tracing.average import average_traces
from tracer.tracing.case import default_window
from tracer.tracing.causal import causal_trace, window_layers
from tracer.tracing.corruption import GaussianNoise

Tiny = Callable[[str], Model]
NOISE = GaussianNoise(level=0.5, samples=3)
KINDS: tuple[Any, ...] = ("hidden", "mlp", "attn")
FACT = Fact("In {} is", "Paris")


def test_every_door_restores_the_same_layers_where_no_window_is_named() -> None:
    """A trace, its estimate, an average, a trace of the workbench and what locate measures are one experiment."""
    assert [default_window(n) for n in (1, 2, 8, 12, 18, 24, 30, 48)] == [1, 1, 3, 4, 6, 8, 10, 10]
    model = load()
    fact, few = Fact("{} is in downtown", "The Space Needle"), GaussianNoise(level=0.5, samples=1)
    session = Session(model)
    session.align(fact.prompt, fact.subject)
    shared: dict[str, Any] = {"kind": "mlp", "corruption": few, "layers": [3], "tokens": "subject_last"}
    traces = [
        causal_trace(model, fact, **shared),
        attribution_trace(model, fact, **shared),
        average_traces(model, [fact], **shared),
        *session.trace(["mlp"], corruption=few, layers=[3], tokens="subject_last"),
    ]
    located = locate(model, fact, layers=[3], corruption=few)
    assert [trace.window for trace in traces] == [located.settings["window"]] * 4 == [3] * 4
    whole = causal_trace(model, fact, window=default_window(model.n_layers), **shared)
    for same in (traces[0], traces[3]):
        np.testing.assert_array_equal(same.scores, whole.scores)
    assert located.evidence["effect"][0, 3] == pytest.approx(float(whole.effect[0, 0]), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "falcon", "opt"])
def test_what_follows_without_a_run_is_exact(architecture: str, kind: Any, tiny: Tiny) -> None:
    model = tiny(architecture)
    trace = causal_trace(model, FACT, kind=kind, window=1, corruption=NOISE)
    start = trace.subject_range[0]
    assert start > 0
    assert trace.scores.shape == (len(trace.tokens), model.n_layers)
    assert (trace.scores[:start] == trace.corrupted).all()  # before the subject nothing differs
    assert (trace.scores[:-1, -1] == trace.corrupted).all()  # nor does it matter after the last block's attention
    if kind == "hidden":
        assert trace.scores[-1, -1] == trace.clean
    assert trace.scores[start, 0] != trace.corrupted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "bert"])
def test_without_noise_nothing_is_lost_or_restored(architecture: str, kind: Any, tiny: Tiny) -> None:
    model = tiny(architecture)
    fact = FACT if model.causal else Fact("In {} is [MASK].", "Paris")
    trace = causal_trace(model, fact, kind=kind, corruption=GaussianNoise(sigma=0.0, level=0.0, samples=2))
    assert trace.corrupted == pytest.approx(trace.clean, abs=1e-6)
    np.testing.assert_allclose(trace.effect, 0, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "gptj", "gemma2", "falcon", "bert"])
def test_restoring_everything_is_the_clean_run(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    prompt = "In Paris is" if model.causal else "In Paris is [MASK]."
    found = Fact(prompt, "Paris").align(model)
    ids = torch.tensor([found.input_ids])
    with torch.no_grad():
        noise = NOISE.corrupt(model, ids[0], found.subject_range)
        base = record(model, noise.ids, noise.interventions, read=[found.answer_position]).rows(slice(1, None))
        sites = [Site("hidden", 1, token) for token in range(len(found.input_ids))]
        states = capture(model, ids, sites)
        branch = [Replace(site, states[site][0]) for site in sites]
        restored = sweep(model, base, [branch], lambda logits: logits)[0]
        clean = model.hf(input_ids=ids).logits[:, [found.answer_position]]
    assert not torch.allclose(base.logits, clean.expand_as(base.logits), atol=1e-2)
    torch.testing.assert_close(restored, clean.expand_as(restored), atol=1e-4, rtol=1e-4)


def test_windows_are_the_published_ones() -> None:
    def published(layer: int, window: int, layers: int) -> list[int]:
        return list(range(max(0, layer - window // 2), min(layers, layer - (-window // 2))))

    for layers in (1, 6, 48):
        for window in (1, 2, 3, 10, 11, 100):
            for layer in range(layers):
                assert list(window_layers(layer, window, layers)) == published(layer, window, layers)
    assert list(window_layers(24, 10, 48)) == list(range(19, 29))
    assert list(window_layers(24, 3, 48)) == [23, 24, 25]


@pytest.mark.parametrize("kind", ["mlp", "attn"])
def test_a_window_wider_than_the_model_is_clipped(kind: Any, tiny: Tiny) -> None:
    wide = causal_trace(tiny("gpt2"), FACT, kind=kind, window=1000, corruption=NOISE)
    assert wide.window == 1000
    assert (wide.scores == wide.scores[:, :1]).all()  # every cell restores every layer
    assert not np.allclose(wide.scores, causal_trace(tiny("gpt2"), FACT, kind=kind, window=2, corruption=NOISE).scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_a_selection_is_a_part_of_the_whole(architecture: str, kind: Any, tiny: Tiny) -> None:
    model = tiny(architecture)
    fact = FACT if model.causal else Fact("In {} is [MASK].", "Paris")
    whole = causal_trace(model, fact, kind=kind, window=2, corruption=NOISE)
    last = whole.subject_range[1] - 1
    choices: list[tuple[Any, Any]] = [
        ([2, 0], None),
        (None, [last, 0]),
        (np.array([3]), range(1, last + 1)),
        (None, "subject_last"),
    ]
    for layers, tokens in choices:
        part = causal_trace(model, fact, kind=kind, window=2, corruption=NOISE, layers=layers, tokens=tokens)
        assert part.tokens == whole.tokens
        assert part.layers == tuple(whole.layers if layers is None else layers)
        rows = [last] if tokens == "subject_last" else whole.positions if tokens is None else tokens
        assert part.positions == tuple(rows)
        expected = whole.scores[np.ix_(part.positions, part.layers)]
        np.testing.assert_allclose(part.scores, expected, atol=1e-6, rtol=0)
        token, layer = part.peak()
        assert token in part.positions
        assert layer in part.layers


def test_more_samples_begin_with_the_same(tiny: Tiny) -> None:
    few = [causal_trace(tiny("gpt2"), FACT, corruption=GaussianNoise(level=0.5, samples=n)) for n in (1, 2)]
    with torch.no_grad():
        found = FACT.align(tiny("gpt2"))
        noise = GaussianNoise(level=0.5, samples=2)
        wrong = noise.corrupt(tiny("gpt2"), torch.tensor(found.input_ids), found.subject_range)
        base = record(tiny("gpt2"), wrong.ids, wrong.interventions).rows(slice(1, None))
        p = base.logits[:, -1].softmax(-1)
    answer = int(torch.tensor(tiny("gpt2").tokenizer(few[0].answer)["input_ids"])[0])
    assert few[0].corrupted == pytest.approx(float(p[0, answer]), abs=1e-6)
    assert few[1].corrupted == pytest.approx(float(p[:, answer].mean()), abs=1e-6)


def test_the_result_tells_what_was_done(tiny: Tiny) -> None:
    model = tiny("gpt2")
    trace = causal_trace(model, FACT, kind="mlp", window=4, corruption=NOISE)
    assert (trace.kind, trace.window, trace.metric, trace.model) == ("mlp", 4, "prob", model.name)
    assert (trace.prompt, trace.subject, trace.n_layers) == ("In Paris is", "Paris", 4)
    assert trace.fingerprint == model.fingerprint()
    assert trace.corruption == {"name": "GaussianNoise", "sigma": None, "level": 0.5, "samples": 3, "seed": 1}
    assert "".join(trace.tokens) == "In Paris is"
    start, end = trace.subject_range
    assert "".join(trace.tokens[start:end]).strip() == "Paris"


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_answer_is_what_the_model_says_or_the_target(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    own = causal_trace(model, FACT, corruption=NOISE, layers=[0])
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([FACT.align(model).input_ids])).logits[0, -1]
    assert own.clean == pytest.approx(float(logits.softmax(-1).max()), abs=1e-6)
    assert own.note == ""
    target = causal_trace(model, Fact("In {} is", "Paris", " Seattle"), corruption=NOISE, layers=[0])
    assert target.answer == " Seattle"
    assert target.note.startswith("the target is not what the model says, ")
    assert target.clean < own.clean


def test_a_target_that_the_model_says_has_no_note(golden_model: Model, golden: Path) -> None:
    with np.load(golden / "trace_museum.npz") as file:
        prompt, subject, answer = str(file["prompt"]), str(file["subject"]), str(file["answer"])
    noise = GaussianNoise(level=0.1, samples=2)
    plain = causal_trace(golden_model, Fact(prompt, subject), corruption=noise, layers=[1])
    named = causal_trace(golden_model, Fact(prompt, subject, answer), corruption=noise, layers=[1])
    assert named.answer == plain.answer
    assert named.note == ""
    np.testing.assert_array_equal(named.scores, plain.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_a_subject_at_the_end_is_traced_with_a_note(kind: Any, tiny: Tiny) -> None:
    trace = causal_trace(tiny("gpt2"), Fact("I see {}", "Paris"), kind=kind, corruption=NOISE)
    assert trace.subject_range[1] == len(trace.tokens)
    assert "the subject ends the prompt" in trace.note
    assert np.isfinite(trace.scores).all()


def test_a_subject_that_is_the_whole_prompt_is_traced(tiny: Tiny) -> None:
    trace = causal_trace(tiny("gpt2"), Fact("a", "a"), corruption=NOISE)
    assert trace.scores.shape == (1, 4)
    assert trace.scores[0].tolist() == pytest.approx([trace.clean] * 4, abs=1e-6)  # the only token: all is restored


def test_the_embedded_model_is_traced_by_default_settings(golden_model: Model) -> None:
    pytest.importorskip("tracer.factworld")
    trace = causal_trace(golden_model, Fact("{} is in downtown", "The Dipea Museum"), tokens="subject_last")
    assert trace.corruption["sigma"] == 3.0
    assert trace.corruption["samples"] == 10
    assert trace.corruption["level"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "value"}, "kind 'value' is unknown; expected one of hidden, mlp, attn"),
        ({"kind": "key"}, "kind 'key' is unknown"),
        ({"window": 0}, "window is 0"),
        ({"window": 2.5}, "window is 2.5"),
        ({"metric": "bleu"}, "metric 'bleu' is unknown; expected one of prob, logit_diff, normalised_logit_diff, kl"),
        ({"layers": [4]}, r"layers=\[4\] is out of range; expected numbers from 0 to 3"),
        ({"layers": [-1]}, "out of range"),
        ({"layers": []}, "layers is an empty selection"),
        ({"layers": [1, 1]}, "names one twice"),
        ({"layers": 2}, r"such as layers=\[0\]"),
        ({"tokens": [99]}, "tokens=.* is out of range"),
        ({"tokens": []}, "tokens is an empty selection"),
        ({"tokens": "last"}, "tokens='last'"),
        ({"max_rows": 0}, "max_rows is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str, tiny: Tiny) -> None:
    with pytest.raises(TracerError, match=message):
        causal_trace(tiny("gpt2"), FACT, corruption=NOISE, **settings)


def test_a_prompt_longer_than_the_context_is_refused(tiny: Tiny) -> None:
    for fact in (Fact("{} is" + " in" * 70, "Paris"), Fact("{}" + " is in the" * 15, "Paris", " Seattle" * 10)):
        with pytest.raises(TracerError, match="shorten the prompt"):
            causal_trace(tiny("gpt2"), fact, corruption=NOISE)


def test_weights_that_are_no_numbers_are_refused(tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))
    with torch.no_grad():
        model.down_projection(1).weight[0, 0] = float("nan")
    with pytest.raises(TracerError, match="not numbers: its weights hold NaN"):
        causal_trace(model, FACT, corruption=NOISE)
