"""Traces of every metric, from one sweep: against each other and against definitions written out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import NOISE, fact

import tracer
from editing.layers.from_result import layers_from
from tracer.engine.hooks import Replace, Site, capture, intervene
from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.model import Model
from tracer.plots import plot_trace
from tracer.plots.labels import measure
from tracer.tracing.attribution_patching import attribution_trace
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise
from tracer.tracing.metrics import NAMES, TRACE_METRICS, TraceMetric, log_prob, trace_metric
from tracer.tracing.trace import CausalTrace

Tiny = Callable[[str], Model]


@pytest.mark.parametrize("kind", ["hidden", "mlp", "attn"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_several_metrics_are_each_as_if_alone(architecture: str, kind: Any, tiny: Tiny) -> None:
    model = tiny(architecture)
    together = causal_trace(model, fact(model), kind=kind, window=2, corruption=NOISE, metric=NAMES)
    assert [trace.metric for trace in together] == list(NAMES)
    for trace in together:
        alone = causal_trace(model, fact(model), kind=kind, window=2, corruption=NOISE, metric=trace.metric)
        np.testing.assert_allclose(trace.scores, alone.scores, atol=1e-6)
        assert (trace.clean, trace.corrupted, trace.foil) == (alone.clean, alone.corrupted, alone.foil)


@pytest.mark.parametrize("target", [None, " Seattle", " Space Needle"])
def test_each_cell_is_its_definition(target: str | None, tiny: Tiny) -> None:
    model, foil = tiny("llama"), " Paris"
    about = Fact("In {} is", "France", target)
    token, layer = 2, 1
    traces = causal_trace(model, about, corruption=NOISE, metric=NAMES, foil=foil, tokens=[token], layers=[layer])
    found = about.align(model)
    ids = torch.tensor([[*found.input_ids, *found.target_ids[:-1]]])
    read = list(range(len(found.input_ids) - 1, ids.shape[1]))
    with torch.no_grad():
        clean = model.hf(ids).logits[:, read].double()
        answer = found.target_ids or (int(clean[0, 0].argmax()),)
        state = capture(model, ids, [Site("hidden", layer, token)])[Site("hidden", layer, token)]
        rows = NOISE.corrupt(model, ids[0], found.subject_range)
        with intervene(model, rows.interventions):
            corrupted = model.hf(rows.ids).logits[1:, read].double()
        with intervene(model, [*rows.interventions, Replace(Site("hidden", layer, token), state)]):
            restored = model.hf(rows.ids).logits[1:, read].double()
    foils = Fact("In {} is", "France", foil).align(model).target_ids
    at = next(i for i, (a, b) in enumerate(zip(answer, foils, strict=False)) if a != b)

    def prob(logits: torch.Tensor) -> float:
        p = logits.softmax(-1)
        return float(torch.stack([p[:, i, a] for i, a in enumerate(answer)]).prod(0).mean())

    def difference(logits: torch.Tensor) -> float:
        return float((logits[:, at, answer[at]] - logits[:, at, foils[at]]).mean())

    def log_p(logits: torch.Tensor, ids: Any) -> float:
        return float(torch.stack([logits[:, i].log_softmax(-1)[:, a] for i, a in enumerate(ids)]).sum(0).mean())

    def divergence(logits: torch.Tensor) -> float:
        p, q = clean.softmax(-1), logits.softmax(-1)
        return float((p * (p.log() - q.log())).sum((1, 2)).mean())

    whole = difference(clean) - difference(corrupted)
    expected = {
        "prob": [prob(x) for x in (clean, corrupted, restored)],
        "logit_diff": [difference(x) for x in (clean, corrupted, restored)],
        "normalised_logit_diff": [1, 0, (difference(restored) - difference(corrupted)) / whole],
        "kl": [0, divergence(corrupted), divergence(restored)],
        "log_prob": [log_p(x, answer) for x in (clean, corrupted, restored)],
        # the foil has one token: it is due where the answer's first is
        "log_prob_diff": [log_p(x, answer) - log_p(x, foils) for x in (clean, corrupted, restored)],
    }
    for trace in traces:
        numbers = [trace.clean, trace.corrupted, float(trace.scores[0, 0])]
        assert numbers == pytest.approx(expected[trace.metric], abs=2e-5), trace.metric
        assert (trace.foil == foil) is TRACE_METRICS[trace.metric].needs_foil


def test_without_a_foil_it_is_what_the_corrupted_run_says(golden_model: Model) -> None:
    noise = GaussianNoise(level=0.2)
    about = Fact("{} is in downtown", "The Dipea Museum")
    trace = causal_trace(golden_model, about, corruption=noise, metric="logit_diff", layers=[0], tokens=[0])
    found = about.align(golden_model)
    with torch.no_grad():
        rows = noise.corrupt(golden_model, torch.tensor(found.input_ids), found.subject_range)
        with intervene(golden_model, rows.interventions):
            p = golden_model.hf(rows.ids).logits[1:, -1].softmax(-1).mean(0)
    says = [golden_model.tokenizer.decode([i]) for i in p.topk(2).indices.tolist()]
    assert trace.foil == next(word for word in says if word != trace.answer)
    assert trace.foil != trace.answer


def test_the_divergence_is_least_where_restoring_helps_most(golden_model: Model) -> None:
    about = Fact("{} is in downtown", "The Dipea Museum")
    p, kl = causal_trace(golden_model, about, corruption=GaussianNoise(level=0.2), metric=("prob", "kl"))
    assert kl.clean == pytest.approx(0, abs=1e-6)
    assert kl.corrupted > 0.5
    assert kl.peak() == p.peak() == (len(p.tokens) - 1, 5)
    assert kl.effect.min() == pytest.approx(-kl.corrupted, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": ["prob", "prob"]}, "each once"),
        ({"metric": []}, "expected one or more of prob, logit_diff"),
        ({"metric": ["prob", "f1"]}, "metric 'f1' is unknown"),
        ({"metric": "logit_diff", "foil": " "}, "the foil is empty"),
        ({"metric": "logit_diff", "foil": " Seattle"}, "choose a foil that differs"),
    ],
)
def test_metrics_that_make_no_sense_are_refused(settings: dict[str, Any], message: str, tiny: Tiny) -> None:
    with pytest.raises(TracerError, match=message):
        causal_trace(tiny("gpt2"), Fact("In {} is", "Paris", " Seattle"), corruption=NOISE, **settings)


def test_a_difference_that_does_not_change_cannot_be_normalised(tiny: Tiny) -> None:
    still = GaussianNoise(level=0.0, samples=1)
    with pytest.raises(TracerError, match="cannot be normalised; choose another foil, a stronger corruption"):
        causal_trace(tiny("gpt2"), fact(tiny("gpt2")), corruption=still, metric="normalised_logit_diff")


def test_a_foil_with_more_masks_is_refused(tiny: Tiny) -> None:
    about = Fact("In {} is [MASK].", "Paris", "Seattle")
    with pytest.raises(TracerError, match="choose a foil of equal length"):
        causal_trace(tiny("bert"), about, corruption=NOISE, metric="logit_diff", foil="Space Needle Seattle")


# --- a difference of two whole answers -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["hidden", "mlp"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_two_answers_of_several_tokens_are_each_run_in_their_own_text(architecture: str, kind: Any, tiny: Tiny) -> None:
    """Every cell against a plain loop: restore by hand, score both texts whole, subtract."""
    model, about, foil = tiny(architecture), Fact("In {} is", "Paris", " the Space Needle"), " Seattle and Paris"
    found = causal_trace(model, about, kind=kind, window=1, corruption=NOISE, metric="log_prob_diff", foil=foil)
    expected = {name: np.zeros(found.scores.shape) for name in ("clean", "corrupted", "restored")}
    for sign, text in ((1, about.target), (-1, foil)):
        aligned = Fact(about.prompt, about.subject, text).align(model)
        answer = aligned.target_ids
        assert len(answer) > 2
        ids = torch.tensor([[*aligned.input_ids, *answer[:-1]]])
        first = len(aligned.input_ids) - 1
        rows = NOISE.corrupt(model, ids[0], aligned.subject_range)

        def score(items: Any, rows: Any = rows, first: int = first, answer: Any = answer) -> np.ndarray:
            with torch.no_grad(), intervene(model, items):
                log_p = model.hf(rows.ids).logits[:, first:].double().log_softmax(-1)
            return log_p[:, range(len(answer)), list(answer)].sum(-1).numpy()

        plain = score(rows.interventions)
        expected["clean"] += sign * plain[0]
        expected["corrupted"] += sign * plain[1:].mean()
        for row, column in np.ndindex(found.scores.shape):
            site = Site(kind, found.layers[column], found.positions[row])
            state = capture(model, ids, [site])[site]
            restored = score([*rows.interventions, Replace(site, state)])
            expected["restored"][row, column] += sign * restored[1:].mean()
    np.testing.assert_allclose(found.scores, expected["restored"], atol=5e-5)
    assert found.clean == pytest.approx(expected["clean"][0, 0], abs=5e-5)
    assert found.corrupted == pytest.approx(expected["corrupted"][0, 0], abs=5e-5)
    assert abs(found.effect).max() > 1e-3 and found.foil == foil


def test_estimates_subtract_the_foil_too(tiny: Tiny) -> None:
    model, foil = tiny("llama"), " Seattle and Paris"
    shared: dict[str, Any] = {"corruption": NOISE, "kind": "mlp", "window": 1}
    both = attribution_trace(model, Fact("In {} is", "Paris", " the Space Needle"), **shared, metric=NAMES, foil=foil)
    assert not isinstance(both, CausalTrace)
    (own,) = (trace for trace in both if trace.metric == "log_prob_diff")
    parts = [
        attribution_trace(model, Fact("In {} is", "Paris", text), **shared, metric="log_prob")
        for text in (" the Space Needle", foil)
    ]
    np.testing.assert_allclose(own.scores, parts[0].scores - parts[1].scores, atol=1e-5)  # type: ignore[union-attr]
    assert own.corrupted == pytest.approx(parts[0].corrupted - parts[1].corrupted, abs=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_of_answers_that_part_at_their_last_token_one_run_tells(architecture: str, tiny: Tiny) -> None:
    """The whole difference is that of the two logits then; a masked model's masks hide the rest of either."""
    model = tiny(architecture)
    mask = " [MASK]." if architecture == "bert" else ""
    about = Fact(f"In {{}} is{mask}", "Paris", "seattle" if mask else None)
    traces = causal_trace(
        model, about, corruption=NOISE, metric=["logit_diff", "log_prob_diff"], foil="france" if mask else " Paris"
    )
    np.testing.assert_allclose(traces[0].scores, traces[1].scores, atol=1e-5)
    assert measure(traces[1]).startswith("log-probability difference to ")
    assert plot_trace(traces[1]).data


