"""Hyper-parameter files of EasyEdit (yaml) and of the ROME and MEMIT repositories (json), as settings.

A file says less than its code does: how contexts are drawn, where a codebook's key is read, when a training ends. What
the code has fixed comes with it, so that the settings are those of the published method and not of the one here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editing.methods.compute import method_named, settings_of
from tracer.errors import HyperparameterError

from .names import FIXED, IGNORED, METHOD_NAMES, NAMES, OPTIMIZES

NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # yaml 1.1 reads 5e-1 as a text, for want of a dot
INNER = re.compile(r"\w*(?:h|layers|block)[.\[](\d+)\]?\..*?(\w+)\.weight$")
UP = ("c_fc", "fc_in", "up_proj", "gate_proj", "wi", "wi_0", "fc1")


@dataclass(frozen=True)
class Hparams:
    """Hyper-parameters of a file: `compute_edit(model, request, found.method, **found.settings)`.

    Attributes:
        method: its name here.
        model: what the file calls its model; "" where it names none.
        settings: by their names here.
        left_out: values by their names in the file that mean nothing here, or say the same for every model.
    """

    method: str
    model: str
    settings: Mapping[str, Any]
    left_out: Mapping[str, Any] = field(default_factory=dict)


def read_hparams(path: str | Path, method: str | None = None) -> Hparams:
    """Read a hyper-parameter file: ROME, R-ROME, MEMIT, EMMET, PMET, AlphaEdit, FT, LoRA, GRACE or WISE.

    Args:
        path: a yaml file of EasyEdit (`hparams/ROME/gpt2-xl.yaml`) or a json file of ROME or MEMIT.
        method: whose it is; None: what the file says as alg_name, or else the name of its folder.

    Raises:
        TracerError: a file that cannot be read, a method without a counterpart, a value that it cannot have here.
    """
    path = Path(path)
    given = _values(path)
    told = str(method or given.get("alg_name") or path.parent.name)
    name = METHOD_NAMES.get(told.upper().replace("_", "-"))
    if name is None:
        raise HyperparameterError(
            f"{path} is of {told!r}, whose hyper-parameters cannot be read; expected one of {', '.join(METHOD_NAMES)}. "
            "Name the method if the file does not"
        )
    if name == "ft":
        name = _fine_tuning(path, given)
    settings, left_out = dict(FIXED.get(name, {})), {}
    for key, value in given.items():
        known = NAMES[name].get(key)
        if key == "inner_params":
            settings |= _place(path, name, value)
        elif isinstance(known, str):
            settings[known] = value
        elif known is not None:
            settings |= dict(zip(known, value, strict=True))
        elif key not in IGNORED:
            left_out[key] = value
    settings_of(method_named(name), settings)  # TracerError for what cannot be
    return Hparams(name, str(given.get("model_name", "")), settings, left_out)


def _values(path: Path) -> dict[str, Any]:
    import yaml

    readers: dict[str, Callable[[str], Any]] = {".json": json.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}
    if path.suffix.lower() not in readers:
        raise HyperparameterError(f"{path} is no file of hyper-parameters; expected a .yaml or .json file")
    try:
        found = readers[path.suffix.lower()](path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise HyperparameterError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise HyperparameterError(
            f"{path} holds no names with values; expected those of hparams/ROME/gpt2-xl.yaml, say"
        )
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    return None if value == "None" else value


def _fine_tuning(path: Path, given: Mapping[str, Any]) -> str:
    """FT-L or FT-M, by what is optimised."""
    told = given.get("objective_optimization", "prompt_last")
    if told not in OPTIMIZES:
        raise HyperparameterError(
            f"{path} has the objective {told!r}, unknown to fine-tuning here; expected {' or '.join(OPTIMIZES)}"
        )
    return OPTIMIZES[told]


def _place(path: Path, name: str, value: Any) -> dict[str, Any]:
    """Layers and sites of one weight that is named in the file."""
    found = INNER.search(str(value[0])) if isinstance(value, list) and len(value) == 1 else None
    if found is None or name not in ("grace", "wise"):
        raise HyperparameterError(
            f"{path} edits {value!r}; expected one weight of an MLP, such as transformer.h[35].mlp.c_fc.weight"
        )
    before = found[2] in UP  # the MLP's first matrix, whose output is the activation's input
    if name == "wise":
        return {"layers": [int(found[1])], "site": "up" if before else "down"}
    sites = {"read": "mlp_in", "write": "pre"} if before else {"read": "key", "write": "value"}
    return {"layers": [int(found[1])], **sites}
