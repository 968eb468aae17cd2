"""Memories in the engine: every forward of a model passes here, so that what is attached to it acts in all of them.

A memory decides once per prompt, from the prompt alone, before anything is run: neither other rows, nor padding, nor
the answer that is forced or written can change a decision, and a row keeps its own while its answer is written. What it
decided stands in the `Frame` of each forward, which the engine's ways of asking give; a call of `model.hf` by someone
else has its rows' prompts read off its ids and attention mask, and goes on from a cache with the decisions of the
forward that began it.

Hooks are there only while a forward runs, before all others at their sites, so that a trace of a model with memories is
a trace of what it does with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tracer.errors import MemoryInTheWay, MemoryNameTaken, PromptTooLong
from tracer.model.attached import MARK, Attachable

from .acts import Asked, Hook, Ids
from .frame import Frame, attach, evaluating
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
        setattr(model.hf, MARK, _Entry(model, tuple(wanted)))


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
        arguments: others of the module's.
    """
    entry = _entry(model)
    if entry is None:
        return model.hf(input_ids=ids, **arguments)
    with entry.given(frame if frame is not None and frame.ends else None):
        return model.hf(input_ids=ids, **arguments)


def _entry(model: Model) -> _Entry | None:
    return getattr(model.hf, MARK, None)


class _Entry:
    """The two hooks on a module between which its memories act."""

    def __init__(self, model: Model, memories: tuple[Attachable, ...]) -> None:
        self.model, self.memories, self.rests = model, memories, False
        self.kept: dict[Any, Any] | None = None  # what was found out about prompts
        self.told: Frame | None = None  # the frame that is given for the next forward
        self.frame: Frame | None = None  # that of the forward at hand
        self.acting = ExitStack()
        self.begun: WeakKeyDictionary[Any, Frame] = WeakKeyDictionary()  # by cache
        hf = model.hf
        self.handles = [
            hf.register_forward_pre_hook(self.before, with_kwargs=True, prepend=True),
            hf.register_forward_hook(self.after, always_call=True),
        ]

    def remove(self) -> None:
        """Take the memories off the module."""
        self.acting.close()
        for handle in self.handles:
            handle.remove()
        delattr(self.model.hf, MARK)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Entry:
        """The entry of a copy of the module, which has the same memories."""
        other = object.__new__(_Entry)
        memo[id(self)] = other
        other.model, other.memories, other.rests = replace(self.model, hf=memo[id(self.model.hf)]), self.memories, False
        other.kept = other.told = other.frame = None
        other.acting, other.begun = ExitStack(), WeakKeyDictionary()
        other.handles = deepcopy(self.handles, memo)
        return other

    @contextmanager
    def given(self, frame: Frame | None) -> Iterator[None]:
        """Context of one forward with this frame."""
        self.told = frame
        try:
            yield
        finally:
            self.told = None
            self.acting.close()  # also after an interruption, which the hook behind does not see

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let the memories act in the forward that begins."""
        if self.rests:
            return
        self.acting.close()
        self.frame = self.told or self._read(args, kwargs)
        with ExitStack() as stack:
            for memory in reversed(self.memories):  # prepended: the first comes to stand before the others
                if any(each is not None for each in self.frame.decided[memory.name]):
                    for hook in reversed(memory.hooks(self.model, self.frame)):
                        self._install(hook, self.frame, stack, self.frame.decided[memory.name])
            self.acting = stack.pop_all()

    def after(self, _: nn.Module, __: Any, output: Any) -> None:
        """Take the hooks off; whatever goes on from the cache that was filled has the same prompts."""
        if self.rests:
            return
        self.acting.close()
        cache = getattr(output, "past_key_values", None)
        if self.frame is not None and cache is not None:
            self.begun[cache] = self.frame
        self.frame = None

    def _install(self, hook: Hook, frame: Frame, stack: ExitStack, decisions: Sequence[Any]) -> None:
        seen: list[Tensor] = []
        apart = any(each is None for each in decisions)

        def act(state: Tensor) -> Tensor | None:
            new = hook.act(seen.pop() if hook.read is not None else state, state, frame)
            if new is None or not apart:
                return new
            acted = [decisions[row] is not None for row in frame.rows(len(state))]  # others keep their very bits
            return torch.where(torch.tensor(acted, device=state.device).view(-1, 1, 1), new, state)

        stack.callback(attach(self.model, *hook.write, act, frame, prepend=True).remove)
        if hook.read is not None:
            stack.callback(attach(self.model, *hook.read, seen.append, frame, prepend=True).remove)

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Frame:
        """The frame of a forward that nobody has given one."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise MemoryInTheWay(
                f"{self.model.name} has memories, which decide by a prompt's ids, and was given embeddings; give "
                "input_ids, or take the memories off"
            )
        mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        tokens = ids.shape[1]
        before = 0 if cache is None else int(cache.get_seq_length())
        real = torch.ones(len(ids), before + tokens, dtype=torch.long)
        if mask is not None and mask.shape == real.shape:
            real = mask.long().cpu()
        if not before:
            prompts = [tuple(row[keep.bool()].tolist()) for row, keep in zip(ids.cpu(), real, strict=True)]
            frame = decided(self.model, prompts)
            assert frame is not None
            return frame.at(tokens, [-int(row.argmax()) for row in real], frame.lengths)
        frame = self.begun.get(cache)
        if frame is None or len(frame.ends) != len(ids):
            raise MemoryInTheWay(
                f"a forward of {self.model.name} goes on from keys and values of prompts that its memories have not "
                "seen; run the prompts with the memories attached, or let tracer.generate write"
            )
        return frame.at(tokens, real[:, :before].sum(1).tolist(), real.sum(1).tolist())
