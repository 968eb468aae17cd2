"""GRACE's codebook while edits are added to it: the published rule, and ours (see `GRACESettings`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.grace import route
from editing.memories.lines import packed, unpacked

if TYPE_CHECKING:
    from editing.memories.memory import Memory

SAME = 1e-6  # of a key's norm: two keys as near are one
GAP = 1e-5  # between the radii of a split, as published


@dataclass(frozen=True)
class Rule:
    """How a new edit and the entries that are there get along.

    Attributes:
        compare: when two targets are the same one: "ids", when their ids are; "mean", when the means of their label
            rows are (-100 for each of the prompt's tokens, then the ids), as published.
        overwrite: whether an entry for the same prompt takes the new target. (Published: it is split from itself.)
        expand: what becomes of an entry with the same target within reach: "none", the edit gets an entry of its own;
            "coverage", the entry's radius grows to the edit; "moving_average", and its key goes half the way.
        split: what becomes of one with another target: "none", nothing, the nearer key decides; "shrink", both
            radii are at most half of the distance; "half", they are half of it, also where that is more.
    """

    compare: str
    overwrite: bool
    expand: str
    split: str


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry.

    Attributes:
        key: [width].
        radius: of what it acts on.
        values: [count, width].
        about: its prompts, subject, target, the target's ids, and the tokens of the prompt it was made for.
    """

    key: Tensor
    radius: float
    values: Tensor
    about: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Placed:
    """Where an edit has come to.

    Attributes:
        entries: of the codebook afterwards.
        entry: the one that acts on the edit's prompt, and is trained; None: none does.
        note: what the reader should know, or "".
    """

    entries: tuple[Entry, ...]
    entry: int | None
    note: str = ""


def entries_of(memory: Memory | None) -> tuple[Entry, ...]:
    """The entries of a memory of the kind "grace"."""
    if memory is None:
        return ()
    tensors = memory.tensors
    values = tensors["values"].split(tensors["counts"].tolist())
    parts = zip(tensors["keys"], tensors["radii"].tolist(), values, unpacked(tensors["about"]), strict=True)
    return tuple(Entry(*part) for part in parts)


def tensors_of(entries: Sequence[Entry]) -> dict[str, Tensor]:
    """The tensors of a memory with these entries."""
    return {
        "keys": torch.stack([entry.key for entry in entries]),
        "radii": torch.tensor([entry.radius for entry in entries]),
        "counts": torch.tensor([len(entry.values) for entry in entries]),
        "values": torch.cat([entry.values for entry in entries]),
        "about": packed([entry.about for entry in entries]),
    }


def placed(entries: Sequence[Entry], own: Entry, rule: Rule) -> Placed:
    """Add an edit to a codebook.

    Args:
        entries: of the codebook.
        own: the entry that the edit would have by itself.
        rule: how it and the others get along.
    """
    if not entries:
        return Placed((own,), 0)
    lost, key, radius, about = "", own.key, own.radius, own.about
    found = list(entries)
    near = route(key, *_table(found))
    nearest, distance = found[near.entry], near.score
    same = _same(nearest.about, about, rule.compare)
    if rule.overwrite:
        double = _double(found, key, about["prompts"][0], near.entry, distance)
        if double is not None:
            return _overwritten(found, double, own, rule.compare)
    if distance > radius + nearest.radius:
        found.append(own)
    elif same and rule.expand != "none":
        if distance > nearest.radius:
            middle = (nearest.key + key) / 2 if rule.expand == "moving_average" else nearest.key
            nearest = replace(nearest, key=middle, radius=distance)
        told = {**nearest.about, "prompts": [*nearest.about["prompts"], *about["prompts"]]}
        if rule.expand == "coverage":
            told["reach"] = max(distance, told.get("reach", 0.0))
        found[near.entry] = replace(nearest, about=told)
        if list(nearest.about["ids"]) != list(about["ids"]):  # of the same mean
            lost = f"no longer answered as edited: {', '.join(map(repr, nearest.about['prompts']))}"
    elif same or rule.split == "none":
        found.append(own)
    else:
        half = distance / 2
        old, new = half - GAP, half
        if rule.split == "shrink":
            old = min(nearest.radius, max(old, nearest.about.get("reach", 0.0)))  # its own prompts stay within it
            new = min(half, radius)
        found[near.entry] = replace(nearest, radius=old)
        found.append(replace(own, radius=new))
    after = route(key, *_table(found))
    note = lost if after.hit else f"nothing acts on {about['prompts'][0]!r}: a split left its entry no room"
    return Placed(tuple(found), after.entry if after.hit else None, note)


def _table(entries: Sequence[Entry]) -> tuple[Tensor, Tensor]:
    return torch.stack([entry.key for entry in entries]), torch.tensor([entry.radius for entry in entries])


def _same(one: Mapping[str, Any], two: Mapping[str, Any], compare: str) -> bool:
    """Whether two edits have the same target."""
    if compare == "ids":
        return list(one["ids"]) == list(two["ids"])
    rows = [torch.tensor([-100] * each["tokens"] + list(each["ids"])).float().mean() for each in (one, two)]
    return bool(rows[0] == rows[1])


def _double(entries: Sequence[Entry], key: Tensor, prompt: str, nearest: int, distance: float) -> int | None:
    """The entry that was made for the same prompt, if there is one."""
    for place, entry in enumerate(entries):
        if entry.about["prompts"][0] == prompt:
            return place
    return nearest if distance <= SAME * float(key.norm()) else None


def _overwritten(entries: list[Entry], place: int, own: Entry, compare: str) -> Placed:
    """The codebook with an entry that takes another target, or is trained on for its own."""
    before = entries[place]
    same = _same(before.about, own.about, compare)
    others = [prompt for prompt in before.about["prompts"] if prompt not in own.about["prompts"]]
    note = "" if same else f"{own.about['prompts'][0]!r} had the target {before.about['target'].strip()!r} before"
    if others and not same:
        note += f", and so had {', '.join(map(repr, others))}, which its entry covers"
    values = before.values if same else own.values
    told = before.about if same else {**own.about, "prompts": [*own.about["prompts"], *others]}
    entries[place] = replace(before, key=own.key, values=values, about=told)
    return Placed(tuple(entries), place, note)
