"""Trying out how branches of a base run can be run: the fastest way that leaves unchanged branches unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracer.errors import TracerError, out_of_memory

from .branches import Plan, Step
from .forward import Base, Forward
from .frame import Frame, attach

if TYPE_CHECKING:
    from tracer.model import Model


def fastest(model: Model, base: Base, limit: int) -> Base:
    """`base` as the model can take it: with a batch that grows, or not; from keys and values kept, or without.

    No forward has more than `limit` rows.
    """
    slow = replace(base, prefix=None)
    trials = [base, replace(base, grows=False), slow, replace(slow, grows=False)]
    return next((trial for trial in trials if agrees(model, trial, limit)), trials[-1])


def agrees(model: Model, base: Base, limit: int) -> bool:
    """Whether unchanged branches of one row, run as `base` is, come out of the last block unchanged.

    They join at the first and at the last block, and at all between where there are no keys and values of every block:
    there a block may use those of an earlier one. The row is one that differs from the first, if any does.
    """
    row, parts_at = _different(base)
    first = 0 if base.prefix is None else min(parts_at, *base.read)
    last = model.n_layers - 1
    joins = sorted({0, last}) if base.prefix is not None else list(range(model.n_layers))
    index = [position - first for position in base.read]  # the last block's output elsewhere is not read
    before = base.entering[-1][row : row + 1, list(base.read)]
    tolerance = 1e-3 if torch.finfo(before.dtype).bits >= 32 else 0.1
    rows = min(limit, 2)
    for start in range(0, len(joins), rows):
        plan = _unchanged(joins[start : start + rows], base.grows)
        found: list[Tensor] = []
        handle = attach(model, "hidden", last, found.append, Frame())
        try:
            Forward(model, base, first, plan, slice(row, row + 1)).run(stop=True)
        except Exception as error:  # models raise errors of every kind
            if isinstance(error, TracerError) or out_of_memory(error):
                raise
            return False
        finally:
            handle.remove()
        again = found[0][:, index]
        if len(again) != len(plan.leaves) or not (again - before).abs().max() <= tolerance * before.abs().max():
            return False
    return True


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
