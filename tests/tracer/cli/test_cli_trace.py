"""``tracer trace`` with other metrics, corruptions and methods: it prints and writes what the functions return."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import assert_one_line, cells, done, run

from tracer import CausalTrace, Fact, GaussianNoise, Model, TokenReplacement, UniformNoise, attribution_trace
from tracer.tracing.causal import causal_trace

PROMPT, SUBJECT = "The Space Needle is in downtown", "The Space Needle"
FACT = Fact(PROMPT, SUBJECT)
NOISE = GaussianNoise(samples=2)


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], Model]) -> Model:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def basic(tiny_folder: Callable[[str], Path]) -> list[str]:
    return ["trace", PROMPT, "-s", SUBJECT, "-m", str(tiny_folder("gpt2")), "--window", "2"]


def exact(model: Model, corruption: Any = NOISE, **settings: Any) -> Any:
    return causal_trace(model, FACT, window=2, corruption=corruption, **settings)


def row(trace: CausalTrace) -> list[str]:
    """Layer, score and effect of the peak as they are printed."""
    token, layer = trace.peak()
    score = trace.scores[trace.positions.index(token), layer]
    return [str(layer), f"{score:.4f}", f"{score - trace.corrupted:+.4f}"]


def test_several_metrics_are_shown_and_written_one_by_one(tmp_path: Path, basic: list[str], model: Model) -> None:
    metrics = ["prob", "logit_diff", "normalised_logit_diff", "kl", "log_prob", "log_prob_diff"]
    options = ["--samples", "2", "--kind", "hidden,mlp", "--metric", ",".join(metrics), "--foil", " Paris"]
    printed = done(*basic, *options, "--out", str(tmp_path), "--format", "npz,html,csv,json")
    blocks = printed.split(": clean ")
    assert len(blocks) == 7
    assert all(block.index("hidden ") < block.index("mlp, 2 layers") for block in blocks[1:])
    for kind in ("hidden", "mlp"):
        for block, expected in zip(blocks[1:], exact(model, kind=kind, metric=metrics, foil=" Paris"), strict=True):
            assert block.startswith(f"{expected.clean:.4f}   corrupted {expected.corrupted:.4f}")
            assert cells(block, kind if kind == "hidden" else "mlp, 2 layers", "peak")[-3:] == row(expected)
            saved = CausalTrace.load(tmp_path / f"space_needle_{kind}_{expected.metric}.npz")
            assert saved.scores.tolist() == expected.scores.tolist()
            assert saved.foil == expected.foil
    assert "\nlogit difference to Paris: clean" in printed and "log-probability difference to Paris: clean" in printed
    assert {trace["metric"] for trace in json.loads((tmp_path / "space_needle.json").read_text())} == {*metrics}
    assert (tmp_path / "space_needle.csv").read_text().splitlines()[0].endswith("model")
    assert (tmp_path / "space_needle.html").read_text(encoding="utf-8").count('"type":"heatmap"') >= 8


@pytest.mark.parametrize(("kind", "metric"), [("hidden", "prob"), ("mlp", "kl")])
def test_severed_paths_have_a_table_and_a_figure(
    tmp_path: Path, basic: list[str], model: Model, kind: str, metric: str
) -> None:
    options = ["--samples", "2", "--kind", kind, "--sever", "attn,mlp", "--metric", metric]
    printed = done(*basic, *options, "--out", str(tmp_path), "--format", "html,npz,csv")
    sign = -1 if metric == "kl" else 1
    whole = exact(model, tokens="subject_last", metric=metric).effect[0]
    at = int((sign * whole).argmax())
    assert cells(printed, "last subject token")[-1] == f"effect at layer {at}"
    for sever, name in ((None, "nothing severed"), ("mlp", "MLP severed"), ("attn", "attention severed")):
        expected = exact(model, tokens="subject_last", sever=sever, metric=metric)
        best = int((sign * expected.effect[0]).argmax())
        numbers = [str(best), f"{expected.effect[0][best]:+.4f}", f"{expected.effect[0][at]:+.4f}"]
        assert cells(printed, name)[1:] == numbers
        saved = CausalTrace.load(tmp_path / f"space_needle_severed_{sever or 'none'}.npz")
        last = saved.positions.index(saved.subject_range[1] - 1)
        assert saved.scores[last].tolist() == pytest.approx(expected.scores[0].tolist(), abs=1e-6)
    assert (tmp_path / "space_needle_severed.html").read_text(encoding="utf-8").count('"type":"bar"') >= 3
    assert ",sever," in (tmp_path / "space_needle_severed.csv").read_text().splitlines()[0]
    assert (tmp_path / "space_needle.html").exists()


@pytest.mark.parametrize("steps", [0, 3])
def test_estimates_come_from_gradients(tmp_path: Path, basic: list[str], model: Model, steps: int) -> None:
    options = ["--samples", "2", "--kind", "hidden", "--estimate", str(steps), "--metric", "logit_diff"]
    printed = done(*basic, *options, "--out", str(tmp_path), "--format", "npz")
    settings: dict[str, Any] = {"window": 2, "corruption": NOISE, "metric": "logit_diff"}
    expected = attribution_trace(model, FACT, steps=steps or None, **settings)
    assert isinstance(expected, CausalTrace)
    saved = CausalTrace.load(tmp_path / "space_needle_hidden.npz")
    assert (saved.scores.tolist(), saved.method) == (expected.scores.tolist(), expected.method)
    assert cells(printed, "hidden", "peak")[-3:] == row(expected)
    assert ("; gradient estimate, integrated)" if steps else "; gradient estimate)") in printed


@pytest.mark.parametrize(
    ("options", "corruption", "said"),
    [
        (["--level", "0.25"], GaussianNoise(level=0.25), "noise 0.25, 10 samples, seed 1"),
        (["--uniform", "--level", "0.25"], UniformNoise(level=0.25), "uniform noise up to 0.25, 10 samples, seed 1"),
        (["--uniform", "--sigma", "2", "--seed", "5"], UniformNoise(sigma=2, seed=5), "10 samples, seed 5"),
    ],
)
def test_noise_is_as_asked(
    tmp_path: Path, basic: list[str], model: Model, options: list[str], corruption: Any, said: str
) -> None:
    printed = done(*basic, *options, "--kind", "mlp", "--out", str(tmp_path), "--format", "npz")
    expected = exact(model, corruption, kind="mlp")
    saved = CausalTrace.load(tmp_path / "space_needle_mlp.npz")
    assert saved.scores.tolist() == expected.scores.tolist()
    assert saved.corruption == expected.corruption
    assert said in printed


def test_another_subject_takes_the_place_of_noise(tmp_path: Path, basic: list[str], model: Model) -> None:
    names = TokenReplacement.suggest(model, FACT, 2)
    assert len(names) == 2
    by_name = [part for name in names for part in ("--replace", name)]
    expected = exact(model, TokenReplacement(names))
    for options in (by_name, ["--replace", "auto", "--samples", "2"]):
        printed = done(*basic, *options, "--kind", "hidden", "--out", str(tmp_path), "--format", "npz")
        assert f"(subject replaced by {', '.join(names)})" in printed
        saved = CausalTrace.load(tmp_path / "space_needle_hidden.npz")
        assert saved.scores.tolist() == expected.scores.tolist()
    assert f"(subject replaced by {names[0]})" in done(*basic, "--replace", "auto", "--kind", "hidden")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "accuracy"], "unknown metric 'accuracy'; expected one or more of prob"),
        (["--foil", " Paris"], "add --metric logit_diff"),
        (["--foil", " ", "--metric", "logit_diff"], "the foil is empty"),
        (["--sever", "hidden"], "unknown sever 'hidden'; expected one or more of mlp, attn"),
        (["--sever", "mlp", "--estimate", "0"], "leave one out"),
        (["--estimate", "-1"], "--estimate"),
        (["--level", "-1"], "level of the noise"),
        (["--level", "nan"], "level of the noise"),
        (["--level", "1", "--sigma", "3"], "leave one of them out"),
        (["--replace", "auto", "--uniform"], "--uniform is about noise"),
        (["--replace", "auto", "--seed", "2"], "--seed is about noise"),
        (["--replace", "auto", "--replace", "Big Ben"], "stands alone"),
        (["--replace", "Big Ben", "--samples", "3"], "each subject named is one sample"),
        (["--replace", "auto", "--samples", "0"], "samples of the replacement"),
        (["--replace", " "], "subject of the replacement"),
    ],
    ids=" ".join,
)
def test_bad_options_are_one_line_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, basic: list[str], options: list[str], message: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tracer.model.load", never)
    out = tmp_path / "new"
    assert_one_line(run(*basic, *options, "--out", str(out)), message)
    assert not out.exists()


def test_a_replacement_that_does_not_fit_is_one_line(basic: list[str]) -> None:
    assert_one_line(run(*basic, "--replace", "X"), "expected equally many")
