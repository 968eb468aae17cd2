"""The logit lens: what a model would say if its state after an inner block were already its last one.

The states go through all that stands above the last block, as the model runs it: final norm, projection, unembedding,
whatever scales or caps logits. So the last layer's logits are the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.errors import EncoderDecoderError, out_of_memory
from tracer.model.vocabulary import check_ids
from tracer.progress import track

from .batch import logits_of, pad
from .forward import Stop
from .frame import Frame, attach, evaluating
from .line import Line, reworded
from .memories import forward, resting
from .row_budget import check_max_rows, default_rows
from .sites import Site, check_site
from .sweep import check_numbers

if TYPE_CHECKING:
    from tracer.model import Model


def logit_lens(
    model: Model,
    lines: Sequence[Line],
    measure: Callable[[int, Tensor], Any],
    *,
    layers: Sequence[int] | None = None,
    max_rows: int | None = None,
) -> list[Any]:
    """`measure` of what the output of each block says where each line's answer begins, in the order of the lines.

    Memories of the model act; where one lets another model answer, the blocks are that one's. The model is left as it
    was found.

    Args:
        model: the model.
        lines: the prompts.
        measure: `measure(place, log_probs [layers, V])`, natural logarithm, called once a line, so that no more is
            kept; `place` is the line's.
        layers: blocks to read, negative from the end; None: every one of the model that answers.
        max_rows: most prompts in a forward; None: by memory.

    Raises:
        TracerError: a layer that does not exist, logits that are not numbers, an encoder-decoder model.
    """
    check_max_rows(max_rows)
    if model.style == "seq2seq":
        raise EncoderDecoderError(
            f"{model.name} is an encoder-decoder model, whose inner states are not read as answers; trace it instead"
        )
    found: list[Any] = [None] * len(lines)
    for answering, places, own, frame in reworded(model, lines):
        depth = answering.n_layers
        read = [layer + depth * (layer < 0) for layer in (range(depth) if layers is None else layers)]
        for layer in read:
            check_site(answering, Site("hidden", layer))
        chunks = _chunks(answering, own, len(read), max_rows)
        with torch.no_grad(), evaluating(answering):
            for some in track(chunks, "reading layers", len(chunks)):
                states = _states(answering, [own[i] for i in some], read, frame and frame.select(some))
                logits = _through(answering, states.flatten(0, 1)).unflatten(0, states.shape[:2])
                for column, i in enumerate(some):
                    found[places[i]] = measure(places[i], logits[:, column].float().log_softmax(-1))
    return found


def _chunks(model: Model, lines: Sequence[Line], read: int, max_rows: int | None) -> list[list[int]]:
    """Places of lines that share a forward, those of similar length; a masked model would see what fills them up."""
    order = sorted(range(len(lines)), key=lambda i: len(lines[i].ids))
    lengths = [len(lines[i].ids) for i in order]
    ends = [0, len(lines)]
    if not model.causal:
        ends[1:1] = [i for i in range(1, len(lines)) if lengths[i] != lengths[i - 1]]
    step = max_rows or default_rows(model, lengths[-1], read)
    return [order[i : min(i + step, end)] for start, end in pairwise(ends) for i in range(start, end, step)]


def _states(model: Model, lines: Sequence[Line], layers: Sequence[int], frame: Frame | None) -> Tensor:
    """Outputs of blocks where the answer of each line begins, [layers, lines, d_model]."""
    ids = pad([line.ids for line in lines])
    check_ids(model, ids)
    frame = Frame(ids.shape[1]) if frame is None else frame.at(ids.shape[1], lengths=[len(line.ids) for line in lines])
    at = torch.tensor([len(line.ids) - 1 if line.first is None else line.first for line in lines])
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor], None]:
        def edit(state: Tensor) -> None:
            found[layer] = state[torch.arange(len(lines), device=state.device), at.to(state.device)]

        return edit

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(attach(model, "hidden", layer, keep(layer), frame).remove)
        stack.callback(model.module("hidden", max(layers)).register_forward_hook(Stop.here).remove)
        with suppress(Stop):
            forward(model, ids.to(model.device), frame)
    return torch.stack([found[layer].to(model.device) for layer in layers])


def _through(model: Model, states: Tensor) -> Tensor:
    """Logits [n, V] of states [n, d_model], each in the place of the last block's output."""

    def logits(rows: int) -> Tensor:
        handle = attach(model, "hidden", model.n_layers - 1, lambda _: states.unsqueeze(1), Frame(1))
        try:
            with resting(model):  # what acts there has acted on the states already
                return logits_of(model, torch.zeros(rows, 1, dtype=torch.long))
        finally:
            handle.remove()

    try:
        found = logits(1)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        found = logits(len(states))  # the model counts its rows again (GPT-BigCode): one for every state
    return check_numbers(model, found)[:, 0]
