"""Keys and values of a run, kept so that others go on from them: how they are recorded, given, and added to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, DynamicLayer

from tracer.errors import TracerError, out_of_memory

from .frame import Frame
from .memories import forward

if TYPE_CHECKING:
    from tracer.model import Model

T = TypeVar("T")
Cached = tuple[tuple[Tensor, Tensor], ...]  # keys and values [rows, heads, tokens, width] of every layer


def recorded(model: Model, run: Callable[[dict[str, Any]], T], tokens: int) -> tuple[T, Cached | None, str]:
    """What a forward over `tokens` tokens gives, and the keys and values of every layer that it left.

    Args:
        model: the model.
        run: makes the forward with further arguments of the model; made again without any if it refuses them.
        tokens: how many.

    Returns:
        What the forward gave; the keys and values, None if a causal model keeps none or it is another; and
        why not, if so.
    """
    if model.style != "causal":
        return run({}), None, ""
    # no configuration given, so that sliding-window layers keep every token too; the masks still slide
    cache = DynamicCache()
    try:
        found = run({"past_key_values": cache, "use_cache": True})
    except Exception as error:  # models raise errors of every kind
        if isinstance(error, TracerError) or out_of_memory(error):
            raise
        why = f"it takes no keys and values of earlier tokens ({first_line(error)})"
    else:
        kept = Prefix.read(cache, model.n_layers, tokens)
        return found, kept, "" if kept is not None else "it does not keep the keys and values of every layer"
    return run({}), None, why


def first_line(error: Exception) -> str:
    """What a model says to something it does not take, in one line."""
    return f"{type(error).__name__}: {error}".split("\n", 1)[0][:200]


class _Layer(DynamicLayer):
    """Keys and values of a layer that are there from the beginning."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True


class _Repeated(_Layer):
    """Keys and values of the tokens before the first, for however many rows there are; nothing is stored."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self._join(self.keys, key_states), self._join(self.values, value_states)

    @staticmethod
    def _join(before: Tensor | None, new: Tensor) -> Tensor:
        assert before is not None
        rows = len(new)
        if rows == len(before):
            return torch.cat([before, new], dim=-2)
        # fewer rows than samples: the row that carries the shapes before branches join
        before = before[:rows] if rows < len(before) else before.repeat(rows // len(before), 1, 1, 1)
        return torch.cat([before, new], dim=-2)


class Prefix(Cache):
    """A key-value cache that gives every group of rows the base run's tokens before `first`."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], first: int, some: slice) -> None:
        super().__init__(layers=[_Repeated(keys[some, :, :first], values[some, :, :first]) for keys, values in layers])

    @staticmethod
    def read(cache: DynamicCache, n_layers: int, tokens: int) -> Cached | None:
        """Keys and values of every layer, or None if the model did not put all of them into the cache."""
        found = [(layer.keys, layer.values) for layer in cache.layers if isinstance(layer, DynamicLayer)]
        pairs = [(keys, values) for keys, values in found if keys is not None and values is not None]
        if len(pairs) != n_layers or any(keys.shape[-2] != tokens for keys, _ in pairs):
            return None
        return tuple(pairs)


class _Growing(_Layer):
    """Keys and values up to `filled`, with space for more."""

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        super().__init__(keys, values)
        self.filled = filled

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
        self.layers: list[_Growing] = []

    def take(self, row: int, cache: Cached | None, line: int, tokens: int) -> Kept | None:
        """Keep the first `tokens` of a line of what a forward left; None where it left nothing."""
        if cache is None:
            return None
        for layer, pair in enumerate(cache):
            if len(self.layers) == layer:
                room = [x.new_zeros(len(self.lengths), x.shape[1], self.width + self.more, x.shape[3]) for x in pair]
                self.layers.append(_Growing(room[0], room[1], self.width))
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
            copy.layers.append(_Growing(keys, values, self.width - 1))
        return copy

    def step(self, model: Model, tokens: Sequence[int], frame: Frame | None = None) -> Tensor:
        """Logits [rows, V] after one more token of each row; `frame` says what the rows' prompts are."""
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
