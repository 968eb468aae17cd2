"""Branches of a sweep: in which order a forward meets their interventions, when they part, how states change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .hooks import Intervention

Action = tuple[int, Intervention]  # token, intervention there
Moment = tuple[int, tuple[Action, ...]]  # time, actions then
# Time 2 l is inside block l (its mlp, attn, key and pre), time 2 l + 1 is its output.


def timeline(branch: Sequence[Intervention], tokens: int) -> list[Moment]:
    """The interventions of a branch in the order in which a forward meets them, by time."""
    times: dict[int, list[Action]] = {}
    for item in branch:
        assert item.site.layer is not None and item.site.token is not None
        time = 2 * item.site.layer + (item.site.kind == "hidden")
        times.setdefault(time, []).append((item.site.token % tokens, item))
    return [(time, tuple(items)) for time, items in sorted(times.items())]


@dataclass(frozen=True)
class Step:
    """Groups of rows after some time.

    Attributes:
        sources: the group each is copied from (-1: the base run).
        actions: what is done to each.
    """

    sources: tuple[int, ...]
    actions: tuple[tuple[Action, ...], ...]


@dataclass(frozen=True)
class Plan:
    """The course of a forward's groups of rows.

    Attributes:
        steps: the steps by time.
        leaves: the timeline that each group of rows has followed in the end.
    """

    steps: dict[int, Step]
    leaves: tuple[Sequence[Moment], ...]

    def kinds(self, time: int) -> set[str]:
        """The kinds of sites that change at `time`."""
        actions = self.steps[time].actions if time in self.steps else ()
        return {item.site.kind for group in actions for _, item in group}


def make_plan(lines: Sequence[Sequence[Moment]], share: bool = True) -> Plan:
    """Let branches join when they first change, and share rows for as long as their interventions are the same objects.

    Without `share` every branch has its own group from the beginning; where it joins, that becomes the base run's.
    """
    at = [dict(line) for line in lines]
    times = sorted({time for line in lines for time, _ in line})
    if not share:
        steps = {}
        for time in times:
            joins = [not any(earlier < time for earlier in line) and time in line for line in at]
            sources = tuple(-1 if join else group for group, join in enumerate(joins))
            steps[time] = Step(sources, tuple(line.get(time, ()) for line in at))
        return Plan(steps, tuple(lines))
    waiting = list(range(len(lines)))  # not different from the base run yet
    groups: list[list[int]] = []
    steps = {}
    for time in times:
        found: list[tuple[int, tuple[Action, ...], list[int]]] = []  # source, actions, branches
        for source, group in [*enumerate(groups), (-1, waiting)]:
            parts: dict[tuple[Action, ...], list[int]] = {}
            for index in group:
                parts.setdefault(at[index].get(time, ()), []).append(index)
            rest = parts.pop((), [])
            if source < 0:
                waiting = rest
            elif rest:
                found.append((source, (), rest))
            found += [(source, action, part) for action, part in parts.items()]
        groups = [part for _, _, part in found]
        steps[time] = Step(tuple(source for source, _, _ in found), tuple(action for _, action, _ in found))
    return Plan(steps, tuple(lines[group[0]] for group in groups))


def rows_of(item: Intervention, rows: int, some: slice | list[int]) -> Tensor:
    """The value of `item` for `some` of `rows` rows: one with an entry per row is cut, others serve every row."""
    per_row = item.value.dim() == (3 if item.site.token is None else 2) and item.value.shape[0] == rows
    return item.value[some] if per_row else item.value


def change(
    state: Tensor, actions: Sequence[Sequence[Action]], kind: str, first: int, all_rows: int, some: slice
) -> Tensor:
    """`state` [groups * rows, tokens, width] after each group's actions at sites of `kind`; the input is kept.

    The tokens are those from `first` on; a group holds `some` of the base run's `all_rows` rows.
    """
    rows = len(range(*some.indices(all_rows)))
    new: dict[tuple[int, int], Tensor] = {}
    for group, items in enumerate(actions):
        for token, item in items:
            if item.site.kind == kind:
                place = group, token - first
                current = new.get(place)
                if current is None:
                    current = state[group * rows : (group + 1) * rows, token - first]
                new[place] = item(current, rows_of(item, all_rows, some))
    if not new:
        return state
    index = torch.tensor([group * rows + row for group, _ in new for row in range(rows)], device=state.device)
    tokens = torch.tensor([token for _, token in new for _ in range(rows)], device=state.device)
    return state.index_put((index, tokens), torch.cat(list(new.values())))
