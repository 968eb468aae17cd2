"""Rows run again and again while something beside the MLPs of some layers is trained.

What lies below the lowest of these layers is the same in every step, and is run once where the model takes to it
(`tracer.engine.aligned`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.memories.memory import Memory
from tracer.engine.aligned import Aligned, Trials
from tracer.engine.batch import Row, frame_of, logits_of, padded
from tracer.engine.forward import Stop
from tracer.engine.frame import Frame, attach
from tracer.engine.hooks import pick_logits
from tracer.engine.partial import rows_at_once
from tracer.errors import HyperparameterError
from tracer.facts.readout import Readout

if TYPE_CHECKING:
    from editing.request import EditRequest
    from tracer.model import Model

Added = Callable[[Tensor, Sequence[int]], Tensor]
"""`added(x, rows)` gives what is to be added [R, N, d_model] to the MLP's contribution, for what enters the MLP [R, N,
d_model] in some of the rows."""


def present(model: Model, name: str, kind: str) -> Memory | None:
    """The memory of a model with a name; None: it has none.

    Args:
        model: the model.
        name: of the memory.
        kind: that it is expected to be of.

    Raises:
        TracerError: one of another kind.
    """
    found = next((memory for memory in model.memories if memory.name == name), None)
    if found is not None and (not isinstance(found, Memory) or found.kind != kind):
        raise HyperparameterError(
            f"the memory {name!r} of {model.name} is of the kind {getattr(found, 'kind', '?')!r}, not {kind!r}; give "
            "the new one another name (name=...), or take that one off"
        )
    return found


def row_of(model: Model, request: EditRequest) -> Row:
    """A request as a row: its target's tokens are read each after those before it, a masked model's at their masks.

    Args:
        model: whose tokenizer is used.
        request: the fact to write.
    """
    found = request.fact.align(model)
    readout = Readout.of(model, found)
    return Row(readout.ids, found.answer_position, readout.read, readout.target)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Rows that share a forward.

    Attributes:
        places: of the rows in the whole.
        rows: these.
        short: as recorded up to the first layer concerned; None: they are run whole.
    """

    places: tuple[int, ...]
    rows: tuple[Row, ...]
    short: Aligned | None


class Beside:
    """Some rows of a model, without the memories that are to be trained.

    Args:
        model: as it is; its memories act.
        rows: to be run.
        layers: beside whose MLPs something is added.
        trials: what is known of the ways in which the model can be run.
        max_rows: rows that share a forward; None: by memory.
    """

    def __init__(
        self, model: Model, rows: Sequence[Row], layers: Sequence[int], trials: Trials, max_rows: int | None
    ) -> None:
        self.model, self.layers = model, tuple(layers)
        start = min(layers)
        # behind the last block's MLP no token reaches another
        lookup = (lambda row: row.read[0]) if start == model.n_layers - 1 else (lambda _: 0)
        rows = [Row(row.ids, lookup(row), row.read, row.target) for row in rows]
        short = model.causal and trials.takes(model, rows, start)
        order = sorted(range(len(rows)), key=lambda place: (len(rows[place].ids), place))
        self.chunks = []
        for some in _batches(model, rows, order, rows_at_once(model, rows, start, max_rows)):
            own = tuple(rows[place] for place in some)
            recorded = Aligned.recorded(model, own, start, ())[0] if short else None
            self.chunks.append(_Chunk(tuple(some), own, recorded))

    def run(self, added: Mapping[int, Added], only: frozenset[int] | None = None) -> Iterator[dict[int, Tensor]]:
        """Log-probabilities [len(read), V], float32 at least, by row; one batch at a time, each with gradients.

        Args:
            added: by layer.
            only: rows that are wanted; None: all. A batch without any of them is left out.
        """
        for chunk in self.chunks:
            if only is None or not only.isdisjoint(chunk.places):
                yield dict(zip(chunk.places, self._run(chunk, added), strict=True))

    def _run(self, chunk: _Chunk, added: Mapping[int, Added]) -> list[Tensor]:
        counts = [len(row.read) for row in chunk.rows]
        with ExitStack() as stack:
            if chunk.short is not None:
                frame = Frame(chunk.short.ids.shape[1])
                for layer, add in added.items():
                    _attach(self.model, layer, add, chunk.places, frame, stack)
                # a site inside the MLP, so that it computes every token
                nothing = torch.zeros(len(chunk.rows), self.model.d_model, device=chunk.short.ids.device)
                return chunk.short.run({("mlp_in", layer): nothing for layer in added})
            ids = padded(self.model, chunk.rows)
            frame = frame_of(self.model, chunk.rows, ids.shape[1]) or Frame(ids.shape[1])
            for layer, add in added.items():
                _attach(self.model, layer, add, chunk.places, frame, stack)
            line = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
            token = torch.tensor([position for row in chunk.rows for position in row.read])
            stack.callback(pick_logits(self.model, line, token).remove)
            read = logits_of(self.model, ids, _real(self.model, chunk.rows), frame if frame.ends else None)[0]
        read = read if read.dtype == torch.float64 else read.float()
        return list(read.log_softmax(-1).split(counts))


def states_of(
    model: Model, rows: Sequence[Sequence[int]], kind: str, layer: int, max_rows: int | None = None
) -> list[Tensor]:
    """States at a site at every token of rows of ids, [tokens, width] each, in the model's number type.

    Args:
        model: as it is.
        rows: ids of texts.
        kind: of the site.
        layer: of the site.
        max_rows: rows that share a forward; None: by memory.
    """
    found: dict[int, Tensor] = {}
    texts = [Row(tuple(ids), 0, (len(ids) - 1,)) for ids in rows]
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for some in _batches(model, texts, order, rows_at_once(model, texts, 0, max_rows)):
        own = [texts[place] for place in some]
        ids = padded(model, own)

        def keep(state: Tensor, some: Sequence[int] = some, own: Sequence[Row] = own) -> None:
            for place, row, states in zip(some, own, state, strict=True):
                found[place] = states[: len(row.ids)].detach().clone()
            raise Stop

        frame = frame_of(model, own, ids.shape[1]) or Frame(ids.shape[1])
        handle = attach(model, kind, layer, keep, frame)
        try:
            with torch.no_grad(), suppress(Stop):
                logits_of(model, ids, _real(model, own), frame if frame.ends else None)
        finally:
            handle.remove()
    return [found[place] for place in range(len(rows))]


def _attach(model: Model, layer: int, add: Added, places: Sequence[int], frame: Frame, stack: ExitStack) -> None:
    seen: list[Tensor] = []

    def write(state: Tensor) -> Tensor:
        return state + add(seen.pop(), places).to(state.dtype)

    stack.callback(attach(model, "mlp_in", layer, seen.append, frame).remove)
    stack.callback(attach(model, "mlp", layer, write, frame).remove)


def _batches(model: Model, rows: Sequence[Row], order: Sequence[int], size: int) -> Iterator[list[int]]:
    """Places of rows that share a forward; those of a masked model, which sees padding, are of one length."""
    some: list[int] = []
    for place in order:
        other = bool(some) and not model.causal and len(rows[some[0]].ids) != len(rows[place].ids)
        if len(some) == size or other:
            yield some
            some = []
        some.append(place)
    if some:
        yield some


def _real(model: Model, rows: Sequence[Row]) -> Tensor | None:
    """Masked models are told what is no padding, though there is none."""
    return None if model.causal else torch.ones(len(rows), len(rows[0].ids), dtype=torch.bool)
