"""Published hyper-parameters: numbers as in the published files, names that the methods know, models by their sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
import transformers

from editing.methods import published_settings as module
from editing.methods.compute import METHODS, method_named, settings_of
from editing.methods.prepare import preparation_of
from editing.methods.published_settings import published, published_models, published_section
from tracer import TracerError
from tracer.model import Model

EVERY = [(name, method) for name, one in published_models().items() for method in one.methods]

# name -> configuration class and what differs from its defaults
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-medium": ("GPT2Config", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "gpt2-large": ("GPT2Config", {"n_embd": 1280, "n_layer": 36, "n_head": 20}),
    "gpt2-xl": ("GPT2Config", {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "gpt-j-6b": ("GPTJConfig", {}),
    "gpt-neox-20b": ("GPTNeoXConfig", {}),
    "llama-2-7b": ("LlamaConfig", {}),
    "llama-3-8b": ("LlamaConfig", {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}),
    "mistral-7b": ("MistralConfig", {}),
    "qwen2.5-7b": (
        "Qwen2Config",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
    ),
    "bert-base": ("BertConfig", {}),
}
ENCODER_DECODERS = {"bart-base", "t5-base"}
"""Models that settings were published for, and that are not edited here: they are asked for by name."""


def without_weights(name: str) -> Model:
    """A model of full size that holds no numbers."""
    class_name, settings = CONFIGURATIONS[name]
    config = getattr(transformers, class_name)(**settings)
    with torch.device("meta"):
        auto = transformers.AutoModelForMaskedLM if class_name == "BertConfig" else transformers.AutoModelForCausalLM
        hf = auto.from_config(config)
    hf.config.architectures = [type(hf).__name__]
    return Model.of(hf, checkpoints.byte_level(), "somewhere/anything")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_model_is_recognised_by_its_sizes(name: str) -> None:
    model = without_weights(name)
    for method in published_models()[name].methods:
        assert published(method, model) == published(method, name)


def test_every_model_has_a_configuration_here() -> None:
    assert list(published_models()) == sorted({*CONFIGURATIONS, *ENCODER_DECODERS})


@pytest.mark.parametrize(("name", "method"), EVERY)
def test_methods_take_what_is_published(name: str, method: str) -> None:
    section, sizes = published_section(method, name), published_models()[name].model
    assert method in METHODS
    found = method_named(method)
    taking = found if section.takes == "edit" else preparation_of(found)
    assert set(section.settings) <= {field.name for field in fields(taking.settings)}
    if section.takes == "edit":
        settings_of(found, published(method, name))  # no TracerError
    else:
        preparation_of(found).settings(**published(method, name))
    assert all(0 <= layer < sizes.n_layers for layer in section.settings.get("layers", []))
    assert section.settings.get("v_loss_layer", sizes.n_layers - 1) < sizes.n_layers
    beside = {"t_patcher": "src/utils.py", "calinet": "train_calinet/bash/t5_train_kb_f.sh", "rase": "evaluate.py"}
    folders = ("hparams/", "grace/config/", "config/editor/", "src/models/", *(("icl.py",) if method == "ike" else ()))
    assert section.source.file.startswith(beside.get(method, folders))
    assert json.loads(json.dumps(section.settings)) == section.settings


@pytest.mark.parametrize(
    ("method", "name", "expected"),
    [
        ("rome", "gpt2-medium", {"layers": [8], "v_loss_layer": 23, "clamp": 3.0}),
        ("rome", "gpt2-large", {"layers": [12], "v_loss_layer": 35, "clamp": 4.0}),
        ("rome", "gpt2-xl", {"layers": [17], "v_loss_layer": 47, "clamp": 4.0, "v_lr": 0.5, "v_steps": 20}),
        ("rome", "gpt-j-6b", {"layers": [5], "v_weight_decay": 0.5, "kl_factor": 0.0625, "mom2_adjustment": True}),
        ("rome", "gpt-neox-20b", {"layers": [15], "v_loss_layer": 43, "template_lengths": [[5, 10], [10, 10]]}),
        ("rome", "llama-2-7b", {"layers": [5], "v_weight_decay": 1e-3, "mom2_adjustment": False}),
        ("memit", "gpt2-xl", {"layers": [13, 14, 15, 16, 17], "mom2_weight": 20000.0, "clamp": 0.75}),
        ("memit", "gpt-j-6b", {"layers": [3, 4, 5, 6, 7, 8], "mom2_weight": 15000.0, "v_steps": 25}),
        ("emmet", "gpt2-xl", {"layers": [17], "mom2_weight": 1000.0, "emmet_lambda": 0.1}),
        ("AlphaEdit", "llama-3-8b", {"nullspace_threshold": 0.02, "ridge_absolute": 10.0, "v_lr": 0.1}),
        ("pmet", "gpt-j-6b", {"v_steps": 30, "v_lr": 0.2, "kl_factor": 1.0, "nll_factor": 1.0}),
        ("ft-l", "gpt2-xl", {"layers": [0], "norm_constraint": 5e-4, "lr": 5e-4, "steps": 25, "batch_size": 128}),
        ("ft_l", "gpt-j-6b", {"norm_constraint": 5e-5, "objective": "prompt_last"}),
        ("ft_m", "llama-2-7b", {"layers": [21], "norm_constraint": False, "objective": "target_new"}),
        ("lora", "gpt2-xl", {"modules": ["c_attn"], "rank": 8, "alpha": 32.0, "lr": 5e-3, "steps": 30}),
        ("kn", "gpt2-xl", {"threshold": 0.2, "steps": 20, "lambda1": 2.0, "lambda2": 1.0, "site": "pre"}),
        ("kn", "gpt-j-6b", {"lambda1": 2.0, "lambda2": 1.0, "embed": "embed", "signed": False}),
        ("kn", "llama-2-7b", {"lambda1": 1.0, "lambda2": 1.0}),
        ("emmet", "gpt-j-6b", {"layers": [5], "mom2_weight": 1.0, "emmet_lambda": 0.1}),
        ("lora", "qwen2.5-7b", {"steps": 60, "rank": 8, "batch_size": 1}),
        ("t_patcher", "bart-base", {"margins": [0.0, 0.0, 0.0], "memory_weight": 10.0, "repeats": 8, "lr": 0.01}),
        ("t_patcher", "bert-base", {"margins": [0.0, 3.0, -3.0], "memory_weight": 5.0, "act_loss": "top5_exp"}),
        ("calinet", "t5-base", {"slots": 64, "start": "linear", "lr": 0.01, "steps": 5000, "kl_weight": 0.0}),
        ("grace", "gpt2-xl", {"layers": [35], "read": "mlp_in", "write": "pre", "replacement": "replace_prompt"}),
        ("grace", "gpt2-xl", {"radius": 1.0, "lr": 1.0, "steps": 100, "start": "cold", "compare": "mean"}),
        ("grace", "llama-2-7b", {"layers": [27], "read": "key", "write": "value", "steps": 50}),
        ("grace", "gpt-j-6b", {"layers": [25], "steps": 200, "replacement": "replace_last", "split": "half"}),
        ("mend", "gpt2-xl", {"layers": [45, 46, 47], "projections": ["down", "up"], "rate": 1e-4, "rank": 1920}),
        (
            "mend",
            "gpt-j-6b",
            {"layers": [25, 26, 27], "projections": ["up", "down"], "edit_weight": 0.1, "clip": 100.0},
        ),
        ("mend", "llama-2-7b", {"layers": [29, 30, 31], "projections": ["gate", "up", "down"], "lr": 1e-6}),
        ("malmen", "gpt-j-6b", {"layers": [22, 23, 24, 25, 26, 27], "edits": 512, "block": 32, "lr": 1e-5}),
        ("ke", "gpt2-xl", {"layers": [45, 46, 47], "lr": 1e-5, "edit_weight": 0.1, "hidden": 512, "width": 768}),
        ("ke", "bart-base", {"optimizer": "rmsprop", "lr": 3e-4, "rate_lr": 0.1, "margin": 1e-3, "hidden": 128}),
        ("rledit", "llama-3-8b", {"rank": 1024, "blocks": 4, "depth": 10, "retention": 0.95, "edits": 20}),
        ("serac", "gpt2-xl", {"threshold": 0.5, "output": "soft", "known_by": "words"}),
        ("ike", "gpt-j-6b", {"variant": "original", "demonstrations": 32, "ratio": [1, 3, 4], "seed": 42}),
        ("ike", "gpt2-xl", {"variant": "easyedit", "demonstrations": 16, "router": "nearest"}),
        ("rase", "gpt2-xl", {"routing": {"threshold": 0.9, "margin": 0.15, "deviation": 0.05, "top": 6}}),
        ("wise", "gpt2-xl", {"layers": [8], "site": "up", "steps": 40, "threshold": 0.8, "density": 0.2}),
        ("wise", "gpt-j-6b", {"layers": [21], "alpha": 15.0, "beta": 40.0, "gamma": 20.0}),
        ("wise", "llama-2-7b", {"layers": [27], "site": "down", "steps": 70, "threshold": 0.88, "save_freq": 500}),
        ("wise", "llama-3-8b", {"layers": [29], "lr": 0.9, "steps": 30, "alpha": 2.0, "threshold": 0.5}),
    ],
)
def test_numbers_of_the_published_files(method: str, name: str, expected: dict[str, Any]) -> None:
    found = published(method, name)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(("name", "method"), EVERY)
def test_every_file_is_where_it_is_said_to_be(name: str, method: str) -> None:
    """Json files of ROME, MEMIT and FT are of the authors' repositories; EasyEdit, GRACE, MALMEN, RLEdit have yaml."""
    source = published_section(method, name).source
    assert source.file.endswith(".yaml") == (
        source.repository in ("zjunlp/EasyEdit", "Thartvigsen/GRACE", "ChenmienTan/malmen", "leo-liuzy/RLEdit")
    )


