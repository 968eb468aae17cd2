"""A memory whose decisions somebody else makes: an oracle, a match of strings, or nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tracer.engine.acts import Asked, Hook, Ids
from tracer.engine.frame import evaluating
from tracer.engine.memories import remembering, resting

from .attach import memory_named
from .memory import Memory

if TYPE_CHECKING:
    from tracer.engine.frame import Frame
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Directed:
    """A memory as the engine sees it, with given decisions.

    Attributes:
        memory: whose entries act.
        decisions: by prompt; a prompt that is not among them is left alone.
    """

    memory: Memory
    decisions: Mapping[Ids, Any]

    @property
    def name(self) -> str:
        """That of the memory."""
        return self.memory.name

    @property
    def digest(self) -> str:
        """That of the memory, and who decides."""
        return f"{self.memory.digest} directed at {sorted(self.decisions)}"

    @property
    def rewrites(self) -> bool:
        """As the memory."""
        return self.memory.rewrites

    @property
    def in_front(self) -> bool:
        """As the memory's."""
        return self.memory.in_front

    def sites(self) -> Sequence[tuple[str, int]]:
        """As the memory."""
        return self.memory.sites()

    def decide(self, model: Model, prompts: Sequence[Ids]) -> Sequence[Any]:
        """The given decisions."""
        return [self.decisions.get(tuple(prompt)) for prompt in prompts]

    def ask(self, model: Model, prompt: Ids, decision: Any) -> Ids | Asked:
        """As the memory."""
        return self.memory.ask(model, prompt, decision)

    def hooks(self, model: Model, frame: Frame) -> Sequence[Hook]:
        """As the memory."""
        return self.memory.hooks(model, frame)


@contextmanager
def directed(model: Model, name: str, like: Mapping[Ids, Ids | None]) -> Iterator[Model]:
    """Context in which a memory acts on some prompts as it does on others, and on no more.

    What a memory can say is told apart from when it says it so: an oracle lets each paraphrase be answered as the
    edit's own prompt is, and nothing else.

    Args:
        model: that has the memory; afterwards it is as before.
        name: of the memory.
        like: for a prompt in tokens, the prompt whose decision it gets; None, and of prompts that are not among them:
            the memory stays out of it.

    Raises:
        TracerError: the model has no memory of this name.
    """
    memory = memory_named(model, name)
    asked = list(dict.fromkeys(other for other in like.values() if other is not None))
    others = [each for each in model.memories if each.name != name]
    with resting(model), torch.no_grad(), evaluating(model):  # as the engine asks
        own = dict(zip(asked, memory.decide(model, asked), strict=True)) if asked else {}
    decisions = {prompt: own[other] for prompt, other in like.items() if other is not None and own[other] is not None}
    with remembering(model, [*others, Directed(memory, decisions)]):
        yield model
