"""Second moments of keys: against published numbers and plain loops, from text of any kind, interrupted, cached."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import ARCHITECTURES, SENTENCES
from tokenizers.normalizers import Lowercase

import tracer
from editing.covariance import accumulate as sums
from editing.covariance import estimate as moments
from editing.covariance import keys as key_sums
from editing.covariance import text as corpus
from editing.covariance.covariance import SHIPPED, Covariance
from editing.covariance.default import covariance_for
from editing.covariance.estimate import estimate_covariance
from tracer import Model, TracerError
from tracer.engine.hooks import Site, capture
from tracer.files import cache_folder

Tiny = Callable[[str], Model]
TEXTS = [" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(4)] + ["", "Paris", "a b c"]

CHILD = """
import sys, time
from editing.covariance import accumulate as sums
from editing.covariance import estimate as moments
from test_moments import LONG
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
LONG = [" ".join(SENTENCES[:5] * 6)] * 3


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is kept outside of the test's own folder."""
    monkeypatch.setenv("TRACER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def apart(a: torch.Tensor, b: Any) -> float:
    """Relative Frobenius distance."""
    b = torch.as_tensor(b).double()
    return float((a.double() - b).norm() / b.norm())


def same(a: Covariance, b: Covariance) -> bool:
    """Whether two covariances have the same bits."""
    return (
        a.layers == b.layers
        and all(torch.equal(a.matrix(layer), b.matrix(layer)) for layer in a.layers)
        and dict(a.doublings) == dict(b.doublings)
        and (a.tokens, a.corpus, a.fingerprint, a.window) == (b.tokens, b.corpus, b.fingerprint, b.window)
    )


def plain(model: Model, layer: int, texts: list[str], window: int) -> torch.Tensor:
    """E[k k^T], one window at a time, float64."""
    specials = model.tokenizer("a").input_ids, model.tokenizer("a", add_special_tokens=False).input_ids
    extra = len(specials[0]) - len(specials[1])
    before = specials[0][:1] if extra else []
    after = specials[0][-1:] if extra == 2 else []
    total, count = torch.zeros(model.d_mlp, model.d_mlp, dtype=torch.float64), 0
    for text in texts:
        ids = model.tokenizer(text, add_special_tokens=False).input_ids
        body = window - extra
        for start in range(0, len(ids), body):
            site = Site("key", layer)
            with torch.no_grad():
                keys = capture(model, before + ids[start : start + body] + after, [site])[site][0].double()
            total += keys.T @ keys
            count += len(keys)
    return total / count


# --- numbers ---------------------------------------------------------------------------------------------------------
def test_published_moments(golden: Path, golden_model: Model) -> None:
    """Layers of ROME's and MEMIT's fixtures in one pass."""
    text = str(golden / "text.txt")
    found = estimate_covariance(golden_model, [1, 2, 3], text, window=64, max_tokens=20000, cache=False)
    rome, memit = np.load(golden / "rome_museum.npz"), np.load(golden / "memit_three.npz")
    assert found.tokens == int(rome["mom2_count"]) == 18511
    assert apart(found.matrix(2), rome["mom2"]) < 1e-6
    for layer in (1, 2, 3):
        assert apart(found.matrix(layer), memit[f"layer{layer}_mom2"]) < 1e-6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_as_one_window_at_a_time(tiny: Tiny, architecture: str) -> None:
    """Batches with padding add the keys of the windows and nothing else; the model is left as found."""
    model = tiny(architecture)
    before = model.fingerprint()
    found = estimate_covariance(model, [0, 2], TEXTS, window=24, dtype=torch.float64, batch_tokens=100, cache=False)
    for layer in (0, 2):
        assert apart(found.matrix(layer), plain(model, layer, TEXTS, 24)) < 1e-6
    assert model.fingerprint() == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


def test_layers_and_batches_change_nothing(tiny: Tiny) -> None:
    model = tiny("gpt2")
    every = estimate_covariance(model, None, TEXTS, cache=False)
    assert every.layers == tuple(range(model.n_layers)) and every.window == model.n_ctx
    assert every.dtype == every.matrix(0).dtype == torch.float32
    for layer in (0, 3):
        assert torch.equal(estimate_covariance(model, layer, TEXTS, cache=False).matrix(layer), every.matrix(layer))
    small = estimate_covariance(model, None, TEXTS, batch_tokens=1, cache=False)
    assert apart(small.matrix(3), every.matrix(3)) < 1e-6
    assert torch.equal(every.matrix(1), every.matrix(1).T)


def test_one_forward_that_ends_at_the_last_layer(tiny: Tiny) -> None:
    """Entered once for all layers: block 2, whose key is asked for; never: what comes behind that key."""
    model, entered = tiny("llama"), []
    places = [("hidden", 0), ("hidden", 2), ("key", 2), ("hidden", 3)]
    handles = [
        model.module(kind, layer).register_forward_pre_hook(lambda *_, place=(kind, layer): entered.append(place))
        for kind, layer in places[:2] + places[3:]
    ]
    handles.append(model.module("key", 2).register_forward_hook(lambda *_: entered.append(("key", 2))))
    try:
        estimate_covariance(model, [0, 1, 2], TEXTS[:1], max_tokens=40, cache=False)
    finally:
        for handle in handles:
            handle.remove()
    assert entered == [("hidden", 0), ("hidden", 2)]


def test_low_precision_keys_are_summed_in_the_dtype_asked_for(tiny_folder: Callable[[str], Path]) -> None:
    model = tracer.load(tiny_folder("llama"), dtype="bfloat16")
    wide = estimate_covariance(model, 1, TEXTS, dtype=torch.float64, cache=False)
    single = estimate_covariance(model, 1, TEXTS, cache=False)
    assert wide.dtype == torch.float64 and 0 < apart(single.matrix(1), wide.matrix(1)) < 1e-6


def test_doublings_against_moments_of_halves(tiny: Tiny) -> None:
    """Windows of one token, so that halves are exact."""
    model = tiny("gpt2")
    ids = " ".join(SENTENCES * 30)
    whole, half, quarter = (
        estimate_covariance(model, 1, [ids], window=1, max_tokens=n, dtype=torch.float64, cache=False)
        for n in (4096, 2048, 1024)
    )
    table = whole.doublings[1]
    assert [n for n, _ in table] == [1024, 2048, 4096]
    for (_, change), (now, before) in zip(table[1:], [(half, quarter), (whole, half)], strict=True):
        expected = (now.matrix(1) - before.matrix(1)).norm() / now.matrix(1).norm()
        assert change == pytest.approx(float(expected), rel=1e-9)
    assert whole.change(1) == table[-1][1]
    assert np.isnan(estimate_covariance(model, 1, ["Paris"], cache=False).change(1))


# --- text ------------------------------------------------------------------------------------------------------------
def test_text_of_any_kind(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file by Path or string, its text in a list or from a generator, and a data set's rows all say the same."""
    model = tiny("gpt2")
    text = "\n".join(SENTENCES)
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8")
    asked = []

    def load_dataset(*names: Any, **settings: Any) -> list[dict[str, Any]]:
        asked.append((names, settings))
        return [{"id": 1, "text": text, "title": "x"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    expected = estimate_covariance(model, 1, [text], cache=False)
    for given in (file, str(file), (t for t in [text]), "owner/some:raw-v1:test"):
        found = estimate_covariance(model, 1, given, cache=False)
        assert torch.equal(found.matrix(1), expected.matrix(1)) and found.corpus == expected.corpus
    assert asked == [(("owner/some", "raw-v1"), {"split": "test", "streaming": True})]
    assert estimate_covariance(model, 1, file, cache=False).text == "text.txt"


def test_max_tokens_stops_an_endless_text(tiny: Tiny) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield SENTENCES[0]

    for architecture in ("gpt2", "llama", "bert"):
        found = estimate_covariance(tiny(architecture), 0, endless(), max_tokens=333, window=16, cache=False)
        assert 331 <= found.tokens <= 333  # special tokens need a token between them


def test_pieces_are_the_text_and_its_tokens(tiny: Tiny) -> None:
    text = "\n".join(SENTENCES * 3) + "\n\n\n" + "  " + SENTENCES[0] + "x" * 300
    for size in (50, 97, 1000):
        cut = list(corpus.pieces([text[:33], text[33:100], text[100:]], size))
        assert "".join(cut) == text and max(map(len, cut)) <= size + 1
    lines = "\n".join(SENTENCES * 3)
    encode = tiny("gpt2").tokenizer
    split = [i for piece in corpus.pieces([lines], 200) for i in encode(piece).input_ids]
    assert len(list(corpus.pieces([lines], 200))) > 3 and split == encode(lines).input_ids


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text": "no such file.txt"}, "text=[text]"),
        ({"text": "A sentence, which is text."}, "text=[text]"),
        ({"text": "x" * 5000 + " \0"}, "text=[text]"),
        ({"text": Path("no-such-file")}, "no file"),
        ({"text": Path(".")}, "a folder"),
        ({"text": [1]}, "text 0 is int"),
        ({"text": 3}, "got int"),
        ({"text": b"abc"}, "got bytes"),
        ({"text": []}, "no token"),
        ({"text": ["", ""]}, "no token"),
        ({"text": ["a"], "window": 65}, "at most 64"),
        ({"text": ["a"], "window": 0}, "window"),
        ({"text": ["a"], "max_tokens": 0}, "max_tokens"),
        ({"text": ["a"], "batch_tokens": 2.5}, "batch_tokens"),
        ({"text": ["a"], "dtype": torch.float16}, "float64"),
        ({"text": ["a"], "layers": 4}, "layer from 0 to 3"),
        ({"text": ["a"], "layers": []}, "no layer"),
    ],
)
def test_refusals_name_the_repair(tiny: Tiny, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TracerError) as refused:
        estimate_covariance(tiny("gpt2"), **settings)
    assert words in str(refused.value)


def test_unreadable_texts(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("García".encode("latin-1"))
    with pytest.raises(TracerError, match="UTF-8"):
        estimate_covariance(tiny("gpt2"), 0, latin)

    def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=offline))
    with pytest.raises(TracerError, match=r"no network.*without it, give a text file"):
        estimate_covariance(tiny("gpt2"), 0, "owner/some:config:train")
    rows = types.SimpleNamespace(load_dataset=lambda *_, **__: [{"a": "x", "b": "y"}])
    monkeypatch.setitem(sys.modules, "datasets", rows)
    with pytest.raises(TracerError, match="no column 'text', but a, b"):
        estimate_covariance(tiny("gpt2"), 0, "owner/some")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TracerError, match="pip install datasets"):
        estimate_covariance(tiny("gpt2"), 0, "owner/some")
    with pytest.raises(TracerError, match="full of special tokens"):
        estimate_covariance(tiny("bert"), 0, ["a"], window=2)


def test_keys_that_are_not_finite(tiny_folder: Callable[[str], Path]) -> None:
    model = tracer.load(tiny_folder("gpt2"))
    with torch.no_grad():
        model.hf.get_parameter(model.path("pre", 1) + ".weight").fill_(float("inf"))
    with pytest.raises(TracerError, match="layer 1 are not finite"):
        estimate_covariance(model, [0, 1], TEXTS)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


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
    (file,) = folder.iterdir()
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
    assert len(list(tmp_path.iterdir())) == model.n_layers  # the unfinished state is gone


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
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent)])
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tiny_folder("gpt2")), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        child.kill()
    assert said == "saved\n"
    model = tiny("gpt2")
    settings: dict[str, Any] = {"text": LONG, "batch_tokens": 64, "window": 32}
    (unfinished,) = tmp_path.iterdir()
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
