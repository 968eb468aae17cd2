"""Files that earlier versions wrote, in ``tests/earlier``, and the model they are of.

They were made on the tiny GPT-2 with weights from a stream that is the same everywhere, so that the model is too:
an edit by ROME, a ledger of two edits of which the second was undone, and a sequential run of AlphaEdit that was cut
off after two of four edits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from handmade import own

from tracer.model import Model

EARLIER = Path(__file__).with_name("earlier")
OPTIONS: dict[str, Any] = {
    "layers": [1],
    "nullspace_share": 0.5,
    "v_steps": 2,
    "context_templates": ["{}"],
    "v_lr": 0.5,
    "clamp": 0.7,
    "v_weight_decay": 0.1,
    "texts": False,
    "generate": False,
    "canary_tokens": 0,
    "controls": (),
    "answer_cases": 0,
}


def earlier_model(tiny: Callable[[str], Model]) -> Model:
    """The model of the files, anew each time."""
    model = replace(own(tiny("gpt2")), name="tiny-gpt2")
    draw = np.random.RandomState(0)
    with torch.no_grad():
        for _, weight in sorted(model.hf.named_parameters()):
            weight.copy_(torch.from_numpy(draw.randint(-64, 65, weight.shape) / 256))
    return model
