"""Covariances that are cached, interrupted and gone on with, and the ones that edits use by themselves."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from covariances import LONG, TEXTS, Tiny, apart, same
from repository import surroundings
from tokenizers.normalizers import Lowercase

import tracer
from editing.covariance import accumulate as sums
from editing.covariance import estimate as moments
from editing.covariance import keys as key_sums
from editing.covariance import text as corpus
from editing.covariance.covariance import SHIPPED
from editing.covariance.default import covariance_for
from editing.covariance.estimate import estimate_covariance
from tracer import Model, TracerError
from tracer.files import cache_folder

CHILD = """
import sys, time
from editing.covariance import accumulate as sums
from editing.covariance import estimate as moments
from covariances import LONG
from tracer.model import load
keep, times = sums.Sums.save, []
def thrice(self, path):
    keep(self, path)
    times.append(path)
    if len(times) == 3:
        print("saved", flush=True)
        time.sleep(600)
sums.Sums.save = thrice
settings = dict(text=LONG, batch_tokens=64, save_every=0, window=32)
moments.estimate_covariance(load(sys.argv[1]), cache=sys.argv[2], **settings)
"""


# --- interrupted and cached ------------------------------------------------------------------------------------------
def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the layers of every batch that the model reads."""
    runs: list[int] = []
    real = key_sums._read

    def read(model: Model, rows: Any, totals: Any) -> None:
        runs.append(len(totals))
        real(model, rows, totals)

    monkeypatch.setattr(key_sums, "_read", read)
    return runs


