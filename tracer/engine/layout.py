"""Rows of encoder-decoder models: source, the decoder's start and the answer in one row, and where each part is run.

Everything above this module counts tokens through the row. A state of the encoder has one column per token of the
source, a state of the decoder one per step; here they are put into the row's columns and back, each row by the length
of its own source. Where a site has no state for a token the column is zero, and what is put there is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from tracer.errors import EncoderDecoderError, OutOfRange, SiteError
from tracer.facts.prompt import end_of, source_length, start_of

if TYPE_CHECKING:
    from tracer.model import Model

Stack = Literal["encoder", "decoder"]
MARK = "_tracer_layout"


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of one forward.

    Attributes:
        sources: tokens of each row's source [R].
        width: tokens of the longest row, filled up on the right.
    """

    sources: Tensor
    width: int

    @classmethod
    def of(cls, model: Model, ids: Tensor) -> Layout:
        """The layout of rows of ids [R, tokens]: a source ends where its end token meets the decoder's start.

        Raises:
            TracerError: a row without that.
        """
        edge = (ids[:, :-1] == end_of(model)) & (ids[:, 1:] == start_of(model))
        if not bool(edge.any(1).all()):
            row = int(edge.any(1).logical_not().nonzero()[0])
            raise SiteError(
                f"row {row} of the ids for {model.name} has no end of a source ({end_of(model)}) before the decoder's "
                f"start ({start_of(model)}); make rows with tracer.facts.prompt_ids, or of a Fact"
            )
        return cls(edge.int().argmax(1) + 1, ids.shape[1])

    @property
    def even(self) -> int | None:
        """Tokens of every source, if they are equally many."""
        first = int(self.sources[0])
        return first if bool((self.sources == first).all()) else None

    def parts(self, ids: Tensor, padding: int) -> dict[str, Tensor]:
        """Arguments of a forward over rows of ids [R, tokens]."""
        even = self.even
        if even is not None:  # no mask, as in a call without padding
            return {"input_ids": ids[:, :even], "decoder_input_ids": ids[:, even:]}
        places, real = self._places("encoder", self.columns("encoder"), ids.device)
        source = ids.gather(1, places).masked_fill(~real, padding)
        steps, written = self._places("decoder", self.columns("decoder"), ids.device)
        forced = ids.gather(1, steps).masked_fill(~written, padding)
        return {"input_ids": source, "attention_mask": real.long(), "decoder_input_ids": forced}

    def columns(self, stack: Stack) -> int:
        """Columns of a stack's states."""
        return int(self.sources.max()) if stack == "encoder" else self.width - int(self.sources.min())

    def spread(self, state: Tensor, stack: Stack) -> Tensor:
        """A stack's state [R, columns, d] in the columns of the rows [R, width, d]."""
        even, columns = self._even_for(state), state.shape[1]
        blank = state.new_zeros(len(state), self.width - columns, state.shape[2])
        if even is not None:
            return torch.cat([state, blank] if stack == "encoder" else [blank, state], 1)
        places, real = self._places(stack, columns, state.device)
        wide = state.new_zeros(len(state), self.width, state.shape[2])
        index = torch.where(real, places, self.width - 1)[..., None].expand_as(state)
        # what is no token of its row adds nothing wherever it falls
        return wide.scatter_add(1, index, state.masked_fill(~real[..., None], 0))

    def narrowed(self, wide: Tensor, state: Tensor, stack: Stack) -> Tensor:
        """The new state of a stack from that of the rows; padding stays as it is in `state`."""
        even, columns = self._even_for(state), state.shape[1]
        if even is not None:
            return wide[:, :columns] if stack == "encoder" else wide[:, self.width - columns :]
        places, real = self._places(stack, columns, state.device)
        return torch.where(real[..., None], wide.gather(1, places[..., None].expand_as(state)), state)

    def _even_for(self, state: Tensor) -> int | None:
        even = self.even
        if even is None and len(state) != len(self.sources):
            raise SiteError(
                f"a state of {len(state)} rows was met in a forward over {len(self.sources)} rows of an "
                "encoder-decoder model, whose batch cannot grow"
            )
        return even

    def _places(self, stack: Stack, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where in its row each column of a stack's state stands [R, columns], and whether it is a token of it."""
        sources = self.sources.to(device)[:, None]
        column = torch.arange(columns, device=device)[None]
        if stack == "encoder":
            return column.expand(len(sources), -1), column < sources
        places = column + sources
        return places.clamp(max=self.width - 1), places < self.width


def sources(model: Model, rows: Iterable[Iterable[int]]) -> list[list[int]]:
    """Rows of running text as a model reads them: as they are, or as sources for which a decoder begins."""
    start = [start_of(model)] if model.style == "seq2seq" else []
    return [[*row, *start] for row in rows]


def layout_of(model: Model) -> Layout | None:
    """The layout of the forward at hand; None where there is none, and for models of one stack."""
    return getattr(model.hf, MARK, None)


def stack_of(model: Model, layer: int | None) -> Stack:
    """The stack that a layer is in; the word embedding is the encoder's."""
    return "encoder" if layer is None or layer in model.stacks["encoder"] else "decoder"


def answering_layers(model: Model) -> range:
    """Layers with a state where answers are read: the decoder's, or all of a model with one stack."""
    return model.stacks.get("decoder", range(model.n_layers))


def check_answering(model: Model, layers: Iterable[int]) -> None:
    """Check that layers have a state where answers are read.

    Raises:
        TracerError: one that does not exist, or that is in the encoder.
    """
    able = answering_layers(model)
    for layer in layers:
        if layer >= model.n_layers:
            raise OutOfRange(f"layer {layer} does not exist; {model.name} has {model.n_layers} layers, from 0")
        if layer not in able:
            raise EncoderDecoderError(
                f"layer {layer} of {model.name} is in the encoder, which has no state where answers are read; name "
                f"layers of the decoder, {able[0]} to {able[-1]}"
            )


def columns_of(model: Model, layer: int, ids: Tensor) -> int:
    """Columns of a layer's states in a forward over rows of ids [R, tokens]: one a token, or those of its stack."""
    return Layout.of(model, ids).columns(stack_of(model, layer)) if model.stacks else ids.shape[1]


def own_tokens(model: Model, layer: int, ids: Sequence[int]) -> range:
    """The tokens of a row that a layer has states of: all, or those that its stack reads."""
    if not model.stacks:
        return range(len(ids))
    source = source_length(model, ids)
    return range(source) if stack_of(model, layer) == "encoder" else range(source, len(ids))


def widened(model: Model, layer: int, rows: int) -> Callable[[Tensor], Tensor]:
    """What puts states at a layer, in the forward at hand over so many rows, into their columns, [rows, tokens, d].

    It can be kept for gradients, which come when the forward is over. Some models have rows and tokens flattened.
    """
    layout = layout_of(model)
    if layout is None:
        return lambda state: state.reshape(rows, -1, state.shape[-1])
    return partial(layout.spread, stack=stack_of(model, layer))


def in_rows(
    model: Model, layer: int | None, edit: Callable[[Tensor], Tensor | None]
) -> Callable[[Tensor], Tensor | None]:
    """`edit` of a state whose tokens are counted through the rows, for a hook at a layer.

    States of a model with one stack are in the rows' columns as they are.
    """
    if not model.stacks:
        return edit
    stack = stack_of(model, layer)

    def edited(state: Tensor) -> Tensor | None:
        layout = layout_of(model)
        assert layout is not None  # every forward is laid out: `run`, or `laying_out` around calls by others
        new = edit(layout.spread(state, stack))
        return None if new is None else layout.narrowed(new, state, stack)

    return edited


@contextmanager
def laid_out(model: Model, layout: Layout) -> Iterator[None]:
    """Context of one forward over rows that are laid out like this."""
    setattr(model.hf, MARK, layout)
    try:
        yield
    finally:
        delattr(model.hf, MARK)


@contextmanager
def laying_out(model: Model) -> Iterator[None]:
    """Context in which calls of the module by others, with `input_ids` and `decoder_input_ids`, are laid out too.

    Their rows are not looked into: every source counts as long as the longest, with its padding.
    """
    if model.style != "seq2seq":
        yield
        return
    own: list[bool] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        unlaid = layout_of(model) is None
        if unlaid:
            source, forced = kwargs.get("input_ids", args[0] if args else None), kwargs.get("decoder_input_ids")
            if source is None or forced is None:
                raise SiteError(
                    f"{model.name} was called without input_ids or decoder_input_ids, whose tokens are counted; "
                    "give both"
                )
            sources = torch.full((len(source),), source.shape[1])
            setattr(model.hf, MARK, Layout(sources, source.shape[1] + forced.shape[1]))
        own.append(unlaid)

    def after(*_: Any) -> None:
        if own and own.pop():
            delattr(model.hf, MARK)

    handles = [
        model.hf.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
        model.hf.register_forward_hook(after, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(model: Model, ids: Tensor, **arguments: Any) -> Any:
    """Run the module over rows of ids [R, tokens]; logits are in the rows' columns, [R, tokens, V] or as narrowed.

    Those of two stacks are filled up on the right, where no decoder looks, and keep no keys and values: they take none
    of the arguments.
    """
    if not model.stacks:
        return model.hf(input_ids=ids, **arguments)
    layout = Layout.of(model, ids)
    padding = getattr(model.hf.config, "pad_token_id", None)
    parts = layout.parts(ids, 0 if padding is None else int(padding))

    def widen(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (layout.spread(args[0], "decoder"), *args[1:])

    handle = model.module("unembed").register_forward_pre_hook(widen, prepend=True)
    try:
        with laid_out(model, layout):
            return model.hf(**parts, use_cache=False)
    finally:
        handle.remove()
