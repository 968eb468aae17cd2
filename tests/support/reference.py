"""The plain way to trace: one site per forward, all rows, all tokens, all logits, hooks straight on the modules.

Slow and obvious. It is what the branched sweep is checked against, and timed against in ``benchmarks/trace.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tracer.model import Model


def run(
    model: Model,
    ids: Sequence[int],
    span: tuple[int, int],
    noise: Callable[[], np.ndarray] | None,
    restored: Sequence[tuple[str, int, int]],
    read: Sequence[int],
    answer: Sequence[int],
    rows: int,
) -> float:
    """Mean probability of ``answer``, over all rows but the first, after restoring the sites ``restored`` (kind, layer,
    token) to the first row's states. ``noise`` gives [rows - 1, span, d], which all rows but the first have added."""
    handles = []

    def corrupt(_: Any, __: Any, output: Tensor) -> None:
        assert noise is not None
        output[1:, span[0] : span[1]] += torch.from_numpy(noise()).to(output.device)

    def restore(token: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            state = output if isinstance(output, Tensor) else output[0]
            state = state.view(rows, len(ids), -1)
            state[1:, token] = state[0, token]

        return hook

    try:
        if noise is not None:
            handles.append(model.module("embed").register_forward_hook(corrupt))
        for kind, layer, token in restored:
            handles.append(model.module(kind, layer).register_forward_hook(restore(token)))
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([list(ids)] * rows, device=model.device)).logits
    finally:
        for handle in handles:
            handle.remove()
    p = torch.softmax(logits[1:, list(read)], dim=-1)
    return float(torch.stack([p[:, i, token] for i, token in enumerate(answer)]).prod(0).double().mean())


def trace(
    model: Model,
    ids: Sequence[int],
    span: tuple[int, int],
    noise: Callable[[], np.ndarray],
    read: Sequence[int],
    answer: Sequence[int],
    *,
    kind: str,
    window: int = 10,
    tokens: Sequence[int],
) -> tuple[np.ndarray, float, float]:
    """Scores [tokens, layers], clean and corrupted score."""
    n, rows = model.n_layers, 1 + len(noise())

    def score(noise: Callable[[], np.ndarray] | None, restored: Sequence[tuple[str, int, int]]) -> float:
        return run(model, ids, span, noise, restored, read, answer, rows)

    scores = np.empty((len(tokens), n))
    for row, token in enumerate(tokens):
        for layer in range(n):
            around = range(max(0, layer - window // 2), min(n, layer - (-window // 2)))
            layers = [layer] if kind == "hidden" else around
            scores[row, layer] = score(noise, [(kind, i, token) for i in layers])
    return scores, score(None, []), score(noise, [])
