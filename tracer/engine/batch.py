"""Rows of ids that share a forward, filled up on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tracer.progress import track

from .forward import Stop
from .frame import Frame, attach, evaluating
from .memories import decided, forward
from .row_budget import default_rows, fitting

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True)
class Row:
    """One text.

    Attributes:
        ids: the prompt and all but the last of the target's tokens.
        lookup: the token whose key and value are edited.
        read: positions whose logits are scored.
        target: ids that are to follow there; empty for a row whose distribution is to stay.
    """

    ids: tuple[int, ...]
    lookup: int
    read: tuple[int, ...]
    target: tuple[int, ...] = ()

    def prompt(self, causal: bool) -> tuple[int, ...]:
        """The ids before the target: up to where reading begins, or all of a masked model's."""
        return self.ids[: self.read[0] + 1] if causal else self.ids


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Ids [rows, tokens] on the CPU, filled up on the right, where a causal model never looks."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = torch.as_tensor(row)
    return ids


def padded(model: Model, rows: Sequence[Row]) -> Tensor:
    """Ids [rows, tokens] of rows, filled up on the right, on the model's device."""
    return pad([row.ids for row in rows]).to(model.device)


def frame_of(model: Model, rows: Sequence[Row], tokens: int) -> Frame | None:
    """Frame of a forward over the first `tokens` of rows that are filled up on the right; None without memories."""
    frame = decided(model, [row.prompt(model.causal) for row in rows])
    return frame and frame.at(tokens, lengths=[len(row.ids) for row in rows])


def logits_of(model: Model, ids: Tensor, real: Tensor | None = None, frame: Frame | None = None) -> Tensor:
    """Logits [rows, tokens, V] of one forward, through whatever hooks are attached; no keys and values are kept.

    real: [rows, tokens] bool, which ids are not padding; None: all, or padding that is never looked at.
    frame: where memories are attached, of rows that are more than their prompts (`decided`).
    """
    arguments: dict[str, Any] = {}
    if real is not None:
        arguments["attention_mask"] = real.long().to(model.device)
    if model.causal:
        arguments["use_cache"] = False
    return forward(model, ids.to(model.device), frame, **arguments).logits


def states_at_lookups(
    model: Model, rows: Sequence[Row], places: Sequence[tuple[str, int]], *, max_rows: int | None = None
) -> dict[tuple[str, int], Tensor]:
    """States at each row's lookup token, [rows, width] by (kind, layer), in one forward that ends after the last.

    Rows are run in batches of similar length; tokens after the longest prompt's lookup are left out.
    """
    longest = max(row.lookup for row in rows) + 1
    step = max_rows or default_rows(model, longest, 1)
    return fitting(lambda most: _states(model, rows, places, most), min(step, len(rows)))


def _states(
    model: Model, rows: Sequence[Row], places: Sequence[tuple[str, int]], step: int
) -> dict[tuple[str, int], Tensor]:
    order = sorted(range(len(rows)), key=lambda i: rows[i].lookup)
    found: dict[tuple[str, int], Tensor] = {}
    last = max(layer for _, layer in places)

    def keep(place: tuple[str, int], some: list[int]) -> Callable[[Tensor], None]:
        def edit(state: Tensor) -> None:
            at = torch.tensor([rows[i].lookup for i in some], device=state.device)
            picked = state[torch.arange(len(some), device=state.device), at]
            if place not in found:
                found[place] = picked.new_empty(len(rows), picked.shape[-1])
            found[place][torch.tensor(some, device=state.device)] = picked

        return edit

    def stop(*_: object) -> None:
        raise Stop

    with torch.no_grad(), evaluating(model):
        starts = range(0, len(rows), step)
        for start in track(starts, "keys and values", len(starts)):
            some = order[start : start + step]
            width = max(rows[i].lookup for i in some) + 1
            ids = padded(model, [rows[i] for i in some])
            ids = ids if model.style == "seq2seq" else ids[:, :width]  # where a row has a second part
            frame = frame_of(model, [rows[i] for i in some], ids.shape[1]) or Frame(ids.shape[1])
            handles = [attach(model, kind, layer, keep((kind, layer), some), frame) for kind, layer in places]
            block: nn.Module = model.module("hidden", last)
            handles.append(block.register_forward_hook(stop))
            try:
                forward(model, ids, frame)
            except Stop:
                pass
            finally:
                for handle in handles:
                    handle.remove()
    return found
