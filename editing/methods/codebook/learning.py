"""Requests into a codebook: their keys, the entries they come to, and the values of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.memories.grace import route
from editing.memories.placement import key_tokens
from tracer.engine.acts import Place
from tracer.engine.batch import Row
from tracer.engine.memories import resting
from tracer.engine.prompt_states import prompt_states
from tracer.facts.fact import Fact
from tracer.facts.readout import Readout

from .table import Entry, Rule, placed
from .values import Training, outputs, train_values

if TYPE_CHECKING:
    from editing.request import EditRequest
    from tracer.model import Model

RATE = 0.3  # of the usual size of a number of the state that is replaced: the default learning rate


@dataclass(frozen=True)
class Radius:
    """A radius of a new entry.

    Attributes:
        size: as it is, or in lengths of the key.
        relative: whether it is the latter.
    """

    size: float
    relative: bool = False

    def of(self, key: Tensor) -> float:
        """That of an entry with this key."""
        return self.size * float(key.norm()) if self.relative else self.size


@dataclass(frozen=True)
class Sites:
    """Where a codebook reads and writes.

    Attributes:
        read: kind and layer of the site whose state is the key.
        write: of the one that values replace.
        key_token: as of [`editing.memories.placement.key_tokens`][].
        replacement: as of [`editing.memories.placement.slots`][].
    """

    read: Place
    write: Place
    key_token: str
    replacement: str


@dataclass(eq=False)
class Book:
    """A codebook with the requests of a group in it.

    Attributes:
        rows: the requests, as they are trained.
        scales: of the numbers that stand where their values are put.
        entries: of the codebook.
        acting: for each request the entry that acts on it; None: none does.
        losses: for each request, before each step and at the end; empty where nothing acts on it.
        said: for each request, whether the model says its target at the end.
        notes: what the reader should know.
    """

    rows: list[Row]
    scales: list[float]
    entries: tuple[Entry, ...]
    acting: list[int | None]
    losses: list[Tensor]
    said: list[bool]
    notes: list[str]


def learnt(
    model: Model,
    group: Sequence[EditRequest],
    before: Sequence[Entry],
    radii: Sequence[Radius],
    sites: Sites,
    rule: Rule,
    cold: torch.Generator | None,
) -> Book:
    """A codebook with a group's requests in their places, untrained.

    Args:
        model: the model, with its other memories.
        group: the requests.
        before: entries that are there.
        radii: of new entries.
        sites: where the codebook reads and writes.
        rule: how edits and entries get along.
        cold: draws what values begin with; None: what stands at the site.
    """
    found = [request.fact.align(model) for request in group]
    prompts = [tuple(each.input_ids) for each in found]
    tokens = key_tokens(model, prompts, sites.key_token)
    with resting(model):
        keys = prompt_states(model, prompts, [sites.read], tokens)[sites.read].float().cpu()
    readouts = [Readout.of(model, each) for each in found]
    rows = [Row(tuple(each.ids), at, each.read, each.target) for each, at in zip(readouts, tokens, strict=True)]
    counts = [len(row.target) if sites.replacement == "answer" else 1 for row in rows]
    stood = outputs(model, rows, sites.write, counts)
    starts = [one.states if cold is None else torch.rand(one.states.shape, generator=cold) for one in stood]
    book = Book(
        rows, [one.scale for one in stood], tuple(before), [], [torch.zeros(0)] * len(rows), [False] * len(rows), []
    )
    for request, row, prompt, key, start, radius in zip(group, rows, prompts, keys, starts, radii, strict=True):
        about = {"prompts": [request.text], "subject": request.subject, "target": request.target_new}
        about |= {"ids": list(row.target), "tokens": len(prompt)}
        own = Entry(key, radius.of(key), start, about)
        place = placed(book.entries, own, rule)
        book.entries = place.entries
        book.acting.append(place.entry)
        book.notes += filter(None, [place.note])
    return book


def learn(
    model: Model,
    books: Sequence[Book],
    sites: Sites,
    steps: int,
    lr: float | None,
    stop_loss: float,
    max_rows: int | None = None,
) -> None:
    """Train what acts on each request, in all books together; the second request of an entry after its first.

    Args:
        model: the model, with its other memories.
        books: of the same sites.
        sites: where they read and write.
        steps: of Adam, at most.
        lr: of Adam; None: a share of the size of what a value replaces.
        stop_loss: a value is finished at a lower loss.
        max_rows: requests in a forward; None: by memory.
    """
    turns: dict[int, list[tuple[Book, int, int]]] = {}
    for book in books:
        for place, entry in enumerate(book.acting):
            if entry is not None:
                turns.setdefault(book.acting[:place].count(entry), []).append((book, place, entry))
    training = Training(sites.write, sites.replacement, steps, stop_loss)
    for turn in sorted(turns):
        jobs = turns[turn]
        starts = [book.entries[entry].values for book, _, entry in jobs]
        rates = [RATE * book.scales[place] if lr is None else lr for book, place, _ in jobs]
        rows = [book.rows[place] for book, place, _ in jobs]
        for (book, place, entry), one in zip(
            jobs, train_values(model, rows, starts, training, rates, max_rows), strict=True
        ):
            entries = list(book.entries)
            entries[entry] = replace(entries[entry], values=one.values)
            book.entries = tuple(entries)
            book.losses[place], book.said[place] = one.losses, one.said


def lost(model: Model, entries: Sequence[Entry], sites: Sites) -> list[str]:
    """Remarks about prompts that an entry was to cover and on which no entry, or one of another target, acts now.

    A prompt with an entry of its own is nearest to that one, so only those that share an entry are looked at.

    Args:
        model: the model.
        entries: of the codebook.
        sites: where it reads and writes.
    """
    shared = [(one, prompt) for one in entries if len(one.about["prompts"]) > 1 for prompt in one.about["prompts"]]
    if not shared:
        return []
    prompts = [tuple(Fact(prompt, prompt).align(model).input_ids) for _, prompt in shared]
    with resting(model):
        tokens = key_tokens(model, prompts, sites.key_token)
        states = prompt_states(model, prompts, [sites.read], tokens)[sites.read].float().cpu()
    keys, radii = torch.stack([one.key for one in entries]), torch.tensor([one.radius for one in entries])
    found = [route(state, keys, radii) for state in states]
    away = [
        prompt
        for (one, prompt), to in zip(shared, found, strict=True)
        if not to.hit or list(entries[to.entry].about["ids"]) != list(one.about["ids"])
    ]
    return [f"no longer answered as edited: {', '.join(map(repr, away))}"] if away else []