def test_cached_by_layer(tiny: Tiny, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only layers that are not there are estimated; other settings are another covariance."""
    model, runs = tiny("gpt2"), count_runs(monkeypatch)
    first = estimate_covariance(model, [0, 1], TEXTS)
    assert set(runs) == {2} and cache_folder() == own_cache and len(list(own_cache.rglob("*.safetensors"))) == 2
    runs.clear()
    again = estimate_covariance(model, [0, 1, 3], TEXTS)
    assert set(runs) == {1} and again.layers == (0, 1, 3)
    both = {name: {i: getattr(again, name)[i] for i in (0, 1)} for name in ("moments", "doublings")}
    assert same(first, dataclasses.replace(again, **both))
    others: list[dict[str, Any]] = [{"dtype": torch.float64}, {"window": 8}, {"max_tokens": 30}, {"text": TEXTS[:2]}]
    for one, other in [*((model, other) for other in others), (model, {"cache": False}), (tiny("gptj"), {})]:
        runs.clear()
        estimate_covariance(one, [0], **{"text": TEXTS, **other})
        assert runs


def test_a_text_read_before_is_not_tokenised_again(
    tiny: Tiny, tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default text, a file by its content, and a list; another text, tokenizer or cut is read."""
    read: list[Any] = []
    original = corpus.windows

    def watched(model: Model, text: Any, *cuts: Any) -> Any:
        read.append(text)
        return original(model, text, *cuts)

    monkeypatch.setattr("editing.covariance.estimate.windows", watched)
    model, file, kept = tiny("gpt2"), tmp_path / "a.txt", tmp_path / "kept"
    file.write_text(" ".join(TEXTS), encoding="utf-8")
    for text, cuts in ((None, {"max_tokens": 300}), (file, {}), (TEXTS, {})):
        first, again = (estimate_covariance(model, [1, 2], text, cache=kept, **cuts) for _ in range(2))  # type: ignore[arg-type]
        assert read == [text] and same(first, again) and first.text == again.text and first.note == again.note
        assert same(estimate_covariance(model, [1, 2], text, cache=False, **cuts), first)  # type: ignore[arg-type]
        read.clear()
    moved = file.rename(tmp_path / "b.txt")
    assert estimate_covariance(model, 1, moved, cache=kept).text == "b.txt" and read == []
    moved.write_text("The Louvre is in Paris.", encoding="utf-8")
    others: list[dict[str, Any]] = [{"text": moved}, {"text": TEXTS, "window": 16}, {"text": TEXTS[:1]}]
    others += [{"text": TEXTS, "layers": 0}, {"text": TEXTS, "dtype": torch.float64}, {"text": iter(TEXTS)}]
    for each in others:
        estimate_covariance(model, **{"layers": 1, "cache": kept, **each})
    assert len(read) == len(others)
    other = tracer.load(tiny_folder("gpt2"))
    other.tokenizer.backend_tokenizer.normalizer = Lowercase()  # type: ignore[attr-defined]
    assert not same(estimate_covariance(other, 1, TEXTS, cache=kept), estimate_covariance(model, 1, TEXTS, cache=kept))
    assert len(read) == len(others) + 1
    for note in kept.glob("*.json"):
        note.write_text("{", encoding="utf-8")
    assert same(
        estimate_covariance(model, [1, 2], moved, cache=kept), estimate_covariance(model, [1, 2], moved, cache=False)
    )


def test_an_edited_model_takes_the_covariance_it_had_before(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cache has it; else that of the model as it is, which is kept under its own name."""
    model, runs = tracer.load(tiny_folder("gpt2")), count_runs(monkeypatch)
    origin = model.fingerprint()
    first = estimate_covariance(model, [1], TEXTS, cache=tmp_path / "kept")
    with torch.no_grad():
        model.down_projection(0).weight.mul_(2.0)
    runs.clear()
    again = estimate_covariance(model, [1], TEXTS, cache=tmp_path / "kept", origin=origin)
    assert not runs and same(first, again) and again.fingerprint == origin
    own = estimate_covariance(model, [1], TEXTS, cache=tmp_path / "other", origin=origin)
    assert runs and own.fingerprint == model.fingerprint() != origin
    assert not torch.equal(own.matrix(1), first.matrix(1))


def test_damaged_cache_is_made_again(tiny: Tiny, tmp_path: Path) -> None:
    """Cut short, one bit off, another layer's or not even safetensors: each time a warning and the right numbers."""
    model, folder = tiny("gpt2"), tmp_path / "kept"
    right = estimate_covariance(model, 0, TEXTS, cache=folder)
    (file,) = folder.glob("*.safetensors")
    good = file.read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    other = estimate_covariance(model, 2, TEXTS, cache=False).save(tmp_path / "other").read_bytes()
    double = estimate_covariance(model, 0, TEXTS, dtype=torch.float64, cache=False).save(tmp_path / "d").read_bytes()
    for bad in (good[:-100], good[:10], b"", bytes(flipped), other, double, b"PK something else"):
        file.write_bytes(bad)
        with pytest.warns(UserWarning, match="estimated again"):
            found = estimate_covariance(model, 0, TEXTS, cache=folder)
        assert same(found, right)
        assert file.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_a_warning(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot write to the folder"):
        found = estimate_covariance(tiny("gpt2"), 0, TEXTS, cache=tmp_path / "file")
    assert found.tokens


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_run_carries_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """The same bits as without interruption, and nothing is read twice but what was lost."""
    model, settings = tiny("gpt2"), {"text": LONG, "batch_tokens": 64, "save_every": 0.0, "window": 32}
    runs = count_runs(monkeypatch)
    whole = estimate_covariance(model, **settings, cache=False)
    needed, real = len(runs), key_sums._read
    assert needed > 20 and len(whole.doublings[0]) >= 1

    def stops(model: Model, rows: Any, totals: Any) -> None:
        if len(runs) == needed + 15:
            raise error
        real(model, rows, totals)

    monkeypatch.setattr(key_sums, "_read", stops)
    with pytest.raises(error):
        estimate_covariance(model, **settings, cache=tmp_path)
    monkeypatch.setattr(key_sums, "_read", real)
    lost = len(runs)
    assert same(estimate_covariance(model, **settings, cache=tmp_path), whole)
    assert needed - 15 <= len(runs) - lost < needed - 8
    assert len(list(tmp_path.glob("*.safetensors"))) == model.n_layers  # the unfinished state is gone


def test_damaged_state_is_left_aside(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = tiny("gpt2"), {"text": LONG, "batch_tokens": 64, "save_every": 0.0, "window": 32}
    whole, keep, kept = estimate_covariance(model, **settings, cache=False), sums.Sums.save, []

    def once(state: sums.Sums, path: Path) -> None:
        keep(state, path)
        kept.append(path)
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(sums.Sums, "save", once)
    with pytest.raises(KeyboardInterrupt):
        estimate_covariance(model, **settings, cache=tmp_path)
    kept[0].write_bytes(kept[0].read_bytes()[:-1000])
    with pytest.warns(UserWarning, match="from the beginning"):
        assert same(estimate_covariance(model, **settings, cache=tmp_path), whole)


def test_killed_run_carries_on(tiny: Tiny, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Another process is killed outright after it has kept its state three times."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tiny_folder("gpt2")), str(tmp_path)],
        env=surroundings(OMP_NUM_THREADS=str(torch.get_num_threads())),
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        child.kill()
    assert said == "saved\n"
    model = tiny("gpt2")
    settings: dict[str, Any] = {"text": LONG, "batch_tokens": 64, "window": 32}
    (unfinished,) = tmp_path.glob("*.safetensors")
    state = sums.Sums({i: torch.zeros(model.d_mlp, model.d_mlp) for i in range(model.n_layers)})
    state.restore(unfinished)
    assert state.groups == 3
    whole = estimate_covariance(model, **settings, cache=False)
    assert same(estimate_covariance(model, **settings, cache=tmp_path), whole)
    assert not unfinished.exists()


# --- what edits use --------------------------------------------------------------------------------------------------
def test_shipped_covariance_is_that_of_the_embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fingerprint, every layer, and the numbers of one layer made again."""
    model, runs = tracer.load().pinned(), count_runs(monkeypatch)
    shipped = covariance_for(model, range(model.n_layers))
    assert not runs and not shipped.note
    assert shipped.fingerprint == model.fingerprint() and shipped.layers == tuple(range(model.n_layers))
    assert SHIPPED.stat().st_size < 17_000_000
    assert max(shipped.change(layer) for layer in shipped.layers) < 0.12
    again = estimate_covariance(model, 0, cache=False)
    assert (again.corpus, again.tokens, again.window) == (shipped.corpus, shipped.tokens, shipped.window)
    assert apart(again.matrix(0), shipped.matrix(0)) < 1e-5


def test_other_models_get_the_default_text_and_a_note(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model, runs = tiny("gpt2"), count_runs(monkeypatch)
    monkeypatch.setattr(moments, "default_tokens", lambda model: 300)
    found = covariance_for(model, [2])
    assert found.tokens == 300 and found.layers == (2,) and found.text == corpus.DEFAULT
    assert "estimate_covariance(model, layers=[2]" in found.note
    count = len(runs)
    assert same(covariance_for(model, (2,)), found) and len(runs) == count  # from the cache
    assert not estimate_covariance(model, 2, ["a text"]).note


def test_an_edited_embedded_model_can_use_the_shipped_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    model, runs = tracer.load(), count_runs(monkeypatch)
    before = model.fingerprint()
    with torch.no_grad():
        model.down_projection(3).weight[0, 0] += 1
    found = covariance_for(model, [3], fingerprint=before)
    found.check(model, [3], fingerprint=before)
    with pytest.raises(TracerError, match="other weights"):
        found.check(model, [3])
    assert not runs
