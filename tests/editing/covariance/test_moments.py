"""Second moments of keys: against published numbers and plain loops, from text of any kind."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import ARCHITECTURES, SENTENCES
from covariances import TEXTS, Tiny, apart

import tracer
from editing.covariance import text as corpus
from editing.covariance.estimate import estimate_covariance
from tracer import Model, TracerError
from tracer.engine.hooks import Site, capture


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
        ({"text": ["a"], "layers": []}, "layers is empty"),
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
    with pytest.raises(TracerError, match=r"needs datasets, which is .*tracer-workbench\[datasets\]"):
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
