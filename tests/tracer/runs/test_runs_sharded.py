"""Averages and covariances by several workers: the same as by one, errors too, and gone on with when interrupted."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from averages import FACTS, SETTINGS, UNKNOWN, assert_same, counting
from checkpoints import SENTENCES
from covariances import LONG, apart, same

from editing.covariance import keys as moments_keys
from editing.covariance import parallel as moments_run
from editing.covariance import triangles as packed
from editing.covariance.estimate import estimate_covariance
from editing.covariance.text import windows
from tracer import TracerError, load, runs
from tracer.model import Model
from tracer.runs import Store
from tracer.runs.recipe import Recipe
from tracer.tracing.average import average_traces

Tiny = Callable[[str], Model]
TEXT: dict[str, Any] = {"text": [*LONG, " ".join(SENTENCES[4:] * 3)], "window": 32, "batch_tokens": 64}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the workers have, so that sums are made in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- traces ----------------------------------------------------------------------------------------------------------
def test_traces_by_two_workers(tiny: Tiny, tmp_path: Path) -> None:
    """Into a folder that has some already, and from there again without workers."""
    model, facts = tiny("gpt2"), [*FACTS, UNKNOWN]
    whole = average_traces(model, facts, **SETTINGS)
    average_traces(model, facts[1:3], folder=tmp_path / "some", **SETTINGS)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "some").iterdir()}
    assert_same(average_traces(model, facts, folder=tmp_path / "some", workers=2, **SETTINGS), whole)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert len(list((tmp_path / "some").iterdir())) == 1 + len(facts)  # and nothing else is left
    never, calls = counting()
    assert_same(average_traces(model, facts, folder=tmp_path / "some", trace=never, **SETTINGS), whole)
    assert calls == []


def test_the_folder_is_the_same_as_without_workers(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of a worker, in this process."""
    monkeypatch.setattr("tracer.tracing.parallel.run", _here)
    model, facts = tiny("gpt2"), [FACTS[0], UNKNOWN, FACTS[4]]
    for workers in (1, 2):
        average_traces(model, facts, folder=tmp_path / str(workers), workers=workers, **SETTINGS)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "12")
    assert one == two and len(one) == 4
    assert average_traces(model, facts, workers=2, **SETTINGS).facts == 2  # without a folder
    with pytest.raises(TracerError, match=r"^fact 1 \('The capital of France is'\): restoring failed$"):
        average_traces(model, FACTS[:3], folder=tmp_path / "c", workers=2, trace=_fails, **SETTINGS)
    assert len(list((tmp_path / "c").iterdir())) == 3  # the others are done


def _here(path: Path, work: str, given: Any = None, **settings: Any) -> Any:
    """``run`` with what is given taken there and back, as it would be for another process."""
    more: dict[str, Any] = {**settings, "workers": 1}
    return runs.run(path, work, given=pickle.loads(pickle.dumps(given)), **more)


def _fails(model: Model, fact: Any, **settings: Any) -> Any:
    if "France" in fact.text:
        raise TracerError("restoring failed")
    return counting()[0](model, fact, **settings)


def test_a_model_that_workers_cannot_load_is_refused(tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))
    assert Recipe.of(model).load().fingerprint() == model.fingerprint()
    assert Recipe.of(model, anywhere=True).device is None and Recipe.of(load()).source is None
    with torch.no_grad():
        model.down_projection(0).weight[0, 0] += 1
    with pytest.raises(TracerError, match="has other weights than the model given"):
        Recipe.of(model).load()
    with pytest.raises(TracerError, match="cannot be sent to other processes"):
        average_traces(model, FACTS, workers=2, trace=counting()[0], **SETTINGS)
    with pytest.raises(TracerError, match="workers is 0; expected a whole number, at least 1"):
        average_traces(load(tiny_folder("gpt2")), FACTS, workers=0, **SETTINGS)


