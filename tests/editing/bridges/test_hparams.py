"""Hyper-parameter files of other tools give the settings that were published; what they cannot mean is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import editing
from editing.bridges import read_hparams
from tracer import TracerError

VALUE = {
    "layers": [17],
    "fact_token": "subject_last",
    "v_num_grad_steps": 20,
    "v_lr": "5e-1",
    "v_loss_layer": 47,
    "v_weight_decay": 0.5,
    "clamp_norm_factor": 4,
    "kl_factor": 0.0625,
}
SPREAD = {**VALUE, "layers": [13, 14, 15, 16, 17], "clamp_norm_factor": 0.75}
ROME = {**VALUE, "mom2_adjustment": True, "context_template_length_params": [[5, 10], [10, 10]]}
GRACE = {
    "inner_params": ["transformer.h[35].mlp.c_fc.weight"],
    "edit_lr": 1.0,
    "n_iter": 100,
    "eps": 1.0,
    "val_init": "cold",
    "replacement": "replace_prompt",
    "eps_expand": "coverage",
}
WISE = {
    "inner_params": ["model.layers[21].mlp.down_proj.weight"],
    "mask_ratio": 0.2,
    "edit_lr": 1.0,
    "n_iter": 70,
    "norm_constraint": 1.0,
    "act_margin": [15.0, 40.0, 20.0],
    "act_ratio": 0.88,
    "save_freq": 500,
    "merge_freq": 1000,
    "densities": 0.53,
}
LORA = {
    "layers": list(range(48)),
    "num_steps": 30,
    "batch_size": 1,
    "lr": "5e-3",
    "weight_decay": 0,
    "rank": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "target_modules": ["c_attn"],
}
FT = {"layers": [0], "num_steps": 25, "batch_size": 3, "lr": "5e-4", "weight_decay": 0, "norm_constraint": "5e-4"}
PMET = {**VALUE, "layers": [3, 4, 5, 6, 7, 8], "clamp_norm_factor": 0.75, "v_num_grad_steps": 30, "v_lr": 0.2}
PMET |= {"v_loss_layer": 27, "kl_factor": 1, "mom2_update_weight": 15000, "nll_loss_factor": 1}
FILES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "rome": ("ROME", "rome", "gpt2-xl", ROME),
    "r_rome": ("R-ROME", "r_rome", "gpt2-xl", ROME),
    "memit": ("MEMIT", "memit", "gpt2-xl", {**SPREAD, "mom2_update_weight": 20000}),
    "alphaedit": ("AlphaEdit", "alphaedit", "gpt2-xl", {**SPREAD, "nullspace_threshold": "2e-2", "L2": 10}),
    "pmet": ("PMET", "pmet", "gpt-j-6b", PMET),
    "grace": ("GRACE", "grace", "gpt2-xl", GRACE),
    "wise": ("WISE", "wise", "gpt-j-6b", WISE),
    "lora": ("LoRA", "lora", "gpt2-xl", LORA),
    "ft_m": ("FT", "ft_m", "gpt2-xl", {**FT, "objective_optimization": "target_new"}),
}


def plain(settings: Any) -> Any:
    return json.loads(json.dumps(settings), parse_int=float)


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_what_was_published(name: str, tmp_path: Path) -> None:
    told, method, model, content = FILES[name]
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump({"alg_name": told, "model_name": f"./{model}", "device": 0, **content}))
    found = read_hparams(path)
    assert (found.method, found.model, found.left_out) == (method, f"./{model}", {})
    assert plain(dict(found.settings)) == plain(editing.published(method, model))


def test_json_files_are_known_by_their_folder(tmp_path: Path) -> None:
    (tmp_path / "MEMIT").mkdir()
    path = tmp_path / "MEMIT" / "gpt2-xl.json"
    path.write_text(json.dumps({**SPREAD, "mom2_update_weight": 20000, "mom2_dataset": "wikipedia", "prefix": "none"}))
    found = read_hparams(path)
    assert found.method == "memit" and found.settings["mom2_weight"] == 20000 and found.left_out == {"prefix": "none"}
    assert read_hparams(path, "EMMET").settings["layers"] == SPREAD["layers"]


def test_settings_edit_a_model(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("alg_name: FT\nlayers: [1]\nnum_steps: 2\nlr: 1e-3\nnorm_constraint: false\n")
    found = read_hparams(path)
    request = editing.EditRequest("{} is in", "Rome", " Paris")
    edit = editing.compute_edit(tiny("gpt2"), request, found.method, check=None, **found.settings)
    assert edit.method == "ft_l" and edit.settings["layers"] == [1] and edit.settings["steps"] == 2
    assert edit.settings["norm_constraint"] is False


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("one.toml", "", "expected a .yaml or .json file"),
        ("one.json", "[1]", "holds no names with values"),
        ("one.json", "{", "cannot be read"),
        ("one.yaml", "a: [", "cannot be read"),
        ("one.yaml", "alg_name: MEND\n", "is of 'MEND', .* expected one of ROME, R-ROME, MEMIT"),
        ("one.yaml", "alg_name: FT\nobjective_optimization: prompt\n", "expected prompt_last or target_new"),
        ("one.yaml", "alg_name: GRACE\ninner_params: [a.weight]\n", "expected one weight of an MLP"),
        (
            "one.yaml",
            "alg_name: ROME\nlayers: [1]\nv_num_grad_steps: many\n",
            "rome: must be real number, not str",
        ),
    ],
)
def test_what_cannot_be_read_is_said(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TracerError, match=message):
        read_hparams(tmp_path / name)
