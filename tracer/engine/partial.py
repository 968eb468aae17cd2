"""The part of a forward that a change at one layer can reach: blocks from that layer on, tokens from the edited one on.

Hundreds of forwards are made while a value is optimised, and everything before the edited token of the edited layer
is the same in all of them. It is run once and kept: states that enter the first block concerned, and keys and values of
earlier tokens. Then a forward starts with one row, which only carries the shapes, and the real rows join at that
block. Logits are made only where they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.errors import TracerError

from .batch import Row, frame_of, padded
from .forward import BlockArguments, Kept, Stop, narrow
from .frame import Frame, attach
from .hooks import INNER, pick_logits
from .kv_cache import Cached, Prefix
from .layout import columns_of
from .memories import acts_inside, forward
from .row_budget import rows_that_fit
from .sweep import record

if TYPE_CHECKING:
    from tracer.model import Model

FORWARD_TOKENS = 40  # fixed cost of a forward on a processor, in tokens, about

Place = tuple[str, int]


@dataclass(frozen=True)
class Ability:
    """The ways in which a model lets its forward be shortened; found by trying.

    Attributes:
        grows: the batch can grow inside.
        cached: keys and values of earlier tokens can be given.
        scaled: block arguments that count rows.
    """

    grows: bool
    cached: bool
    scaled: frozenset[tuple]

    @classmethod
    def of(cls, model: Model, row: Row) -> Ability:
        """The ability of `model`, tried on one row beside another of other tokens."""
        if model.style == "seq2seq":  # which is run whole
            return cls(False, False, frozenset())
        other = row.ids[::-1] if row.ids[::-1] != row.ids else tuple(int(i == 0) for i in row.ids)
        with torch.no_grad():
            base = record(model, torch.tensor([row.ids, other]), read=(len(row.ids) - 1,))
        return cls(base.grows, base.prefix is not None, base.scaled)


@dataclass(frozen=True, eq=False)
class Suffix:
    """Rows of similar lookup, recorded up to block `start` and token `first`.

    Attributes:
        model: the model.
        ability: how its forward can be shortened.
        rows: the rows.
        start: the first block that is run.
        first: the first token that is run.
        ids: [R, T] from token 0.
        entering: [R, T - first, d], what enters block `start`.
        prefix: per layer keys and values [rows, heads, first, width], of one row below `start`; None if the model takes
            no keys and values.
        frame: of the rows, where the model has memories.
    """

    model: Model
    ability: Ability
    rows: tuple[Row, ...]
    start: int
    first: int
    ids: Tensor
    entering: Tensor
    prefix: Cached | None
    frame: Frame | None = None

    @classmethod
    def recorded(
        cls, model: Model, ability: Ability, rows: Sequence[Row], start: int, places: Sequence[Place]
    ) -> tuple[Suffix, dict[Place, Tensor]]:
        """The suffix of `rows` from block `start` on, and the states at their lookups, [R, width] by place."""
        from transformers import DynamicCache

        ids = padded(model, rows)
        where = torch.tensor([row.lookup for row in rows], device=ids.device)
        index = torch.arange(len(rows), device=ids.device)
        first = int(where.min()) if ability.cached else 0
        states: dict[Place, Tensor] = {}
        entering: list[Tensor] = []

        def keep(place: Place) -> Callable[[Tensor], None]:
            return lambda state: states.__setitem__(place, state[index, where])

        cache = DynamicCache() if ability.cached else None
        arguments: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        with ExitStack() as stack:
            told = frame_of(model, rows, ids.shape[1])
            frame = told or Frame(ids.shape[1])
            entry = BlockArguments(lambda hidden: entering.append(hidden[:, first:].clone()))
            stack.callback(entry.attach(model.module("hidden", start)).remove)
            for place in places:
                stack.callback(attach(model, *place, keep(place), frame).remove)
            # nothing above the last block is needed; not every model has a norm there, or uses it there alone
            stack.callback(model.module("hidden", model.n_layers - 1).register_forward_hook(Stop.here).remove)
            with torch.no_grad(), suppress(Stop):
                forward(model, ids, frame, **arguments)
        prefix = None
        if cache is not None and first:
            layers = Prefix.read(cache, model.n_layers, ids.shape[1])
            assert layers is not None  # tried before
            prefix = tuple(
                tuple(part[: len(rows) if layer >= start else 1, :, :first].clone() for part in pair)
                for layer, pair in enumerate(layers)
            )
        return cls(model, ability, tuple(rows), start, first, ids, entering[0], prefix, told), states  # type: ignore[arg-type]

    def select(self, some: Sequence[int]) -> Suffix:
        """This suffix with some of the rows only."""
        index = torch.tensor(list(some), device=self.entering.device)
        prefix = self.prefix and tuple(
            pair if layer < self.start else (pair[0][index], pair[1][index]) for layer, pair in enumerate(self.prefix)
        )
        rows, ids = tuple(self.rows[i] for i in some), self.ids[index]
        entering = self.entering[index, : columns_of(self.model, self.start, ids)]
        kept = {"rows": rows, "ids": ids, "entering": entering, "prefix": prefix}
        return replace(self, **kept, frame=self.frame and self.frame.select(some))

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Each row's lookup and number; row and token of all that is read; which rows have a target."""
        at = [(i, p - self.first) for i, row in enumerate(self.rows) for p in row.read]
        lookups = [(row.lookup - self.first, i, bool(row.target)) for i, row in enumerate(self.rows)]
        where, index, targets = torch.tensor(lookups, device=self.entering.device).unbind(1)
        at_row, at_token = torch.tensor(at, device=self.entering.device).unbind(1)
        return where, index, at_row, at_token, targets.bool()

    @cached_property
    def _kept(self) -> dict[str, Kept]:
        return {}

    def _needed(self, layer: int) -> Kept:
        """Tokens whose MLP output in `layer` reaches anything that is read."""
        below = self.ability.grows and layer < self.start
        which = "below" if below else "last" if layer == self.model.n_layers - 1 else "every"
        if which not in self._kept:
            self._kept[which] = Kept(self._mask(layer))
        return self._kept[which]

    def _mask(self, layer: int) -> Tensor:
        """Tokens [tokens], or [rows, tokens], as in `_needed`."""
        tokens = self.ids.shape[1] - self.first
        if self.ability.grows and layer < self.start:  # the row that carries the shapes
            return torch.arange(tokens) == 0
        keep = torch.zeros(len(self.rows), tokens, dtype=torch.bool)
        for line, row in zip(keep, self.rows, strict=True):
            if layer == self.model.n_layers - 1:
                line[[position - self.first for position in row.read]] = True
            else:
                line[: max(row.read) - self.first + 1] = True
        return keep

    def run(self, deltas: Mapping[Place, Tensor], loss_layer: int | None = None) -> list[Tensor]:
        """Log-probabilities [len(read), V] of each row; see `logp`."""
        return list(self.logp(deltas, loss_layer).split([len(row.read) for row in self.rows]))

    def logp(self, deltas: Mapping[Place, Tensor], loss_layer: int | None = None) -> Tensor:
        """Log-probabilities [places, V] of all that is read, row by row, with `deltas` added at the lookups; float32.

        Args:
            deltas: by kind and layer, [R, d].
            loss_layer: rows with a target are read from the state that leaves this block, instead of the last.
        """
        model = self.model
        where, index, at_row, at_token, targets = self._places

        def add(delta: Tensor) -> Callable[[Tensor], Tensor]:
            def edit(state: Tensor) -> Tensor:
                # in the wider of the two types, then cast back
                value = (state[index, where] + delta.to(state.device)).to(state.dtype)
                return state.index_put((index, where), value)

            return edit

        begin = {place: delta for place, delta in deltas.items() if place == ("hidden", self.start - 1)}

        def enter(_: Tensor) -> Tensor:
            state = self.entering
            for delta in begin.values():
                state = add(delta)(state)
            return state

        prefix = None if self.prefix is None else Prefix(self.prefix, self.first, slice(None))
        arguments: dict[str, Any] = {}
        if self.ability.cached:
            arguments = {"past_key_values": prefix, "use_cache": prefix is not None}
        with ExitStack() as stack:
            scaled = self.ability.scaled if self.ability.grows else frozenset()
            for layer in range(model.n_layers):
                entry = BlockArguments(enter if layer == self.start else None, scaled)
                stack.callback(entry.attach(model.module("hidden", layer)).remove)
                if not any(kind in INNER and at == layer for kind, at in deltas) and not acts_inside(model, layer):
                    with suppress(TracerError):  # no such site: nothing to save
                        for handle in narrow(model.module("mlp_input", layer), self._needed(layer)):
                            stack.callback(handle.remove)
            tokens = self.ids.shape[1] - self.first
            frame = Frame(tokens)
            if self.frame is not None:
                frame = self.frame.at(tokens, [self.first] * len(self.rows), self.frame.lengths)
            for place, delta in deltas.items():
                if place not in begin:
                    stack.callback(attach(model, *place, add(delta), frame).remove)
            if loss_layer is not None and loss_layer < model.n_layers - 1:
                early = Early(targets)
                stack.callback(attach(model, "hidden", loss_layer, early.keep, frame).remove)
                stack.callback(attach(model, "hidden", model.n_layers - 1, early.put, frame).remove)
            stack.callback(pick_logits(model, at_row, at_token).remove)
            ids = self.ids[:, self.first :]
            logits = forward(model, ids[:1] if self.ability.grows else ids, frame, **arguments).logits[0]
        return logits.float().log_softmax(-1)


