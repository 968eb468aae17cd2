"""Trying out what a model supports: the fastest way to run it that gives the same numbers, and saying which it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracer.errors import TracerError, TracerNote, out_of_memory

from .branches import Plan, Step
from .forward import Base, Forward
from .frame import Frame, attach
from .kv_cache import first_line

if TYPE_CHECKING:
    from tracer.model import Model


def fastest(model: Model, base: Base, limit: int) -> Base:
    """`base` as the model can take it: with a batch that grows, or not; from keys and values kept, or without.

    No forward has more than `limit` rows. A way other than the fastest is told by the base's note.
    """
    slow = replace(base, prefix=None)
    tokens = "every branch is run over all tokens"
    ways = [(base, ""), (replace(base, grows=False), "every branch is run from the first layer on")]
    ways += [(slow, tokens), (replace(slow, grows=False), f"{tokens} and layers")]
    if base.prefix is None:
        ways = [(slow, tokens if base.note else ""), ways[-1]]
    whys = [base.note] if base.note else []
    for way, chosen in ways[:-1]:
        why = _unlike(model, way, limit)
        if not why:
            return replace(way, note=f"{chosen} ({whys[0]})" if whys else "")
        whys.append(why)
    way, chosen = ways[-1]  # needs no trial
    return replace(way, note=f"{chosen} ({whys[0]})")


def slower(model: Model, why: str) -> None:
    """Tell that a model is run in another than the fastest way; Python shows each warning once."""
    warnings.warn(f"{model.name} runs slower, with the same numbers: {why}", TracerNote, stacklevel=3)


def unlike(before: Tensor, again: Callable[[], Tensor], dtype: torch.dtype) -> str:
    """Why another way of running a model of `dtype` does not give the numbers `before`; empty if it does.

    Raises:
        Exception: memory that ran out, or a TracerError.
    """
    try:
        found = again()
    except Exception as error:  # models raise errors of every kind
        if isinstance(error, TracerError) or out_of_memory(error):
            raise
        return first_line(error)
    if found.shape != before.shape:
        return f"states of shape {list(found.shape)} instead of {list(before.shape)}"
    tolerance = 1e-3 if torch.finfo(dtype).bits >= 32 else 0.1
    before = before.to(found)
    return "" if (found - before).abs().max() <= tolerance * before.abs().max() else "other numbers come out"


def _unlike(model: Model, base: Base, limit: int) -> str:
    """Why unchanged branches of one row, run as `base` is, do not come out of the last block unchanged; empty if so.

    They join at the first and at the last block, and at all between where there are no keys and values of every block:
    there a block may use those of an earlier one. The row is one that differs from the first, if any does.
    """
    row, parts_at = _different(base)
    first = 0 if base.prefix is None else min(parts_at, *base.read)
    last = model.n_layers - 1
    joins = sorted({0, last}) if base.prefix is not None else list(range(model.n_layers))
    index = [position - first for position in base.read]  # the last block's output elsewhere is not read
    before = base.entering[-1][row : row + 1, list(base.read)]
    rows = min(limit, 2)
    for start in range(0, len(joins), rows):
        plan = _unchanged(joins[start : start + rows], base.grows)

        def again(plan: Plan = plan) -> Tensor:
            found: list[Tensor] = []
            handle = attach(model, "hidden", last, found.append, Frame())
            try:
                Forward(model, base, first, plan, slice(row, row + 1)).run(stop=True)
            finally:
                handle.remove()
            return found[0][:, index]

        why = unlike(before.repeat(len(plan.leaves), 1, 1), again, before.dtype)
        if why:
            return why
    return ""


def _different(base: Base) -> tuple[int, int]:
    """A row of the run that differs from its first, and the token it does so from; else the last row and all tokens."""
    rows, tokens = base.ids.shape
    differs = base.ids != base.ids[:1]
    row = next((row for row in reversed(range(rows)) if differs[row].any()), rows - 1)
    places = [(item.site.token or 0) % tokens for item in base.interventions]
    return row, min([*differs[row].nonzero().flatten().tolist(), *places], default=tokens)


def _unchanged(joins: Sequence[int], grows: bool) -> Plan:
    """A branch without interventions for each block of `joins`, at which it joins."""
    every = range(len(joins))
    sources = {
        at: (*range(at), -1) if grows else tuple(-1 if group == at else group for group in every) for at in every
    }
    steps = {2 * block: Step(sources[at], ((),) * len(sources[at])) for at, block in enumerate(joins)}
    return Plan(steps, ([],) * len(joins))
