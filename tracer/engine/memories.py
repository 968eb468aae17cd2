"""Memories in the engine: every forward of a model passes here, so that what is attached to it acts in all of them.

A memory decides once per prompt, from the prompt alone, before anything is run: neither other rows, nor padding, nor
the answer that is forced or written can change a decision, and a row keeps its own while its answer is written. What it
decided stands in the `Frame` of each forward, which the engine's ways of asking give; a call of `model.hf` by someone
else has its rows' prompts read off its ids and attention mask, and goes on from a cache with the decisions of the
forward that began it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.errors import MemoryInTheWay, MemoryNameTaken, PromptTooLong
from tracer.model.attached import MARK, Attachable

from .acts import Asked, Ids
from .entry import Entry
from .frame import Frame, evaluating
from .layout import run
from .sites import INNER

if TYPE_CHECKING:
    from tracer.model import Model


# --- what is attached ------------------------------------------------------------------------------------------------
def set_memories(model: Model, memories: Iterable[Attachable]) -> None:
    """Let a model have these memories and no others; they act in the order of their names.

    Raises:
        TracerError: two of one name.
    """
    wanted = sorted(memories, key=lambda memory: memory.name)
    for one, two in pairwise(wanted):
        if one.name == two.name:
            raise MemoryNameTaken(
                f"{model.name} cannot have two memories named {one.name!r}; give one of them another name, or take the "
                "other off first"
            )
    entry = _entry(model)
    if entry is not None:
        entry.remove()
    if wanted:
        setattr(model.hf, MARK, Entry(model, tuple(wanted), decided))


@contextmanager
def remembering(model: Model, memories: Iterable[Attachable]) -> Iterator[Model]:
    """Context in which a model has these memories and no others; afterwards it has those of before."""
    before = model.memories
    try:
        set_memories(model, memories)
        yield model
    finally:
        set_memories(model, before)


@contextmanager
def resting(model: Model) -> Iterator[None]:
    """Context in which the memories of a model do nothing; it is still the same model."""
    entry = _entry(model)
    if entry is None:
        yield
        return
    was, entry.rests = entry.rests, True
    try:
        yield
    finally:
        entry.rests = was


@contextmanager
def deciding_once(model: Model) -> Iterator[None]:
    """Context in which memories may keep what they find out about prompts (`kept`), since the weights do not change."""
    entry = _entry(model)
    if entry is None or entry.kept is not None:
        yield
        return
    entry.kept = {}
    try:
        yield
    finally:
        entry.kept = None


def kept(model: Model) -> dict[Any, Any] | None:
    """What memories keep, by the digest of the memory and the prompt; None outside of `deciding_once`."""
    entry = _entry(model)
    return None if entry is None else entry.kept


def acts_inside(model: Model, layer: int) -> bool:
    """Whether a memory reads or writes inside the MLP of a layer, which has to compute every token then."""
    kinds = (*INNER, "mlp", "mlp_input")
    return any(kind in kinds and at == layer for memory in model.memories for kind, at in memory.sites())


# --- what they decide ------------------------------------------------------------------------------------------------
def decided(model: Model, prompts: Sequence[Sequence[int]]) -> Frame | None:
    """Frame of rows with these prompts, as of a forward over the prompts themselves; None without memories.

    Raises:
        TracerError: a memory would put another question in the place of one of them.
    """
    frame = _decided(model, [tuple(prompt) for prompt in prompts])
    for memory in model.memories if frame is not None else ():
        if memory.rewrites and any(each is not None for each in frame.decided[memory.name]):  # type: ignore[union-attr]
            raise MemoryInTheWay(
                f"the memory {memory.name!r} of {model.name} answers another question than the one that is put, whose "
                "tokens are not those to be read here; ask in text (tracer.generate), or take the memory off"
            )
    return frame


def acting(model: Model, prompts: Sequence[Sequence[int]]) -> list[bool]:
    """Whether any memory of a model acts on each prompt."""
    frame = _decided(model, [tuple(prompt) for prompt in prompts])
    if frame is None:
        return [False] * len(prompts)
    return [any(each[row] is not None for each in frame.decided.values()) for row in range(len(prompts))]


def of_text(model: Model, ids: Tensor) -> Frame | None:
    """Frame of running text [rows, tokens]; None without memories.

    It asks nothing, so that memories which answer another question than the one that is put stay out of it.
    """
    frame = _decided(model, [tuple(row) for row in ids.tolist()])
    if frame is None:
        return None
    rewriting = {memory.name for memory in model.memories if memory.rewrites}
    none = (None,) * len(ids)
    told = {name: none if name in rewriting else each for name, each in frame.decided.items()}
    return replace(frame, decided=told).at(ids.shape[1])


def read_at(model: Model, ids: Tensor, positions: Sequence[int]) -> Frame | None:
    """Frame of a forward over ids [rows, tokens] whose logits are read at some positions; None without memories.

    The prompts of a causal model end at the first of them, and what comes behind is an answer.
    """
    frame = decided(model, ids[:, : min(positions) + 1 if model.causal else None].tolist())
    return frame and frame.at(ids.shape[1])


def asked(model: Model, prompts: Sequence[Ids]) -> tuple[list[Asked], Frame | None]:
    """What is to be run for each prompt, and the frame of that.

    Raises:
        TracerError: a prompt that becomes longer than the context.
    """
    frame = _decided(model, prompts)
    found = [Asked(prompt) for prompt in prompts]
    if frame is None:
        return found, None
    fronted: dict[int, str] = {}
    for memory in sorted(model.memories, key=lambda memory: memory.in_front):
        for row, decision in enumerate(frame.decided[memory.name]):
            if memory.rewrites and decision is not None:
                if memory.in_front and (row in fronted or found[row].model is not None):
                    other = repr(fronted[row]) if row in fronted else "one whose answers another model gives"
                    raise MemoryInTheWay(
                        f"the memories {memory.name!r} and {other} of {model.name} both act on one prompt, and vectors "
                        "can be put in front of it by one alone; take one of them off"
                    )
                if memory.in_front:
                    fronted[row] = memory.name
                new = memory.ask(model, found[row].ids, decision)
                found[row] = new if isinstance(new, Asked) else Asked(tuple(new), found[row].model)
                if len(found[row].ids) > model.n_ctx:
                    raise PromptTooLong(
                        f"the memory {memory.name!r} makes the prompt {len(found[row].ids)} tokens long and "
                        f"{model.name} reads at most {model.n_ctx}; shorten the prompt, or what the memory holds"
                    )
    return found, replace(frame, ends=tuple(len(each.ids) - 1 for each in found))


def _decided(model: Model, prompts: Sequence[Ids]) -> Frame | None:
    entry = _entry(model)
    if entry is None or entry.rests or not prompts:  # it rests while one of them decides by a state
        return None
    distinct = list(dict.fromkeys(prompts))
    found: dict[str, tuple[Any, ...]] = {}
    with resting(model), torch.no_grad(), evaluating(model):
        for memory in entry.memories:
            of = dict(zip(distinct, memory.decide(model, distinct), strict=True))
            found[memory.name] = tuple(of[prompt] for prompt in prompts)
    lengths = tuple(map(len, prompts))
    ends = tuple(length - 1 for length in lengths)
    return Frame(max(lengths), (0,) * len(lengths), ends, lengths, found)


# --- one place through which forwards pass ---------------------------------------------------------------------------
def forward(model: Model, ids: Tensor, frame: Frame | None = None, **arguments: Any) -> Any:
    """Run the Hugging Face module.

    Args:
        model: the model.
        ids: [rows, tokens].
        frame: of the forward; None: read off the ids. A model without memories needs none.
        arguments: others of the module's; an encoder-decoder model takes none (`tracer.engine.layout`).
    """
    entry = _entry(model)
    if entry is None:
        return run(model, ids, **arguments)
    with entry.given(frame if frame is not None and frame.ends else None):
        return run(model, ids, **arguments)


def _entry(model: Model) -> Entry | None:
    return getattr(model.hf, MARK, None)
