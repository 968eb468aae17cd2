"""Prompts as a model runs them for an edit: where the subject's key lies, what is scored and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tracer.answers import Readout
from tracer.chat import chat_of
from tracer.errors import TracerError
from tracer.forward import Stop
from tracer.hooks import Frame, attach, evaluating
from tracer.progress import track
from tracer.sweep import default_rows
from tracer.tokens import Fact

from .contexts import Templates, fill
from .request import EditRequest

if TYPE_CHECKING:
    from tracer.model import Model
    from tracer.tokens import Alignment

TOKENS = ("subject_last", "subject_first", "subject_first_after_last", "last")


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


def lookup(found: Alignment, token: str) -> int:
    """The token of an aligned fact that the published option ``token`` (``fact_token``) names."""
    start, end = found.subject_range
    last = len(found.input_ids) - 1
    if token == "subject_last":
        return end - 1
    if token == "subject_first":
        return start
    if token == "subject_first_after_last":
        return min(end, last)
    if token == "last":
        return last
    raise TracerError(f"fact_token is {token!r}; expected one of {', '.join(TOKENS)}")


def rewriting_rows(model: Model, request: EditRequest, templates: Templates, token: str) -> list[Row]:
    """The request in every context, the bare one first, its target scored."""
    rows, chat = [], chat_of(model)
    for template in (text for kind in templates for text in kind):
        found = replace(request.fact, prompt=fill(template, request.prompt, chat)).align(model)
        readout = Readout.of(model, found)
        rows.append(Row(readout.ids, lookup(found, token), readout.read, readout.target))
    return rows


def essence_rows(model: Model, request: EditRequest, prompts: Sequence[str], token: str, at: str) -> list[Row]:
    """Prompts about the subject whose next token is to stay: read at the subject (``at="subject"``, as published), or
    at the prompt's end (``"last"``)."""
    rows = []
    for prompt in prompts:
        found = Fact(prompt, request.subject).align(model)
        place = lookup(found, token)
        rows.append(Row(found.input_ids, place, (place if at == "subject" else len(found.input_ids) - 1,)))
    return rows


def padded(model: Model, rows: Sequence[Row]) -> Tensor:
    """Ids [rows, tokens], filled up on the right, where a causal model never looks."""
    ids = torch.zeros(len(rows), max(len(row.ids) for row in rows), dtype=torch.long)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row.ids)] = torch.tensor(row.ids)
    return ids.to(model.device)


def states_at_lookups(
    model: Model, rows: Sequence[Row], places: Sequence[tuple[str, int]], *, max_rows: int | None = None
) -> dict[tuple[str, int], Tensor]:
    """States at each row's lookup token, [rows, width] by (kind, layer), in one forward that ends after the last.

    Rows are run in batches of similar length; tokens after the longest prompt's lookup are left out.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].lookup)
    found: dict[tuple[str, int], Tensor] = {}
    step = max_rows or default_rows(model, rows[order[-1]].lookup + 1, 1)
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
            ids = padded(model, [rows[i] for i in some])[:, :width]
            frame = Frame(ids.shape[1])
            handles = [attach(model, kind, layer, keep((kind, layer), some), frame) for kind, layer in places]
            block: nn.Module = model.module("hidden", last)
            handles.append(block.register_forward_hook(stop))
            try:
                model.hf(input_ids=ids)
            except Stop:
                pass
            finally:
                for handle in handles:
                    handle.remove()
    return found
