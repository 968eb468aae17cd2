"""GGUF files: what is read is what was written, and what cannot be read is named in one line."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import SENTENCES

import editing
import tracer
from tracer.errors import TracerError, TracerNote
from tracer.model import Model, load, quantised, save
from tracer.model.rope import llama3_factors
from tracer.model.soundness import LIMIT, check_sound, perplexity
from tracer.runs.recipe import Recipe

gguf = pytest.importorskip("gguf", reason='needs pip install "tracer-workbench[gguf]"')
import ggufs  # noqa: E402 (writes with gguf)

# random models talk nonsense, and loading says so: see test_nonsense_is_noted
pytestmark = pytest.mark.filterwarnings("ignore:.*talks nonsense:tracer.TracerNote")
Tiny = Callable[[str], Model]
FACT = tracer.Fact("{} is in downtown", "The Space Needle")


@pytest.fixture
def source(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Model]:
    """A tiny model as a GGUF of its kind describes it: Gemma 2's attention is scaled by the size of its heads there."""

    def make(architecture: str) -> Model:
        model = tiny(architecture)
        if architecture == "gemma2":  # files have no field for it; transformers takes its default
            monkeypatch.setattr(model.hf.config, "query_pre_attn_scalar", 256)
            for layer in model.hf.model.layers:  # type: ignore[union-attr]
                monkeypatch.setattr(layer.self_attn, "scaling", 256**-0.5)
        return model

    return make


# --- what is read is what was written ------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:the tokenizer of .* has no row for")  # Gemma's marks, which the tiny one lacks
@pytest.mark.parametrize("architecture", ggufs.ARCHITECTURES)
def test_the_same_model(architecture: str, source: Tiny, tmp_path: Path) -> None:
    model = source(architecture)
    found = load(ggufs.write(model, tmp_path / "model.gguf"))
    ids = torch.arange(3, 30)[None]  # within Mistral's window, which files leave out
    with torch.no_grad():
        expected, got = model.hf(input_ids=ids).logits, found.hf(input_ids=ids).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    weights = dict(found.hf.named_parameters())
    for name, weight in model.hf.named_parameters():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-6)  # Gemma's norms are written one higher
    assert found.path("key", 1) == model.path("key", 1)
    assert found.hf.dtype == torch.float32 and not found.hf.training


def test_the_file_is_read_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, read, opened = ggufs.write(tiny("llama"), tmp_path / "model.gguf"), [], gguf.GGUFReader

    class Counting(opened):
        def __init__(self, *given: Any) -> None:
            read.append(given)
            super().__init__(*given)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    load(file)
    assert len(read) == 1 and gguf.GGUFReader is Counting


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_same_tokens(architecture: str, tiny: Tiny, tmp_path: Path) -> None:
    found = load(ggufs.write(tiny(architecture), tmp_path / "model.gguf", add_bos=architecture == "llama"))
    for text in SENTENCES:
        assert found.tokenizer(text)["input_ids"] == tiny(architecture).tokenizer(text)["input_ids"]
    assert FACT.align(found) == FACT.align(tiny(architecture))
    assert found.tokenizer.eos_token == tiny(architecture).tokenizer.eos_token


@pytest.mark.parametrize("says", [True, False])
def test_bos_as_the_file_says(says: bool, tiny: Tiny, tmp_path: Path) -> None:
    found = load(ggufs.write(tiny("llama"), tmp_path / "model.gguf", add_bos=says))
    assert (found.tokenizer("Seattle")["input_ids"][0] == found.tokenizer.bos_token_id) is says


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_a_trace_is_the_same(architecture: str, source: Tiny, tmp_path: Path) -> None:
    model = source(architecture)
    file = ggufs.write(model, tmp_path / "model.gguf", add_bos=architecture == "llama")
    noise = tracer.GaussianNoise(samples=2, level=0.1)
    traces = [tracer.causal_trace(each, FACT, corruption=noise) for each in (model, load(file))]
    np.testing.assert_allclose(traces[1].scores, traces[0].scores, atol=1e-6)