class Early:
    """Puts the state of an earlier block in the place of the last one's, for the rows of a mask."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.state = rows, rows.new_empty(0)

    def keep(self, state: Tensor) -> None:
        """Hook on the earlier block."""
        self.state = state

    def put(self, state: Tensor) -> Tensor:
        """Hook on the last one."""
        return torch.where(self.rows.to(state.device)[:, None, None], self.state.to(state.device), state)


def rows_at_once(model: Model, rows: Sequence[Row], start: int, max_rows: int | None) -> int:
    """Number of `rows` that one forward with gradients from block `start` takes."""
    if max_rows is not None:
        return max(1, max_rows)
    width = max(torch.finfo(model.dtype).bits // 8, 2)
    tokens = max(len(row.ids) - row.lookup for row in rows) + 2
    blocks = model.n_layers - start
    states = tokens * blocks * (6 * model.d_mlp + 16 * model.d_model) * width
    read = max(len(row.read) for row in rows)
    logits = 16 * read * int(model.hf.config.get_text_config().vocab_size)
    return rows_that_fit(model, 2 * (states + logits), least=8)  # twice: gradients are of the same size


def cuts(rows: Sequence[Row], most: int) -> list[tuple[int, int]]:
    """Cheapest cuts of `rows`, in order of their lookups, into forwards of at most `most` rows.

    A forward runs over the tokens from its first lookup to its longest row's end, and costs so many tokens for its own
    sake, by which few rows of one lookup would not be worth it.

    Returns:
        First row and the one after the last of each forward.
    """
    cost, before = [0.0], [0]
    for end in range(1, len(rows) + 1):
        longest, best, where = 0, float("inf"), 0
        for begin in range(end - 1, max(-1, end - 1 - most), -1):
            longest = max(longest, len(rows[begin].ids))
            own = FORWARD_TOKENS + (end - begin) * (longest - rows[begin].lookup)
            if cost[begin] + own < best:
                best, where = cost[begin] + own, begin
        cost.append(best)
        before.append(where)
    found, end = [], len(rows)
    while end:
        found.append((before[end], end))
        end = before[end]
    return found[::-1]
