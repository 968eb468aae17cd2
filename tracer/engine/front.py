"""Vectors in front of a prompt, at the entrance of the first block, as rows that the model reads like tokens.

The prompt is run with as many placeholders before it, whose states are replaced. Where a model adds a learned vector
for each absolute position, the prompt keeps those it had by itself and the vectors have none; where positions are
rotary, or a bias of attention, it moves by as many places. In a cache there are the vectors' keys and values, so that
they are given once, and every token behind them is at the same place whether it is forced or written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batch import Row, pad
from .forward import Stop
from .frame import Frame, attach, evaluating
from .hooks import pick_logits
from .memories import forward, resting

if TYPE_CHECKING:
    from tracer.model import Model

ENTRANCE = ("entering", 0)
PROBES = 5, 11  # tokens that the vectors of positions are read off
_CLOSE = 1e-4  # of the largest


def position_vectors(model: Model) -> Tensor | None:
    """What a model adds to the state that enters its first block for each position, less that of position 0.

    It is measured: one token at every place, and another one, whose states must differ from place to place alike.

    Args:
        model: of tokens; its memories rest meanwhile.

    Returns:
        [n_ctx, d_model] float32; None: positions are added nowhere there, or not as a vector of their own.
    """
    found: list[Tensor] = []
    frame = Frame(model.n_ctx)

    def stop(state: Tensor) -> None:
        found.append(state.detach().float())
        raise Stop

    ids = torch.tensor(PROBES, device=model.device).remainder(model.n_tokens).unsqueeze(1).expand(-1, model.n_ctx)
    with ExitStack() as stack:
        stack.enter_context(resting(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(model))
        stack.callback(attach(model, *ENTRANCE, stop, frame).remove)
        with suppress(Stop):
            forward(model, ids, frame, use_cache=False)
    moved = found[0] - found[0][:, :1]
    size = float(moved.abs().max())
    close = 2 * torch.finfo(model.dtype).eps * float(found[0].abs().max())
    if size <= close or float((moved[0] - moved[1]).abs().max()) > max(_CLOSE * size, close):
        return None
    return moved[0]


def with_front(
    state: Tensor, vectors: Tensor, columns: Tensor, positions: Tensor | None, counts: Tensor | None = None
) -> Tensor:
    """The state that enters the first block, with vectors in the place of the first tokens of each row.

    Args:
        state: [rows, tokens, d], whose first tokens are placeholders.
        vectors: [rows, P, d].
        columns: which of its row's tokens each is, [rows, tokens]; negative: padding.
        positions: of `position_vectors`.
        counts: how many of the vectors each row has, the first ones, [rows]; None: all.
    """
    most = vectors.shape[1]
    if not most:
        return state
    count = columns.new_full((len(state),), most) if counts is None else counts
    count = count.unsqueeze(1)
    moved = state
    if positions is not None:
        last = len(positions) - 1
        shift = positions[(columns - count).clamp(0, last)] - positions[columns.clamp(0, last)]
        moved = torch.where((columns >= count).unsqueeze(-1), (state + shift).to(state.dtype), state)
    rows = torch.arange(len(state), device=state.device).unsqueeze(1)
    put = vectors[rows, columns.clamp(0, most - 1)].to(state.dtype)
    return torch.where(((columns >= 0) & (columns < count)).unsqueeze(-1), put, moved)


def logits_with_front(
    model: Model, rows: Sequence[Row], vectors: Tensor, positions: Tensor | None, counts: Sequence[int] | None = None
) -> Tensor:
    """Logits [places of all rows together, V] with vectors in front of each row; gradients flow to the vectors.

    Args:
        model: at rest.
        rows: their ids, and the places that are read.
        vectors: [rows, P, d].
        positions: of `position_vectors`.
        counts: vectors of each row; None: all.
    """
    counts = [vectors.shape[1]] * len(rows) if counts is None else list(counts)
    ids = pad([(row.ids[0],) * count + row.ids for row, count in zip(rows, counts, strict=True)]).to(model.device)
    lines = torch.tensor([line for line, row in enumerate(rows) for _ in row.read])
    places = torch.tensor([at + count for row, count in zip(rows, counts, strict=True) for at in row.read])
    columns = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    own = torch.tensor(counts, device=ids.device)
    positions = None if positions is None else positions.to(ids.device)

    def put(state: Tensor) -> Tensor:
        return with_front(state, vectors, columns, positions, own)

    with ExitStack() as stack:
        stack.enter_context(resting(model))
        stack.callback(attach(model, *ENTRANCE, put, Frame(ids.shape[1])).remove)
        stack.callback(pick_logits(model, lines, places).remove)
        return forward(model, ids, Frame(ids.shape[1]), use_cache=False).logits[0].float()
