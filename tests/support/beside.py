"""Memories of the kinds that stand beside MLPs, with drawn numbers, and what they are to add."""

from __future__ import annotations

import torch
from torch import Tensor
from toys import vectors

from editing.memories import Memory
from editing.memories.activations import activation
from editing.memories.lines import LINES, packed
from tracer import Model

KINDS = ("t_patcher", "calinet", "gated")
FACT = {"prompt": "The Space Needle is in", "target": " Paris", "subject": "The Space Needle"}


def beside(model: Model, kind: str, count: int = 2, layer: int | None = None, seed: int = 0) -> Memory:
    """A memory of a kind; "gated" is CaliNET's with gates, at two layers."""
    last = model.n_layers - 1 if layer is None else layer
    if kind == "t_patcher":
        keys, values = vectors(model, count, seed, 0.3), vectors(model, count, seed + 1, 1.0)
        lines = [{**FACT, "tokens": [7], "ids": [1, 2, 3]} for _ in range(count)]
        tensors = {"keys": keys, "biases": torch.linspace(-0.1, 0.2, count), "values": values, LINES: packed(lines)}
        header = {"layer": last, "activation": "gelu_new"}
        return Memory(kind, kind, model.weights_fingerprint(), tensors, header)
    gated, layers = kind == "gated", [last - 1, last] if kind == "gated" else [last]
    parts = ("in", "out", "up") if gated else ("in", "out")
    names = [f"{part}.{at}" for at in layers for part in parts]
    tensors = {name: vectors(model, count, seed + place, 0.4) for place, name in enumerate(names)}
    row = {"ids": [1, 2, 3], "read": [2], "target": [7]}
    tensors[LINES] = packed([{"slots": count, "facts": [FACT], "rows": [row]}] if count else [])
    header = {"layers": layers, "activation": "gelu_new" if gated else "relu", "gated": gated}
    return Memory("calinet", "calinet", model.weights_fingerprint(), tensors, header)


def added(memory: Memory, layer: int, x: Tensor) -> Tensor:
    """What a memory adds to the contribution of a layer's MLP for what enters that; by the formulas of the papers."""
    own, act = memory.tensors, activation(memory.header["activation"])
    if memory.kind == "t_patcher":
        rows = zip(own["keys"], own["biases"], own["values"], strict=True)
        return sum((act((x * key).sum(-1) + bias).unsqueeze(-1) * value for key, bias, value in rows), torch.zeros(1))
    found = torch.zeros(1)
    for slot in range(len(own[f"in.{layer}"])):
        one = act((x * own[f"in.{layer}"][slot]).sum(-1))
        one = one * (x * own[f"up.{layer}"][slot]).sum(-1) if memory.header["gated"] else one
        found = found + one.unsqueeze(-1) * own[f"out.{layer}"][slot]
    return found
