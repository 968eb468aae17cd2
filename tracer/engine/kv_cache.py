"""Forwards of rows of any length with logits at chosen places, and the keys and values they leave."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, DynamicLayer

from tracer.errors import TracerError, out_of_memory
from tracer.model import check_ids

from .batch import pad
from .forward import Prefix
from .frame import Frame
from .hooks import pick_logits
from .memories import forward

if TYPE_CHECKING:
    from tracer.model import Model

Ids = tuple[int, ...]
Cached = tuple[tuple[Tensor, Tensor], ...]  # keys and values [rows, heads, tokens, width] of every layer


def run(
    model: Model, rows: Sequence[tuple[Ids, tuple[int, ...]]], keep: bool, frame: Frame | None = None
) -> tuple[Tensor, Cached | None]:
    """Logits [places of all rows together, V] of one forward and, if asked and possible, its keys and values.

    Where the model has memories, `frame` says what the rows' prompts are.
    """
    if frame is not None:
        lengths = [len(ids) for ids, _ in rows]
        frame = frame.at(max(lengths), lengths=lengths)
    if keep:
        try:
            # no configuration given, so that sliding-window layers keep every token too; the masks still slide
            cache = DynamicCache()
            logits = _logits(model, rows, frame, past_key_values=cache, use_cache=True)
            return logits, Prefix.read(cache, model.n_layers, max(len(ids) for ids, _ in rows))
        except Exception as error:  # no such argument, say
            if isinstance(error, TracerError) or out_of_memory(error):
                raise
    return _logits(model, rows, frame), None


def _logits(model: Model, rows: Sequence[tuple[Ids, tuple[int, ...]]], frame: Frame | None, **arguments: Any) -> Tensor:
    ids = pad([row for row, _ in rows])
    check_ids(model, ids)
    lines = torch.tensor([index for index, (_, read) in enumerate(rows) for _ in read])
    positions = torch.tensor([position for _, read in rows for position in read])
    handle = pick_logits(model, lines, positions)
    try:
        return forward(model, ids.to(model.device), frame, **arguments).logits[0]
    finally:
        handle.remove()


class _Layer(DynamicLayer):
    """Keys and values of a layer up to `filled`, with space for more."""

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        super().__init__()
        self.keys, self.values, self.filled = keys, values, filled
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        end = self.filled + key_states.shape[-2]
        self.keys[:, :, self.filled : end], self.values[:, :, self.filled : end] = key_states, value_states
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.filled


class Kept:
    """Keys and values of rows that write, every row's last token at place `width - 1`, with space for `more`."""

    def __init__(self, rows: int, width: int, more: int) -> None:
        self.lengths = [0] * rows
        self.width, self.more = width, more
        self.layers: list[_Layer] = []

    def take(self, row: int, cache: Cached | None, line: int, tokens: int) -> Kept | None:
        """Keep the first `tokens` of a line of what a forward left; None where it left nothing."""
        if cache is None:
            return None
        for layer, pair in enumerate(cache):
            if len(self.layers) == layer:
                room = [x.new_zeros(len(self.lengths), x.shape[1], self.width + self.more, x.shape[3]) for x in pair]
                self.layers.append(_Layer(room[0], room[1], self.width))
            own = self.layers[layer]
            for kept, new in zip((own.keys, own.values), pair, strict=True):
                assert kept is not None
                kept[row, :, self.width - tokens : self.width] = new[line, :, :tokens]
        self.lengths[row] = tokens
        return self

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows only, and no more places than the longest needs."""
        every = list(rows) == list(range(len(self.lengths)))
        self.lengths = [self.lengths[row] for row in rows]
        spare = self.width - max(self.lengths, default=self.width)
        self.width -= spare
        for layer in self.layers:
            assert layer.keys is not None and layer.values is not None
            keys, values = layer.keys[:, :, spare:], layer.values[:, :, spare:]
            layer.keys, layer.values = (keys, values) if every else (keys[list(rows)], values[list(rows)])
            layer.filled -= spare

    def without_last(self, rows: Sequence[int]) -> Kept:
        """A copy of some rows as they were a token before."""
        copy = Kept(len(rows), self.width - 1, 1)
        copy.lengths = [self.lengths[row] - 1 for row in rows]
        for layer in self.layers:
            assert layer.keys is not None and layer.values is not None
            keys, values = (x[list(rows), :, : self.width] for x in (layer.keys, layer.values))
            copy.layers.append(_Layer(keys, values, self.width - 1))
        return copy

    def step(self, model: Model, tokens: Sequence[int], frame: Frame | None = None) -> Tensor:
        """Logits [rows, V] after one more token of each row; `frame` as in `run`."""
        arguments: dict[str, Any] = {}
        if len(set(self.lengths)) > 1:
            lengths = torch.tensor(self.lengths, device=model.device).unsqueeze(1)
            places = torch.arange(self.width + 1, device=model.device)
            arguments["attention_mask"] = (places >= self.width - lengths).long()
            if "position_ids" in inspect.signature(model.hf.forward).parameters:
                arguments["position_ids"] = lengths
        ids = torch.tensor(tokens, device=model.device).unsqueeze(1)
        cache = Cache(layers=list(self.layers))
        frame = frame and frame.at(1, self.lengths)
        logits = forward(model, ids, frame, past_key_values=cache, use_cache=True, **arguments).logits[:, -1]
        self.lengths = [length + 1 for length in self.lengths]
        self.width += 1
        return logits