# --- covariances -----------------------------------------------------------------------------------------------------
def test_covariances_in_parts(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the last digits as without workers, and as the parts by hand."""
    monkeypatch.setattr(moments_run, "run", _here)
    monkeypatch.setattr(moments_keys, "FEWEST", 16)  # so that some doublings are inside the first part
    model = tiny("gpt2")
    plain = estimate_covariance(model, [1, 3], cache=False, **TEXT)
    shared = estimate_covariance(model, [1, 3], cache=tmp_path, workers=2, **TEXT)
    with windows(model, TEXT["text"], 32, None) as corpus:
        cut = moments_run.parts(corpus, 4 * 64, moments_keys.marks_of(corpus))
        assert len(cut) == moments_run.PARTS
        total: dict[int, Any] = {1: 0, 3: 0}
        for part in cut[::-1]:
            sums = moments_keys.empty_sums(model, [1, 3], torch.float64)
            for _ in moments_keys.read_groups(model, corpus, part, sums, 64, set()):
                pass
            total = {layer: total[layer] + packed.mirror(sums.totals[layer]) for layer in total}
    for layer in (1, 3):
        assert apart(shared.matrix(layer), total[layer] / plain.tokens) < 1e-6
        assert 0 < apart(shared.matrix(layer), plain.matrix(layer)) < 1e-6
        assert [n for n, _ in shared.doublings[layer]] == [n for n, _ in plain.doublings[layer]]
        changes = [change for _, change in plain.doublings[layer]]
        assert [change for _, change in shared.doublings[layer]] == pytest.approx(changes, rel=1e-5)
    assert len(plain.doublings[1]) >= 6 and len(list(tmp_path.glob("*.safetensors"))) == 2
    assert same(estimate_covariance(model, [1, 3], cache=tmp_path, **TEXT), shared)  # the cache has it


@pytest.mark.parametrize("tokens", [1, 40, 333, 1200, 9000, 20000])
def test_parts_are_the_groups_and_doublings_end_parts(tiny: Tiny, tokens: int) -> None:
    for window in (7, 64):
        with windows(tiny("gpt2"), LONG * 12, window, tokens) as corpus:
            marks = moments_keys.marks_of(corpus)
            cut = moments_run.parts(corpus, 256, marks)
            groups = [group for part in cut for group in part]
            assert [stop for _, stop in groups[:-1]] == [first for first, _ in groups[1:]]
            assert (groups[0][0], groups[-1][1]) == (0, len(corpus.ends)) and 0 < len(cut) <= moments_run.PARTS
            ends = {part[-1][1] for part in cut}
            inside = moments_keys.reached(corpus.ends, marks) - ends
            assert all(stop < cut[0][-1][1] for stop in inside) and (not inside or cut[0][-1][1] in ends)
            if tokens > 5000:
                sizes = [corpus.ends[p[-1][1] - 1] - (corpus.ends[p[0][0] - 1] if p[0][0] else 0) for p in cut]
                assert max(sizes) - min(sizes) <= 2 * window


def test_an_interrupted_covariance_goes_on(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, real, reads = tiny("gpt2"), moments_keys._read, []
    monkeypatch.setattr(moments_run, "run", _here)
    whole = estimate_covariance(model, 1, cache=False, workers=2, **TEXT)
    limit = [50]

    def stops(*arguments: Any) -> None:
        if len(reads) == limit[0]:
            raise KeyboardInterrupt
        reads.append(1)
        real(*arguments)

    monkeypatch.setattr(moments_keys, "_read", stops)
    with pytest.raises(KeyboardInterrupt):
        estimate_covariance(model, 1, cache=tmp_path, workers=2, **TEXT)
    (left,) = (path for path in tmp_path.iterdir() if path.suffix != ".json")  # beside the key of the text
    with Store.open(left) as store:
        assert 3 < store.progress().done < moments_run.PARTS
    limit[0] = 10**6
    reads.clear()
    assert same(estimate_covariance(model, 1, cache=tmp_path, workers=2, **TEXT), whole)
    again = len(reads)
    estimate_covariance(model, 1, cache=False, workers=2, **TEXT)
    assert again < len(reads) - again - 30 and len(list(tmp_path.glob("*.safetensors"))) == 1
    # what is left of something else is left aside
    estimate = dataclasses.replace(whole)
    (kept,) = tmp_path.glob("*.safetensors")
    kept.unlink()
    left.write_bytes(b"something else")
    with pytest.warns(UserWarning, match="from the beginning"):
        assert same(estimate_covariance(model, 1, cache=tmp_path, workers=2, **TEXT), estimate)


def test_keys_that_are_not_finite(tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_run, "run", _here)
    monkeypatch.setattr(Recipe, "load", lambda self: model)
    model = load(tiny_folder("gpt2"))
    with torch.no_grad():
        model.hf.get_parameter(model.path("pre", 1) + ".weight").fill_(float("inf"))
    with pytest.raises(TracerError, match=r"^keys of layer 1 are not finite"):
        estimate_covariance(model, [0, 1], cache=False, workers=2, **TEXT)
