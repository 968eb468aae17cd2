"""Leaving with a memory: beside the weights of a folder, or as a part of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from asked import TEXTS, ids_of, read
from beside import beside

import editing
import tracer
from editing.memories import Memory, attach, attached
from editing.memories.baking import bake
from tracer import Model, TracerError
from tracer.engine import set_memories
from tracer.errors import TracerNote

Tiny = Callable[[str], Model]


@pytest.fixture
def gpt2(tiny: Tiny) -> Iterator[Model]:
    yield (found := tiny("gpt2"))
    set_memories(found, [])


def plain(folder: Path, ids: torch.Tensor, masked: bool = False) -> torch.Tensor:
    """Logits of plain transformers."""
    auto: Any = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    with torch.no_grad():
        return auto.from_pretrained(folder).eval()(ids).logits


# --- beside the weights ----------------------------------------------------------------------------------------------
def test_a_saved_model_is_loaded_with_its_memories(gpt2: Model, tmp_path: Path) -> None:
    """Here with the memories and to the bit; in plain transformers the unedited model, as its README says."""
    ids = torch.tensor([ids_of(gpt2, TEXTS[0])])
    bare = gpt2.hf(ids).logits.detach()
    attach(gpt2, beside(gpt2, "t_patcher"))
    attach(gpt2, beside(gpt2, "calinet", layer=1))
    folder = editing.Editor(gpt2).save_pretrained(tmp_path / "saved")
    again = tracer.load(folder)
    assert again.fingerprint() == gpt2.fingerprint()
    one, two = read(gpt2), read(again)
    assert all(np.array_equal(a, b) for a, b in zip(one[0], two[0], strict=True)) and one[1] == two[1]
    assert torch.equal(plain(folder, ids), bare) and not torch.equal(gpt2.hf(ids).logits, bare)
    text = (folder / "README.md").read_text()
    assert "Plain transformers" in text and "unedited model" in text and "memory/1-t_patcher.safetensors" in text
    editor = editing.Editor(again)  # its history begins with them
    edit = editor.edit(editing.EditRequest("{} plays", "Miles Davis", "cello"), "ft_m", layers=[0], steps=2, check=None)
    editor.undo()
    assert again.fingerprint() == gpt2.fingerprint() == edit.fingerprint
    with pytest.warns(TracerNote, match="saved with its memories in float32 and is loaded in torch.float64"):
        assert len(tracer.load(folder, dtype=torch.float64).memories) == 2
    set_memories(gpt2, [])
    assert not (gpt2.hf.save_pretrained(tmp_path / "bare") or (tmp_path / "bare" / "memory").exists())


def test_what_is_wrong_with_saved_memories_is_said(gpt2: Model, tiny: Tiny, tmp_path: Path) -> None:
    memory = beside(gpt2, "t_patcher")
    with attached(gpt2, memory):
        whole = tracer.model.save(gpt2, tmp_path / "whole")
    (file,) = (whole / "memory").iterdir()

    def broken(name: str, change: Callable[[Path], Any]) -> Path:
        folder = shutil.copytree(whole, tmp_path / name)
        change(folder)
        return folder

    cut = broken("cut", lambda folder: (folder / "memory" / file.name).write_bytes(file.read_bytes()[:-7]))
    with pytest.raises(TracerError, match="is not a saved Memory"):
        tracer.load(cut)
    two = broken("two", lambda folder: shutil.copy(file, folder / "memory" / "other.safetensors"))
    with pytest.raises(TracerError, match="cannot have two memories named 't_patcher'"):
        tracer.load(two)
    none = broken("none", lambda folder: (folder / "memory" / file.name).unlink())
    with pytest.raises(TracerError, match=r"holds no memory .*take a whole copy of the model's folder, or remove"):
        tracer.load(none)

    def other(folder: Path) -> None:
        moved = Memory(memory.name, memory.kind, "0" * 64, memory.tensors, memory.header)
        moved.save(folder / "memory" / file.name)

    with pytest.raises(TracerError, match="was made on the weights 000000000000"):
        tracer.load(broken("other", other))


# --- as a part of the weights ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "neox", "opt", "phi", "bert", "gptj", "neo"])
def test_neurons_become_a_part_of_a_plain_model(name: str, tiny: Tiny, tmp_path: Path) -> None:
    """At two layers, of two memories, one of them CaliNET's with the model's own function: the same logits."""
    model = tiny(name)
    one, two = beside(model, "t_patcher", 3), beside(model, "calinet", 2, layer=1)
    function = "relu" if name == "opt" else "gelu" if name in ("neox", "bert") else "gelu_new"
    one, two = (replace(each, header={**each.header, "activation": function}) for each in (one, two))
    text = "The Space Needle is in [MASK]" if name == "bert" else TEXTS[2]
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with attached(model, one), attached(model, two), torch.no_grad():
        expected = model.hf(ids).logits
        folder = bake(model, tmp_path / "baked")
    found = plain(folder, ids, name == "bert")
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    with torch.no_grad():
        assert (expected - model.hf(ids).logits).abs().max() > 0.05
    again = tracer.load(folder)
    assert again.d_mlp == model.d_mlp + 3 and not again.memories and not (folder / "memory").exists()
    assert json.loads((folder / "config.json").read_text())["model_type"] == model.hf.config.model_type
    assert not model.memories


@pytest.mark.parametrize(
    ("name", "kind", "function", "message"),
    [
        ("llama", "t_patcher", "gelu_new", "more between its projections than one activation function .a gate"),
        ("gemma3", "t_patcher", "gelu_new", "more between its projections than one activation function .a gate"),
        ("gpt2", "calinet", "relu", "has relu for its activation function, and the MLP of layer 3 gelu_new"),
        ("gpt2", "gated", "gelu_new", "is gated, which the neurons of an MLP without a gate are not"),
        ("falcon", "t_patcher", "gelu", "has no bias, and the neurons of the memory 't_patcher' need one"),
        ("bloom", "t_patcher", "gelu_new", "no field of its configuration is the width of its MLPs alone"),
        ("gpt2", "toy", "", "does more than neurons of an MLP do"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(
    name: str, kind: str, function: str, message: str, tiny: Tiny, tmp_path: Path
) -> None:
    from asked import some_toys

    model = tiny(name)
    memory = some_toys(model)[0] if kind == "toy" else beside(model, kind)
    header = {**memory.header, "activation": function} if function else memory.header
    memory = Memory(memory.name, memory.kind, memory.fingerprint, memory.tensors, header)
    with attached(model, memory), pytest.raises(TracerError, match=message):
        bake(model, tmp_path / "baked")
    assert not (tmp_path / "baked").exists()
    with pytest.raises(TracerError, match="has no memory to make a part of its weights"):
        bake(model, tmp_path / "baked")
