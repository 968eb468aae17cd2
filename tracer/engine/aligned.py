"""The part of a forward that a change at one layer can reach, for rows of any length together.

As `tracer.engine.partial`, with two savings more, which together more than halve the time of a search on a processor.
Every row begins at its own lookup, whatever lies before it: keys and values of earlier tokens are kept so that all end
at the same place, and what lies before the shorter ones is masked, as in every left-padded generation. And blocks below
the first one concerned are passed by: no row has to be sent through them to carry the shapes.

Not every model takes to this; whether it does is tried on the rows at hand (`Trials`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tracer.errors import TracerError, out_of_memory

from .batch import Row, padded
from .forward import BlockArguments, Kept, Prefix, Stop, narrow
from .frame import Frame, attach
from .hooks import INNER, pick_logits
from .memories import forward
from .partial import Early, Place

if TYPE_CHECKING:
    from tracer.model import Model

WORTH = 4e6  # numbers of an MLP's matrices, times tokens, from which on leaving these out pays


@dataclass(frozen=True, eq=False)
class Aligned:
    """Rows recorded up to block `start`, and each up to its own lookup.

    Attributes:
        model: the model.
        rows: the rows.
        start: the first block that is run.
        begins: each row's first token that is run.
        ids: [R, N] from there on.
        entering: [R, N, d], what enters block `start`.
        prefix: per layer from `start` on keys and values [R, heads, W, width] of earlier tokens, which end at W; blocks
            below have those of one row. None if there are none.
        blocks: modules of the blocks, and of their MLPs where there is one.
        size: numbers of a projection of an MLP.
    """

    model: Model
    rows: tuple[Row, ...]
    start: int
    begins: tuple[int, ...]
    ids: Tensor
    entering: Tensor
    prefix: tuple[tuple[Tensor, Tensor], ...] | None
    blocks: tuple[tuple[nn.Module, nn.Module | None], ...]
    size: int

    @classmethod
    def recorded(
        cls, model: Model, rows: Sequence[Row], start: int, places: Sequence[Place]
    ) -> tuple[Aligned, dict[Place, Tensor]]:
        """The rows from block `start` on, and the states at their lookups, [R, width] by place.

        Args:
            model: one that takes it.
            rows: of any length.
            start: the first block that is run.
            places: kinds and layers of the states.
        """
        from transformers import DynamicCache

        ids = padded(model, rows)
        where = torch.tensor([row.lookup for row in rows], device=ids.device)
        index = torch.arange(len(rows), device=ids.device)
        states: dict[Place, Tensor] = {}
        entering: list[Tensor] = []

        def keep(place: Place) -> Callable[[Tensor], None]:
            return lambda state: states.__setitem__(place, state[index, where])

        cache = DynamicCache()
        with ExitStack() as stack:
            frame = Frame(ids.shape[1])
            entry = BlockArguments(lambda hidden: entering.append(hidden.clone()))
            stack.callback(entry.attach(model.module("hidden", start)).remove)
            for place in places:
                stack.callback(attach(model, *place, keep(place), frame).remove)
            stack.callback(model.module("hidden", model.n_layers - 1).register_forward_hook(Stop.here).remove)
            with torch.no_grad(), suppress(Stop):
                forward(model, ids, past_key_values=cache, use_cache=True)
        begins = [min(row.lookup, *row.read) for row in rows]
        ends = [max(row.read) + 1 for row in rows]
        whole = Prefix.read(cache, model.n_layers, ids.shape[1])
        assert whole is not None  # tried before
        before = max(begins)
        prefix = None
        if before:
            few = [(keys[:1, :, :before], values[:1, :, :before]) for keys, values in whole[:start]]
            prefix = (*few, *(tuple(_at_end(each, begins) for each in pair) for pair in whole[start:]))
        short, inside = ids.new_zeros(len(rows), max(b - a for a, b in zip(begins, ends, strict=True))), entering[0]
        entered = inside.new_zeros(*short.shape, inside.shape[-1])
        for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            short[i, : end - begin] = ids[i, begin:end]
            entered[i, : end - begin] = inside[i, begin:end]
        blocks = tuple((model.module("hidden", layer), _mlp(model, layer)) for layer in range(model.n_layers))
        found = cls(model, tuple(rows), start, tuple(begins), short, entered, prefix, blocks, _size(model))  # type: ignore[arg-type]
        return found, states

    def select(self, some: Sequence[int]) -> Aligned:
        """These of the rows only."""
        index = torch.tensor(list(some), device=self.entering.device)
        prefix = self.prefix and tuple(
            pair if layer < self.start else (pair[0][index], pair[1][index]) for layer, pair in enumerate(self.prefix)
        )
        return replace(
            self,
            rows=tuple(self.rows[i] for i in some),
            begins=tuple(self.begins[i] for i in some),
            ids=self.ids[index],
            entering=self.entering[index],
            prefix=prefix,
        )

    def run(self, deltas: Mapping[Place, Tensor], loss_layer: int | None = None) -> list[Tensor]:
        """Log-probabilities [len(read), V] of each row; see `logp`."""
        return list(self.logp(deltas, loss_layer).split([len(row.read) for row in self.rows]))

    def logp(self, deltas: Mapping[Place, Tensor], loss_layer: int | None = None) -> Tensor:
        """Log-probabilities [places, V] of all that is read, row by row, with `deltas` added at the lookups; float32.

        Args:
            deltas: by kind and layer, [R, d].
            loss_layer: rows with a target are read from the state that leaves this block, instead of the last.
        """
        model, (where, index, targets) = self.model, self._where

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

        lines, tokens = self._read.unbind(1)
        with ExitStack() as stack:
            stack.enter_context(passed_by([block for block, _ in self.blocks[: self.start]]))
            stack.callback(BlockArguments(enter).attach(self.blocks[self.start][0]).remove)
            for layer in range(self.start, model.n_layers):
                mlp = self.blocks[layer][1]
                if mlp is not None and not any(kind in INNER and at == layer for kind, at in deltas):
                    needed = self._needed[layer == model.n_layers - 1]
                    if needed is not None:
                        for handle in narrow(mlp, needed):
                            stack.callback(handle.remove)
            frame = Frame(self.ids.shape[1])
            for place, delta in deltas.items():
                if place not in begin:
                    stack.callback(attach(model, *place, add(delta), frame).remove)
            if loss_layer is not None and loss_layer < model.n_layers - 1:
                early = Early(targets)
                stack.callback(attach(model, "hidden", loss_layer, early.keep, frame).remove)
                stack.callback(attach(model, "hidden", model.n_layers - 1, early.put, frame).remove)
            stack.callback(pick_logits(model, lines, tokens).remove)
            logits = forward(model, self.ids, **self._arguments()).logits[0]
        return logits.float().log_softmax(-1)

    def _arguments(self) -> dict[str, Any]:
        """Keys and values of earlier tokens, and what tells rows with fewer of them apart."""
        if self.prefix is None:
            return {"use_cache": False}
        before, tokens = self.prefix[0][0].shape[2], self.ids.shape[1]
        found: dict[str, Any] = {"past_key_values": Prefix(self.prefix, before, slice(None)), "use_cache": True}
        return found | self._apart(before, tokens)

    def _apart(self, before: int, tokens: int) -> dict[str, Any]:
        """Mask and positions, where some rows have fewer tokens before them than others."""
        if "apart" not in self._made:
            found: dict[str, Any] = {}
            if min(self.begins) < before:
                begins = torch.tensor(self.begins, device=self.ids.device).unsqueeze(1)
                places = torch.arange(before + tokens, device=self.ids.device)
                found["attention_mask"] = (places >= before - begins).long()
                if "position_ids" in inspect.signature(self.model.hf.forward).parameters:
                    found["position_ids"] = begins + torch.arange(tokens, device=self.ids.device)
            self._made["apart"] = found
        return self._made["apart"]

    @cached_property
    def _made(self) -> dict[str, Any]:
        return {}

    @cached_property
    def _where(self) -> tuple[Tensor, Tensor, Tensor]:
        """Place of each row's lookup, its number, and whether it has a target; [R] each."""
        each = enumerate(zip(self.rows, self.begins, strict=True))
        known = [(row.lookup - begin, i, bool(row.target)) for i, (row, begin) in each]
        lookup, index, targets = torch.tensor(known, device=self.ids.device).unbind(1)
        return lookup, index, targets.bool()

    @cached_property
    def _read(self) -> Tensor:
        """Row and place of everything that is read, [places, 2]."""
        return torch.tensor(self._read_at, device=self.ids.device)

    @cached_property
    def _read_at(self) -> list[tuple[int, int]]:
        return [(i, p - a) for i, (row, a) in enumerate(zip(self.rows, self.begins, strict=True)) for p in row.read]

    @cached_property
    def _needed(self) -> tuple[Kept | None, Kept | None]:
        """Tokens whose MLP output reaches anything that is read: in any block, and in the last.

        None where leaving out the others does not pay.
        """
        every, last = (torch.zeros(self.ids.shape, dtype=torch.bool) for _ in range(2))
        lengths = [max(row.read) - begin + 1 for row, begin in zip(self.rows, self.begins, strict=True)]
        last[tuple(torch.tensor(self._read_at).unbind(1))] = True
        for line, length in zip(every, lengths, strict=True):
            line[:length] = True
        counts = sum(lengths), len(set(self._read_at))
        worth = [
            Kept(keep) if (keep.numel() - count) * self.size > WORTH else None
            for keep, count in zip((every, last), counts, strict=True)
        ]
        return worth[0], worth[1]