QUANTISED = {"Q8_0": 0.01, "Q4_0": 0.15, "F16": 1e-3}  # largest error, as a share of the largest weight


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_weights_are_dequantised(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    number = gguf.GGMLQuantizationType[kind]
    found = load(ggufs.write(tiny("llama"), tmp_path / "model.gguf", quantise=number))
    assert not quantised(found.hf)
    for layer in range(found.n_layers):
        expected, got = (each.module("key", layer).weight.detach() for each in (tiny("llama"), found))  # type: ignore[union-attr]
        assert 0 < (got - expected).abs().max() < QUANTISED[kind] * expected.abs().max()  # type: ignore[operator]
        exact = torch.from_numpy(gguf.dequantize(gguf.quantize(expected.numpy(), number), number))  # type: ignore[union-attr]
        assert torch.equal(got, exact)  # type: ignore[arg-type]


def test_dtype(tiny: Tiny, tmp_path: Path) -> None:
    file = ggufs.write(tiny("llama"), tmp_path / "model.gguf")
    assert load(file, dtype="bfloat16").hf.dtype == torch.bfloat16
    assert load(file, dtype="auto").hf.dtype == torch.float32
    with pytest.raises(TracerError, match="dtype 'int8'"):
        load(file, dtype="int8")


def test_tied_embeddings(tiny: Tiny, tmp_path: Path) -> None:
    found = load(ggufs.write(tiny("gpt2"), tmp_path / "model.gguf"))
    assert found.module("embed").weight is found.module("unembed").weight
    apart = load(ggufs.write(tiny("llama"), tmp_path / "other.gguf"))
    assert apart.module("embed").weight is not apart.module("unembed").weight


def test_parts_are_joined(tiny: Tiny, tmp_path: Path) -> None:
    whole = load(ggufs.write(tiny("llama"), tmp_path / "whole.gguf", add_bos=True))
    first = ggufs.write(tiny("llama"), tmp_path / "model.gguf", parts=3, add_bos=True)
    found = load(first)
    assert found.fingerprint() == whole.fingerprint() and found.name == str(first)
    assert found.tokenizer("Seattle")["input_ids"] == whole.tokenizer("Seattle")["input_ids"]
    last = first.with_name("model-00003-of-00003.gguf")  # any part stands for all
    assert load(last).fingerprint() == whole.fingerprint()


def test_a_worker_elsewhere_finds_the_file(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ggufs.write(tiny("llama"), tmp_path / "model.gguf")
    recipe = Recipe.of(load("model.gguf"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert recipe.load().fingerprint() == tiny("llama").fingerprint()


def test_a_folder_stands_for_the_file_in_it(tiny: Tiny, tmp_path: Path) -> None:
    file = ggufs.write(tiny("llama"), tmp_path / "model.gguf")
    assert load(tmp_path).fingerprint() == load(file).fingerprint() == tiny("llama").fingerprint()
    (tmp_path / "config.json").write_text("{}")  # as some repositories of GGUF files have it
    assert load(tmp_path).fingerprint() == tiny("llama").fingerprint()
    shutil.copy(file, tmp_path / "other.gguf")
    with pytest.raises(TracerError, match=r"holds 2 GGUF models \(model\.gguf, other\.gguf\); name the file"):
        load(tmp_path)


# --- rotary positions ----------------------------------------------------------------------------------------------
def _rope(model: Model) -> dict[str, Any]:
    return dict(model.hf.config.rope_parameters)


def test_llama3_factors_become_the_rule_that_made_them(tiny: Tiny, tmp_path: Path) -> None:
    factors = llama3_factors(500000.0, 4, 8.0).astype(np.float32)
    file = ggufs.write(tiny("llama"), tmp_path / "a.gguf", extra={"rope_freqs.weight": factors}, theta=500000.0)
    found = load(file)
    assert _rope(found) == {
        "rope_theta": 500000.0,
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = 500000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(found.hf.model.rotary_emb.inv_freq, plain / factors, rtol=1e-5)  # type: ignore[union-attr]


def test_linear_scaling_is_read(tiny: Tiny, tmp_path: Path) -> None:
    def fields(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    found = load(ggufs.write(tiny("llama"), tmp_path / "a.gguf", fields=fields))
    assert _rope(found)["rope_type"] == "linear" and _rope(found)["factor"] == 4.0
    plain = 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(found.hf.model.rotary_emb.inv_freq, plain / 4, rtol=1e-5)  # type: ignore[union-attr]


def test_scaling_that_is_not_read_is_named(tiny: Tiny, tmp_path: Path) -> None:
    odd = {"rope_freqs.weight": np.array([1.0, 2.0, 5.0, 5.5], dtype=np.float32)}
    with pytest.warns(TracerNote, match=r"a\.gguf' scales its rotary positions \(rope_freqs\.weight"):
        load(ggufs.write(tiny("llama"), tmp_path / "a.gguf", extra=odd))
    long = {"rope_factors_long.weight": np.ones(4, dtype=np.float32)}
    with pytest.warns(TracerNote, match=r"\(rope_factors_long\.weight\), which is left out"):
        load(ggufs.write(tiny("llama"), tmp_path / "b.gguf", extra=long))


# --- changed and saved ---------------------------------------------------------------------------------------------
def test_an_edited_model_is_saved_and_reloads_to_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    model = load(ggufs.write(tiny("llama"), tmp_path / "model.gguf", quantise=gguf.GGMLQuantizationType.Q8_0))
    before, editor = model.fingerprint(), editing.Editor(model)
    editor.edit(
        editing.EditRequest("{} is in downtown", "The Space Needle", "Paris"), method="ft_l", layers=[1], steps=2
    )
    edited = model.fingerprint()
    again = load(editor.save_pretrained(tmp_path / "saved"))
    assert again.fingerprint() == edited != before
    assert "quantization_config" not in again.hf.config.to_dict()
    editor.undo()
    assert model.fingerprint() == before


def test_a_module_that_transformers_read_from_gguf(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    ggufs.write(tiny("llama"), tmp_path / "model.gguf")
    hf: Any = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    marked, architectures = hf.config.quantization_config, hf.config.architectures
    assert architectures is None  # the file names none
    model = Model.of(hf, tiny("llama").tokenizer)
    assert model.path("key", 2) == "model.layers.2.mlp.down_proj" and not quantised(hf)
    with pytest.raises(ValueError, match="not serializable"):  # by itself
        hf.save_pretrained(tmp_path / "refused")
    again = load(save(model, tmp_path / "saved"))
    assert again.fingerprint() == model.fingerprint() == tiny("llama").fingerprint()
    assert hf.config.quantization_config is marked and hf.config.architectures is None and hf.is_quantized  # as it was


# --- what cannot be read -------------------------------------------------------------------------------------------
def _cut(share: float) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(file.read_bytes()[: round(file.stat().st_size * share)])


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in the tensors": (_cut(0.9), r"is cut short or damaged.*fetch or copy it again"),
    "cut in the header": (_cut(0.01), r"is cut short or damaged.*fetch or copy it again"),
    "empty": (lambda file: file.write_bytes(b""), r"is no GGUF file.*fetch or copy it again"),
    "something else": (lambda file: file.write_bytes(b"PK" * 100), r"is no GGUF file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case: str, tiny: Tiny, tmp_path: Path) -> None:
    change, message = BAD_FILES[case]
    file = ggufs.write(tiny("llama"), tmp_path / "model.gguf")
    change(file)
    with pytest.raises(TracerError, match=message) as raised:
        load(file)
    assert "\n" not in str(raised.value) and str(file) in str(raised.value)
    assert list(tmp_path.iterdir()) == [file]  # nothing left behind


def test_unknown_architectures(tiny: Tiny, tmp_path: Path) -> None:
    file = ggufs.write(tiny("llama"), tmp_path / "model.gguf", architecture="zebra")
    with pytest.raises(TracerError, match=r"architecture 'zebra', which cannot be read from GGUF by transformers"):
        load(file)


def test_tensors_missing_or_of_another_shape(tiny: Tiny, tmp_path: Path) -> None:
    file = ggufs.write(tiny("llama"), tmp_path / "model.gguf", drop=("blk.2.ffn_down.weight",))
    with pytest.raises(TracerError, match=r"lacks weights.*model\.layers\.2\.mlp\.down_proj\.weight"):
        load(file)
    wrong = {"blk.2.ffn_down.weight": np.zeros((32, 32), dtype=np.float32)}
    file = ggufs.write(tiny("llama"), tmp_path / "other.gguf", extra=wrong)
    with pytest.raises(TracerError, match=r"layers\.2\.mlp\.down_proj\.weight'.*\(32, 32\).*\(32, 64\)"):
        load(file)


def test_a_missing_part_is_named(tiny: Tiny, tmp_path: Path) -> None:
    first = ggufs.write(tiny("llama"), tmp_path / "model.gguf", parts=3)
    (tmp_path / "model-00002-of-00003.gguf").unlink()
    with pytest.raises(TracerError, match=r"one of 3 parts, and model-00002-of-00003\.gguf is missing; put all parts"):
        load(first)
    renamed = first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(TracerError, match=r"renamed\.gguf' is one of 3 parts of a model, and was renamed"):
        load(renamed)


def test_without_the_gguf_package(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ggufs.write(tiny("llama"), tmp_path / "model.gguf")
    find = importlib.util.find_spec
    monkeypatch.setattr("tracer.model.gguf_file.find_spec", lambda name: None if name == "gguf" else find(name))
    with pytest.raises(TracerError, match=r'needs the package gguf: pip install "tracer-workbench\[gguf\]"'):
        load(file)
    with pytest.raises(TracerError, match=r"there is no file .*nowhere\.gguf"):
        load(tmp_path / "nowhere.gguf")


# --- whether it speaks ---------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("default:.*talks nonsense:tracer.TracerNote")
def test_nonsense_is_noted(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.warns(TracerNote, match=r"model\.gguf' talks nonsense: its perplexity on plain English is .*another"):
        load(ggufs.write(tiny("llama"), tmp_path / "model.gguf"))


def test_the_perplexity_is_the_plain_one(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    ids = model.tokenizer("The Space Needle is in downtown Seattle.")["input_ids"]
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    plain = np.exp(-np.mean([logits[i, token].item() for i, token in enumerate(ids[1:])]))
    assert perplexity(model, "The Space Needle is in downtown Seattle.") == pytest.approx(plain, rel=1e-5)
    for found, noted in ((LIMIT, False), (LIMIT + 1, True), (float("nan"), True)):
        monkeypatch.setattr("tracer.model.soundness.perplexity", lambda model, found=found: found)
        with pytest.warns(TracerNote) if noted else nullcontext():  # warnings are errors
            check_sound(model)
