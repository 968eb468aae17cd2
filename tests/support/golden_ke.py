"""The golden KE editor: the published net with fixed parameters."""

from __future__ import annotations

import torch
from golden_meta import keys
from goldens import Arrays
from torch import nn

from editing.methods.meta.condition import Conditions, Reader
from editing.methods.meta.ke import Hyper, Ke
from editing.methods.meta.places import places_of
from tracer.model import Model

OWN = {
    "reader.": "",
    "conditioners.": "",
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}


def theirs(name: str) -> str:
    """The file's name of a parameter."""
    for own, other in OWN.items():
        name = name.replace(own, other)
    return name.replace(".", "/")


def ke(model: Model, given: Arrays, condition: str) -> Ke:
    """The golden editor, which is told of requests in one of two ways."""
    places = places_of(model, keys(given))
    hidden, width = int(given["hidden"]), int(given["condition"])
    net = Hyper(places, Reader(model.d_model, hidden, width), width, hidden)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(torch.tensor(given[theirs(name)]))
    return Ke(places, net, Conditions(condition), float(given["max_scale"]))


def grads(net: nn.Module) -> dict[str, torch.Tensor]:
    """Gradients by the file's names."""
    found = {}
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        found[f"grad/{theirs(name)}"] = parameter.grad
    return found
