"""Folders of traces: shared by processes, killed, of another run, damaged."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from averages import (
    FACTS,
    NOISE,
    SETTINGS,
    Tiny,
    assert_same,
    counting,
)
from repository import surroundings
from synthetic import synthetic_trace

from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.files import npz as storage
from tracer.model import Model
from tracer.tracing.average import average_traces
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise, TokenReplacement
from tracer.tracing.trace import CausalTrace

CHILD = """
import functools, sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
from averages import FACTS, SETTINGS
from tracer.tracing.average import average_traces
from tracer.tracing.causal import causal_trace
from tracer.model import load
@functools.wraps(causal_trace)
def slow(*arguments, **settings):
    time.sleep(0.15)
    return causal_trace(*arguments, **settings)
model = load(sys.argv[2])
for folder in sys.argv[3:]:
    average_traces(model, FACTS, folder=folder, trace=slow, **SETTINGS)
"""


def test_processes_share_a_folder_and_may_be_killed(
    tiny: Tiny, tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Another process works on two folders; the first is finished by both, in the second the other one is killed."""
    model = tiny("gpt2")
    whole = average_traces(model, FACTS, **SETTINGS)
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    arguments = [str(torch.get_num_threads()), str(tiny_folder("gpt2")), str(shared), str(alone)]
    other = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], env=surroundings())

    def finished(folder: Path, count: int) -> int:
        end = time.monotonic() + 120
        while len(found := [path for path in folder.glob("*.npz") if path.name[0] != "."]) < count:  # those written
            assert other.poll() is None, "the other process has ended"
            assert time.monotonic() < end, "the other process takes too long"
            time.sleep(0.01)
        return len(found)

    try:
        finished(shared, 1)
        trace, calls = counting()
        assert_same(average_traces(model, FACTS, folder=shared, trace=trace, **SETTINGS), whole, skip=["model"])
        assert 0 < len(calls) < len(FACTS)
        finished(alone, 2)
        other.send_signal(signal.SIGKILL)
        assert other.wait(60) == -signal.SIGKILL
    finally:
        other.kill()
        other.wait()
    done = finished(alone, 0)
    assert 2 <= done < len(FACTS)
    trace, calls = counting()
    assert_same(average_traces(model, FACTS, folder=alone, trace=trace, **SETTINGS), whole, skip=["model"])
    assert len(calls) == len(FACTS) - done


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "mlp"}, "kind is 'hidden' there and 'mlp' here"),
        ({"window": 4}, "window is 1 there and 4 here"),
        ({"metric": "kl"}, "metric is 'prob' there and 'kl' here"),
        ({"sever": "attn"}, "sever is None there and 'attn' here"),
        ({"layers": [0, 1]}, r"layers is \[0, 1, 2, 3\] there and \[0, 1\] here"),
        ({"tokens": "subject_last"}, "tokens is None there and 'subject_last' here"),
        ({"foil": " Rome"}, "foil is None there and ' Rome' here"),
        ({"corruption": GaussianNoise(level=0.25)}, "corruption is .*0.5.* there and .*0.25.* here"),
        ({"corruption": TokenReplacement("Rome")}, "corruption is .*GaussianNoise.* there and .*Rome.* here"),
        (
            {"trace": functools.partial(causal_trace, window=3)},
            r"trace is 'causal_trace' .* 'causal_trace\(window=3\)'",
        ),
    ],
)
def test_the_folder_of_another_run_is_refused(
    settings: dict[str, Any], message: str, tiny: Tiny, tmp_path: Path
) -> None:
    model = tiny("gpt2")
    average_traces(model, FACTS[:1], folder=tmp_path, **SETTINGS)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TracerError, match=f"holds the traces of another run: {message}.*choose another folder"):
        average_traces(model, FACTS[:2], folder=tmp_path, **SETTINGS | settings)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_folder_of_another_model_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    average_traces(tiny("gpt2"), FACTS[:1], folder=tmp_path, **SETTINGS)
    with pytest.raises(TracerError, match=r"fingerprint is '\w+' there and '\w+' here"):
        average_traces(tiny("gptj"), FACTS[:1], folder=tmp_path, **SETTINGS)


def test_where_the_level_comes_from_is_no_setting(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("gpt2")
    measured = GaussianNoise(samples=2, subjects=["Paris", "Miles Davis"])
    average_traces(model, FACTS[:2], folder=tmp_path, corruption=measured)
    trace, calls = counting()
    fixed = GaussianNoise(samples=2, level=measured.level_for(model))
    average_traces(model, FACTS[:2], folder=tmp_path, corruption=fixed, trace=trace)
    assert calls == []


def test_damaged_and_foreign_files_are_named(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("gpt2")

    def run() -> None:
        average_traces(model, FACTS[:1], folder=tmp_path, **SETTINGS)

    run()
    (path,) = tmp_path.glob("*.npz")
    good = path.read_bytes()
    path.write_bytes(good[:300])
    with pytest.raises(TracerError, match=rf"fact 0 \('Paris is in'\): {path} is not a saved .*; remove the file"):
        run()
    trace = CausalTrace.load(synthetic_trace().save(path))
    for wrong in (trace, dataclasses.replace(causal_trace(model, FACTS[0], corruption=NOISE), prompt="Rome is in")):
        wrong.save(path)
        with pytest.raises(TracerError, match=rf"{path} is not of this run: its \w+ is .*; remove the file"):
            run()
    path.unlink()
    run()  # as the message says
    assert path.read_bytes() == good
    unknown = path.with_suffix(".unknown.npz")
    path.unlink()
    storage.write(unknown, "tracer.UnknownFact/1", {}, {"fact": ["another"]})
    with pytest.raises(TracerError, match=rf"{unknown} is about another fact, \['another'\]; remove"):
        run()
    for text in ("{", "[]", ""):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(TracerError, match=r"run.json is no settings of a run \(.*\); choose another folder"):
            run()


def test_folders_that_cannot_be_written(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("gpt2")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(TracerError, match="file is a file; expected a folder"):
        average_traces(model, FACTS[:1], folder=file, **SETTINGS)
    with pytest.raises(TracerError, match=r"cannot write to the folder .*file/below \(Not a directory\)"):
        average_traces(model, FACTS[:1], folder=file / "below", **SETTINGS)


def test_without_links_a_run_is_claimed_as_well(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    average_traces(tiny("gpt2"), FACTS[:1], folder=tmp_path, **SETTINGS)
    assert json.loads((tmp_path / "run.json").read_text())["window"] == 1
    assert not list(tmp_path.glob(".*"))


def test_a_corruption_whose_settings_cannot_be_told(tiny: Tiny, tmp_path: Path) -> None:
    class Nothing:
        def corrupt(self, model: Model, ids: torch.Tensor, span: tuple[int, int], fact: Fact) -> Any:
            return NOISE.corrupt(model, ids, span, fact)

    average = average_traces(tiny("gpt2"), FACTS[:1], corruption=Nothing())
    assert average.facts == 1
    with pytest.raises(TracerError, match="Nothing is no dataclass"):
        average_traces(tiny("gpt2"), FACTS[:1], corruption=Nothing(), folder=tmp_path)
