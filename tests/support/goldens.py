"""What the published editing code gave on the golden model: its arrays, its requests, and how far ours are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from editing.methods.published_settings import published

Arrays = dict[str, Any]


def arrays(path: Path) -> Arrays:
    """The arrays of an npz file, by name."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def cases(golden: Path) -> dict[str, Any]:
    """The requests and the hyper-parameters, by method, that the published code was run with."""
    return json.loads((golden / "edits" / "cases.json").read_text())


def settings(method: str, like: str, **numbers: Any) -> dict[str, Any]:
    """The published settings of a method for the model ``like``, with what depends on the model's size put for it."""
    found = published(method, like)
    unknown = set(numbers) - {*found, "covariance", "context_templates", "earlier"}
    assert not unknown, f"{unknown} is nothing that is published for {method}"
    return {**found, **numbers}


def relative(found: Any, expected: Any) -> float:
    """Length of the difference, in lengths of what is expected."""
    a, b = (torch.tensor(np.asarray(each)).double().squeeze() for each in (found, expected))
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).norm() / b.norm())
