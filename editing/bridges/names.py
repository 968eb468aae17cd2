"""Names of hyper-parameters in other tools' files, their names here, and what the other tools' code has fixed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_VALUE = {
    "layers": "layers",
    "fact_token": "fact_token",
    "v_num_grad_steps": "v_steps",
    "v_lr": "v_lr",
    "v_loss_layer": "v_loss_layer",
    "v_weight_decay": "v_weight_decay",
    "clamp_norm_factor": "clamp",
    "kl_factor": "kl_factor",
}
_ROME = {**_VALUE, "mom2_adjustment": "mom2_adjustment", "context_template_length_params": "template_lengths"}
_SPREAD = {**_VALUE, "mom2_update_weight": "mom2_weight"}
_TRAINED = {"layers": "layers", "num_steps": "steps", "batch_size": "batch_size", "lr": "lr"}
_FT = {**_TRAINED, "weight_decay": "weight_decay", "norm_constraint": "norm_constraint"}

_TOGETHER = {"template_lengths": [[10, 5]], "same_key": "together"}

METHOD_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "ROME": "rome",
        "R-ROME": "r_rome",
        "MEMIT": "memit",
        "EMMET": "emmet",
        "PMET": "pmet",
        "ALPHAEDIT": "alphaedit",
        "FT": "ft",
        "LORA": "lora",
        "GRACE": "grace",
        "WISE": "wise",
    }
)
"""Methods here by their names in files; "ft" is one of two, by its objective."""

OPTIMIZES: Mapping[str, str] = MappingProxyType({"prompt_last": "ft_l", "target_new": "ft_m"})

NAMES: Mapping[str, Mapping[str, str | tuple[str, ...]]] = MappingProxyType(
    {
        "rome": _ROME,
        "r_rome": _ROME,
        "memit": _SPREAD,
        "emmet": {**_SPREAD, "emmet_lambda": "emmet_lambda"},
        "pmet": {**_SPREAD, "nll_loss_factor": "nll_factor"},
        "alphaedit": {**_VALUE, "nullspace_threshold": "nullspace_threshold", "L2": "ridge_absolute"},
        "ft_l": _FT,
        "ft_m": _FT,
        "lora": {
            **_TRAINED,
            "weight_decay": "weight_decay",
            "rank": "rank",
            "lora_alpha": "alpha",
            "lora_dropout": "dropout",
            "target_modules": "modules",
        },
        "grace": {
            "edit_lr": "lr",
            "n_iter": "steps",
            "eps": "radius",
            "val_init": "start",
            "replacement": "replacement",
            "eps_expand": "expand",
        },
        "wise": {
            "mask_ratio": "density",
            "edit_lr": "lr",
            "n_iter": "steps",
            "norm_constraint": "norm_constraint",
            "act_margin": ("alpha", "beta", "gamma"),
            "act_ratio": "threshold",
            "save_freq": "save_freq",
            "merge_freq": "merge_freq",
            "densities": "merge_density",
        },
    }
)
"""By method here: names in the file, and the setting or settings that each is."""

FIXED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "memit": _TOGETHER,
        "emmet": _TOGETHER,
        "pmet": _TOGETHER,
        "alphaedit": _TOGETHER,
        "ft_l": {"objective": "prompt_last", "stop_loss": 0.01},
        "ft_m": {"objective": "target_new", "stop_loss": 0.01},
        "lora": {"stop_loss": 0.0},
        "grace": {"key_token": "last", "compare": "mean", "overwrite": False, "split": "half", "stop_loss": 0.0},
        "wise": {"rule": "published", "weight_decay": 1e-5},
    }
)
"""Settings that are in the code of the other tools and not in their files."""

IGNORED = frozenset(
    {
        *("alg_name", "model_name", "stats_dir", "device", "model_parallel", "fp16", "max_length", "P_loc"),
        *("rewrite_module_tmp", "rewrite_module_tmps", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp"),
        *("ln_f_module", "lm_head_module", "layer_selection", "objective_optimization"),
        *("mom2_dataset", "mom2_n_samples", "mom2_dtype"),
    }
)
"""Names that say where something lies in one model or machine, or which covariance is used: that is found or given
here. Others without a counterpart are told as `left_out`."""
