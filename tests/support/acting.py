"""What the tests of acting on neurons share: a prompt, neurons of the tiny models, and actions with their managers."""

from __future__ import annotations

import torch
from torch import Tensor

from tracer.engine.hooks import as_ids
from tracer.model import Model

TEXT = "The Space Needle is in"
NEURONS = [(2, 5), (0, 3), (0, 60), (3, 0)]
OTHER = [(1, 7), (3, 1), (0, 3)]


def logits(model: Model, text: str = TEXT) -> Tensor:
    with torch.no_grad():
        return model.hf(input_ids=as_ids(model, text)).logits