class Trials:
    """Findings about models, which depend on their code and not on their weights, each tried once."""

    def __init__(self) -> None:
        self._found: dict[tuple, bool] = {}

    def takes(self, model: Model, rows: Sequence[Row], start: int) -> bool:
        """Whether a model gives the same logits in this way, tried on the rows with the earliest and latest lookup.

        Args:
            model: any.
            rows: to be run.
            start: the first block that is to be run.
        """
        if model.memories:  # which know each row's prompt by its first token
            return False
        several = len({row.lookup for row in rows}) > 1
        return self._tried(("takes", start, several), model, lambda: _takes(model, _ends(rows), start))

    def arrives(self, model: Model, rows: Sequence[Row], layer: int) -> bool:
        """Whether a change of a layer's value is one of the state that leaves its block, as without a norm behind it.

        Args:
            model: one that takes to it.
            rows: to be run.
            layer: not the last.
        """
        return self._tried(("arrives", layer), model, lambda: _arrives(model, _ends(rows), layer))

    def _tried(self, what: tuple, model: Model, trial: Callable[[], bool]) -> bool:
        config: Any = model.hf.config
        key = (*what, type(model.hf), model.dtype, model.device, getattr(config, "_attn_implementation", None))
        if key not in self._found:
            self._found[key] = trial()
        return self._found[key]


