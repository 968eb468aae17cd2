"""Results made by hand, for tests of what is drawn, written and printed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracer.neurons.attribution import NeuronAttribution
from tracer.neurons.effects import NeuronEffects
from tracer.tracing.average_trace import AverageTrace
from tracer.tracing.trace import CausalTrace

SPACE_NEEDLE = ("The", " Space", " Need", "le", " is", " in", " downtown")


def synthetic_trace(
    kind: str = "hidden",
    tokens: tuple[str, ...] = SPACE_NEEDLE,
    subject_range: tuple[int, int] = (0, 4),
    layers: tuple[int, ...] = tuple(range(8)),
    positions: tuple[int, ...] | None = None,
    **fields: Any,
) -> CausalTrace:
    """An early site at the last subject token and a late one at the last token; corrupted 0.2, clean 0.9."""
    positions = tuple(range(len(tokens))) if positions is None else positions
    scores = np.full((len(positions), len(layers)), 0.2)
    for row, position in enumerate(positions):
        for column, layer in enumerate(layers):
            if position == subject_range[1] - 1 and kind != "attn":
                scores[row, column] = 0.2 + 0.5 * 0.8 ** abs(layer - 2)
            if position == len(tokens) - 1 and kind != "mlp":
                scores[row, column] = 0.2 + 0.1 * layer
    default: dict[str, Any] = {
        "scores": scores,
        "clean": 0.9,
        "corrupted": 0.2,
        "answer": " Seattle",
        "tokens": tokens,
        "subject_range": subject_range,
        "kind": kind,
        "window": 3,
        "layers": layers,
        "positions": positions,
        "metric": "prob",
        "prompt": "".join(tokens),
        "subject": "".join(tokens[slice(*subject_range)]).strip(),
        "model": "factworld",
        "n_layers": max(8, max(layers) + 1),
        "fingerprint": "0" * 64,
        "corruption": {"name": "GaussianNoise", "sigma": 3.0, "level": 0.1, "samples": 10, "seed": 1},
    }
    return CausalTrace(**(default | fields))


def synthetic_average(kind: str = "hidden", layers: tuple[int, ...] = tuple(range(8)), **fields: Any) -> AverageTrace:
    """An early site of the last subject token and a late one of the last token; intervals 0.04 to either side."""
    effect = np.zeros((6, len(layers)))
    effect[1] = 0.02
    effect[2] = [0.5 * 0.8 ** abs(layer - 2) for layer in layers]
    effect[5] = [0.06 * layer for layer in layers]
    effect = fields.pop("effect", effect)
    default: dict[str, Any] = {
        "effect": effect,
        "low": effect - 0.04,
        "high": effect + 0.04,
        "scores": effect + 0.2,
        "tokens": np.array([97, 141, 97, 95, 233, 97]),
        "clean": 0.9,
        "corrupted": 0.2,
        "total_effect": 0.7,
        "total_low": 0.65,
        "total_high": 0.74,
        "facts": 97,
        "subjects": 80,
        "unknown": ("one", "two", "three"),
        "layers": layers,
        "n_layers": max(8, max(layers) + 1),
        "kind": kind,
        "window": 3,
        "metric": "prob",
        "sever": None,
        "method": "exact",
        "model": "factworld",
        "fingerprint": "0" * 64,
        "corruption": {"name": "GaussianNoise", "sigma": 3.0},
    }
    return AverageTrace(**(default | fields))


def synthetic_attribution(n_layers: int = 8, width: int = 1000, seed: int = 1, **fields: Any) -> NeuronAttribution:
    """Scores near zero but for three neurons of layer 5: 10 (score 0.5), 11 (0.3), 999 (0.2, the last)."""
    random = np.random.default_rng(seed)
    scores = random.uniform(0, 0.001, (n_layers, width))
    if n_layers > 5 and width > 11:
        scores[5, [10, 11, width - 1]] = 0.5, 0.3, 0.2
    default: dict[str, Any] = {
        "scores": scores,
        "activations": random.normal(size=(n_layers, width)),
        "method": "integrated_gradients",
        "site": "post",
        "steps": 20,
        "rule": "midpoint",
        "full": 0.9,
        "zero": np.full(n_layers, 0.1),
        "answer": " Seattle",
        "prompt": "".join(SPACE_NEEDLE),
        "subject": "The Space Needle",
        "tokens": SPACE_NEEDLE,
        "positions": (6,),
        "model": "factworld",
        "n_layers": n_layers,
        "fingerprint": "0" * 64,
    }
    return NeuronAttribution(**(default | fields))


def synthetic_effects(action: str = "suppress", neighbours: int = 3, **fields: Any) -> NeuronEffects:
    """Before 0.8 everywhere; after 0.2 at the fact and 0.72 at neighbours; four random draws around 0.8."""
    count = 1 + neighbours
    default: dict[str, Any] = {
        "action": action,
        "factor": 2.0,
        "value": 0.0,
        "neurons": ((5, 10), (5, 11)),
        "other_neurons": ((4, 1),),
        "facts": ("".join(SPACE_NEEDLE), *(f"Neighbour {i} is in" for i in range(neighbours))),
        "answers": (" Seattle",) * count,
        "before": np.full(count, 0.8),
        "after": np.array([0.2] + [0.72] * neighbours),
        "random": np.tile([0.76, 0.8, 0.8, 0.92], (count, 1)),
        "other": np.full(count, 0.76),
        "subject": "The Space Needle",
        "tokens": "answer",
        "site": "post",
        "seed": 0,
        "model": "factworld",
        "fingerprint": "0" * 64,
    }
    return NeuronEffects(**(default | fields))
