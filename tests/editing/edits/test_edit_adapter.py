"""An edit as a LoRA adapter: peft's model answers as the edited one, and merged it has its weights."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from handmade import handmade
from safetensors.torch import load_file

from editing.edits.edit import Edit
from editing.edits.weights import applied
from tracer.errors import AdapterError, TracerError
from tracer.model import Model, load

Tiny = Callable[[str], Model]
IDS = torch.arange(5, 25)[None]


def through_peft(model: Model, folder: Path) -> Any:
    """A copy of the model with the adapter; the model is left as it is."""
    from peft import PeftModel

    with warnings.catch_warnings():
        # peft asks transformers by a name that the latter has given up
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return PeftModel.from_pretrained(copy.deepcopy(model.hf), str(folder)).eval()


def check(model: Model, edit: Edit, folder: Path) -> None:
    with torch.no_grad():
        clean = model.hf(IDS).logits
        with applied(model, edit.factors):
            edited = model.hf(IDS).logits
            weights = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
        assert (edited - clean).abs().max() > 0.1
        adapted = through_peft(model, folder)
        torch.testing.assert_close(adapted(IDS).logits, edited, rtol=1e-5, atol=1e-5)
        merged = dict(adapted.merge_and_unload().named_parameters())
    assert merged.keys() == weights.keys()
    for name, weight in weights.items():
        if name in edit.factors:
            torch.testing.assert_close(merged[name], weight, rtol=1e-6, atol=5e-7)
        else:
            assert torch.equal(merged[name], weight)


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_peft_loads_it_and_answers_as_the_edited_model(architecture: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(architecture)
    before, edit = model.fingerprint(), handmade(model, (0, 1, 3), (1, 3, 2))
    # a masked model is none of peft's causal ones: the adapter has to say so
    assert edit.to_peft(tmp_path / "a", model=None if model.causal else model) == tmp_path / "a"
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] == (architecture == "gpt2")
    assert config["r"] == config["lora_alpha"]
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert config["task_type"] == ("CAUSAL_LM" if model.causal else None)
    check(model, edit, tmp_path / "a")
    assert model.fingerprint() == before


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_layers_one_and_eleven_keep_their_ranks(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft matches ranks to modules by patterns, in which h.1 must not be h.11."""
    class_name, settings, family = checkpoints.ARCHITECTURES[architecture]
    deep = {**settings, "n_layer" if architecture == "gpt2" else "num_hidden_layers": 12}
    monkeypatch.setitem(checkpoints.ARCHITECTURES, architecture, (class_name, deep, family))
    model = load(checkpoints.build(architecture, tmp_path / "model"))
    edit = handmade(model, (1, 10, 11), (2, 2, 5))
    edit.to_peft(tmp_path / "a")
    check(model, edit, tmp_path / "a")


def test_a_composition_is_one_adapter(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("gpt2")
    edit = handmade(model, (0, 1)).compose(handmade(model, (1, 2), seed=1).scale(0.5))
    edit.to_peft(tmp_path / "a")
    check(model, edit, tmp_path / "a")


def test_a_weight_that_is_left_alone_is_left_out(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("llama")
    edit = handmade(model, (0, 1))
    (first, (u, v)), (second, pair) = edit.factors.items()
    edit = dataclasses.replace(edit, factors={first: (u[:, :0], v[:, :0]), second: pair})
    edit.to_peft(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    path = f"base_model.model.{second.removesuffix('.weight')}"
    assert set(tensors) == {f"{path}.lora_A.weight", f"{path}.lora_B.weight"}
    check(model, dataclasses.replace(edit, factors={second: pair}), tmp_path / "a")


def test_how_weights_are_stored_may_come_from_the_model(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("gpt2")
    edit = dataclasses.replace(handmade(model), settings={})
    with pytest.raises(TracerError, match=r"does not say whether .* edit.to_peft\(folder, model=model\)"):
        edit.to_peft(tmp_path / "a")
    edit.to_peft(tmp_path / "a", model=model)
    check(model, edit, tmp_path / "a")


def test_without_peft_the_extra_is_named(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = handmade(tiny("gpt2"))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(AdapterError, match=r"a LoRA adapter needs peft, .*tracer-workbench\[lora\]"):
        edit.to_peft(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("names", [[], ["transformer.h.1.mlp.c_proj.bias"], ["transformer.wte.weight"]])
def test_what_lora_has_no_layer_for(names: list[str], tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("gpt2")
    pair = next(iter(handmade(model).factors.values()))
    edit = dataclasses.replace(handmade(model), factors=dict.fromkeys(names, pair))
    with pytest.raises(TracerError, match=f"this edit changes {names[0] if names else 'none'}"):
        edit.to_peft(tmp_path / "a", model=model)
    assert not (tmp_path / "a").exists()


def test_a_folder_with_files_is_not_replaced_unasked(tiny: Tiny, tmp_path: Path) -> None:
    edit, folder = handmade(tiny("gpt2")), tmp_path / "a"
    folder.mkdir()
    edit.to_peft(folder)  # empty
    (folder / "more").write_text("")
    with pytest.raises(TracerError, match="is not empty; choose another folder, or pass overwrite=True"):
        edit.to_peft(folder)
    assert (folder / "more").exists()
    edit.to_peft(folder, overwrite=True)
    assert not (folder / "more").exists()
    with pytest.raises(TracerError, match="is no folder"):
        edit.to_peft(folder / "adapter_config.json", overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_an_adapter_that_cannot_be_written_leaves_the_old_one(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    edit, folder = handmade(tiny("gpt2")), tmp_path / "a"
    edit.to_peft(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(TracerError, match="No space left on device"):
        edit.scale(2).to_peft(folder, overwrite=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