def _ends(rows: Sequence[Row]) -> list[Row]:
    """The rows with the earliest and the latest lookup."""
    order = sorted(rows, key=lambda row: (row.lookup, len(row.ids)))
    return [order[0], order[-1]]


def _arrives(model: Model, tried: Sequence[Row], layer: int) -> bool:
    if torch.finfo(model.dtype).bits < 32:  # where the change is rounded makes a difference
        return False
    with torch.no_grad():
        inside, states = Aligned.recorded(model, tried, layer, [("value", layer)])
        behind, _ = Aligned.recorded(model, tried, layer + 1, ())
        delta = states["value", layer].flip(-1).clone()  # as long as the value, and another
        here, there = inside.run({("value", layer): delta}), behind.run({("hidden", layer): delta})
    return _alike(model, torch.cat(there), torch.cat(here))


def _alike(model: Model, found: Tensor, plain: Tensor) -> bool:
    """Whether log-probabilities are the same but for rounding, of tokens that matter."""
    tolerance = 1e-3 if torch.finfo(model.dtype).bits >= 32 else 0.1
    near = plain > plain.amax(-1, keepdim=True) - 10
    if not bool(near.any()):  # no numbers
        return False
    return bool((found - plain)[near].abs().max() <= tolerance * plain[near].abs().max())


def _takes(model: Model, tried: Sequence[Row], start: int) -> bool:
    if model.style != "causal":
        return False
    try:
        with torch.no_grad():
            aligned, _ = Aligned.recorded(model, tried, start, ())
            found = torch.cat(aligned.run({}))
            line = torch.tensor([i for i, row in enumerate(tried) for _ in row.read])
            handle = pick_logits(model, line, torch.tensor([position for row in tried for position in row.read]))
            try:
                plain = forward(model, padded(model, tried)).logits[0].float().log_softmax(-1)
            finally:
                handle.remove()
    except Exception as error:  # models raise errors of every kind
        if out_of_memory(error):
            raise
        return False
    return _alike(model, found, plain)


@contextmanager
def passed_by(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Context in which blocks give back the hidden states they get."""

    def same(*args: Any, **kwargs: Any) -> Tensor:
        return args[0] if args else kwargs["hidden_states"]

    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = same
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            vars(block).pop("forward", None)
            if own is not None:  # one that accelerate has put there
                block.forward = own


def _at_end(whole: Tensor, begins: Sequence[int]) -> Tensor:
    """The first tokens of each row of [R, heads, T, width], so that all end at the same place."""
    width = max(begins)
    found = whole.new_zeros(*whole.shape[:2], width, whole.shape[3])
    for own, row, begin in zip(found, whole, begins, strict=True):
        own[:, width - begin :] = row[:, :begin]
    return found


def _size(model: Model) -> int:
    with suppress(TracerError):
        return model.d_mlp * model.d_model
    return 0  # an MLP of another kind


def _mlp(model: Model, layer: int) -> nn.Module | None:
    with suppress(TracerError):
        return model.module("mlp_input", layer)
    return None