def test_what_is_given_out_is_one_s_own(tiny: Callable[[str], Model]) -> None:
    published("rome", "gpt2-xl")["layers"].append(3)
    assert published("rome", "GPT2-XL")["layers"] == [17]


def test_unknown_models_and_methods_are_told_what_there_is(tiny: Callable[[str], Model]) -> None:
    with pytest.raises(TracerError, match=r"published for .*gpt2, 4 layers, 32 wide, MLP 64.*gpt-j-6b.*qwen2.5-7b"):
        published("rome", tiny("gpt2"))
    with pytest.raises(
        TracerError, match=r"published for 'gpt2-tiny'; there are some for bart-base, bert-base, gpt-j-6b"
    ):
        published("rome", "gpt2-tiny")
    with pytest.raises(
        TracerError, match=r"for gpt2-medium rome, ft_l are published, not 'memit'; .* gpt-j-6b, gpt2-xl"
    ):
        published("memit", "gpt2-medium")
    with pytest.raises(TracerError, match=r"for gpt2-medium rome, ft_l are published, not 'lens'$"):
        published("lens", "gpt2-medium")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text.replace('"source"', '"sauce"'),
        lambda text: text.replace('"n_layers": 24', '"n_layers": "24"'),
        lambda text: text.replace("kmeng01/rome", "kmeng01"),
    ],
)
def test_a_damaged_file_is_named(damage: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data" / "published"
    folder.mkdir(parents=True)
    text = files("editing").joinpath("data/published/gpt2-medium.json").read_text("utf-8")
    assert damage(text) != text
    (folder / "gpt2-medium.json").write_text(damage(text), encoding="utf-8")
    monkeypatch.setattr(module, "files", lambda _: tmp_path)
    with pytest.raises(TracerError, match=r"gpt2-medium\.json is damaged"):
        published("rome", "gpt2-medium")
