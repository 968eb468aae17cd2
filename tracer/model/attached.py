"""What a model has besides its weights: memories, values that act through hooks while it runs.

A memory belongs to a package above this one, which knows its kinds. Here it is opaque: it has a name and a digest, and
it says what it does when the engine asks. Memories are kept on the Hugging Face module itself, since every handle on
that module is the same model; parameters, buffers, types of modules and `save_pretrained` stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .identity import joined

if TYPE_CHECKING:
    from torch import nn

MARK = "_tracer_memories"  # attribute of the Hugging Face module


class Attachable(Protocol):
    """A memory as the engine sees it; `tracer.engine.memories` calls its methods.

    `model` is the [`tracer.Model`][] that is asked.

    Attributes:
        name: of which a model has one memory.
        digest: hash of all that it is.
        rewrites: whether it may put other ids in the place of a prompt.
        in_front: whether these are places for vectors in front of the prompt, so that it asks after all others.
    """

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def digest(self) -> str:
        """Its digest."""
        ...

    @property
    def rewrites(self) -> bool:
        """Whether it rewrites."""
        ...

    @property
    def in_front(self) -> bool:
        """Whether it puts vectors in front."""
        ...

    def sites(self) -> Sequence[tuple[str, int]]:
        """Kinds and layers of the sites it reads or writes."""
        ...

    def decide(self, model: Any, prompts: Sequence[tuple[int, ...]]) -> Sequence[Any]:
        """The decision for each prompt, from the prompt alone; None: it stays out of that row.

        The model answers as if no memory was attached meanwhile.
        """
        ...

    def ask(self, model: Any, prompt: tuple[int, ...], decision: Any) -> Any:
        """What is run in the place of a prompt: ids, or a `tracer.engine.acts.Asked`."""
        ...

    def hooks(self, model: Any, frame: Any) -> Sequence[Any]:
        """The `tracer.engine.acts.Hook`s of a forward."""
        ...


def attached_to(hf: nn.Module) -> tuple[Attachable, ...]:
    """The memories of a module, by name."""
    return getattr(hf, MARK).memories if hasattr(hf, MARK) else ()


def with_memories(fingerprint: str, memories: Iterable[Attachable]) -> str:
    """The fingerprint of weights and memories; that of the weights where there are none."""
    lines = [f"{memory.name}|{memory.digest}" for memory in memories]
    return joined(fingerprint, lines) if lines else fingerprint