# --- the table -------------------------------------------------------------------------------------------------------
def test_a_metric_is_one_entry_of_the_table(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A loss, lower in the clean run, that no other file knows of: traced, drawn, and made a suggestion of layers."""
    loss = TraceMetric("loss", "loss of <the> answer", lambda p, of: -log_prob(p, of.answer), better="lower")
    monkeypatch.setitem(TRACE_METRICS, "loss", loss)
    model = tiny("gpt2")
    found, usual = causal_trace(model, fact(model), kind="mlp", window=1, corruption=NOISE, metric=["loss", "prob"])
    np.testing.assert_allclose(np.exp(-found.clean), usual.clean, rtol=1e-5)
    np.testing.assert_array_equal(found.towards_clean, -found.effect)
    row, layer = found.peak()
    assert found.scores[found.positions.index(row), layer] == found.scores.min()
    last = found.subject_range[1] - 1
    best = int(np.argmax(-found.effect[found.positions.index(last)]))
    assert layers_from(found, single=True, model=model) == (best,)
    assert "loss of &lt;the&gt; answer" in measure(found)
    assert plot_trace(found).data
    assert CausalTrace.load(found.save(tmp_path / "t.npz")).peak() == found.peak()
    monkeypatch.undo()
    assert trace_metric("loss").label == "loss"  # of a file by someone who had it


def test_what_is_known_of_a_metric_is_in_the_table() -> None:
    """No other module asks for a metric by its name."""
    root = Path(tracer.__file__).parents[1]
    asked = re.compile(
        r"""(metric|name)\w*\)?\s*(==|!=|in|not in)\s*["'(]+(kl|logit_diff|normalised)|endswith\("logit"""
    )
    files = [path for package in ("tracer", "editing") for path in (root / package).rglob("*.py")]
    assert [str(path) for path in files if asked.search(path.read_text(encoding="utf-8"))] == []
    assert asked.search('if trace.metric == "kl"') and asked.search('name.endswith("logit_diff")')
