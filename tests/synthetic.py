"""Traces made by hand, for tests of what is drawn, written and printed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracer.result import CausalTrace

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
