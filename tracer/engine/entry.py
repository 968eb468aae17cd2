"""The hooks by which memories act in every forward of a module, whoever calls it.

Those of the memories themselves are there only while a forward runs, before all others at their sites, so that a trace
of a model with memories is a trace of what it does with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tracer.errors import MemoryInTheWay
from tracer.model.attached import MARK, Attachable

from .acts import Hook
from .frame import Frame, attach

if TYPE_CHECKING:
    from tracer.model import Model

Decide = Callable[["Model", Sequence[Sequence[int]]], Frame | None]


class Entry:
    """The two hooks on a module between which its memories act.

    Args:
        model: whose module it is.
        memories: in the order in which they act.
        decide: frame of rows with given prompts, for forwards that nobody has given one.
    """

    def __init__(self, model: Model, memories: tuple[Attachable, ...], decide: Decide) -> None:
        self.model, self.memories, self.decide, self.rests = model, memories, decide, False
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

    def __deepcopy__(self, memo: dict[int, Any]) -> Entry:
        """The entry of a copy of the module, which has the same memories."""
        other = object.__new__(Entry)
        memo[id(self)] = other
        other.model, other.memories = replace(self.model, hf=memo[id(self.model.hf)]), self.memories
        other.decide, other.rests = self.decide, False
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
            frame = self.decide(self.model, prompts)
            assert frame is not None
            return frame.at(tokens, [-int(row.argmax()) for row in real], frame.lengths)
        frame = self.begun.get(cache)
        if frame is None or len(frame.ends) != len(ids):
            raise MemoryInTheWay(
                f"a forward of {self.model.name} goes on from keys and values of prompts that its memories have not "
                "seen; run the prompts with the memories attached, or let tracer.generate write"
            )
        return frame.at(tokens, real[:, :before].sum(1).tolist(), real.sum(1).tolist())
