"""What the tests of closed forms share: requests, quick settings, and what an edit changed."""

from __future__ import annotations

from typing import Any

import checkpoints
from torch import Tensor

from editing.edits.edit import Edit
from editing.request import EditRequest
from tracer.model import Model

CAUSAL = tuple(name for name in checkpoints.ARCHITECTURES if name != "bert")
SPREAD = ("memit", "emmet", "alphaedit", "pmet")
TEXT = [" ".join(checkpoints.SENTENCES[:5])] * 8 + [f"{i} is {i * i}, a b c d {chr(97 + i % 26)}" for i in range(200)]
SEVERAL = (
    EditRequest("{} is in downtown", "The Space Needle", "Paris"),
    EditRequest("In {} they speak", "Uppsala", "the cello"),
    EditRequest("{} plays the", "Miles Davis", "tower"),
)
QUICK: dict[str, Any] = {
    "v_steps": 4,
    "v_lr": 0.3,
    "v_weight_decay": 0.1,
    "clamp": 4.0,
    "context_templates": ["{}", "It is said. {}"],
    "damping": 0.01,
    "known": "edit",
}


def evidence(edit: Edit, name: str) -> Tensor:
    assert edit.evidence is not None
    return edit.evidence[name].double()


def change(edit: Edit, model: Model, layer: int) -> Tensor:
    """The change of a layer, [d_mlp, d_model]."""
    down = model.down_projection(layer)
    dense = edit.to_dense()[down.name].double()
    assert dense.shape == down.weight.shape
    return dense if down.orientation == "in_out" else dense.T


OWN: dict[str, dict[str, Any]] = {
    "memit": {"mom2_weight": 50.0},
    "pmet": {"mom2_weight": 50.0},
    "emmet": {"emmet_lambda": 0.2},
    "alphaedit": {"nullspace_threshold": 0.05, "ridge_absolute": 0.3},
}
