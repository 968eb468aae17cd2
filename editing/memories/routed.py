"""What kinds of memories have in common whose entries a router finds: everything but what an entry does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tracer.errors import MemoryMisfit

from .checks import check_about, check_parts, others
from .kind import Kind
from .lines import packed, unpacked
from .route import Route
from .routing.router import NAME, Router
from .small import Parts

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

    from .memory import Memory

Own = Mapping[str, Tensor]
"""What one entry has of the tensors of its kind, by name."""


class RoutedKind(Kind):
    """A kind whose entries a [`editing.memories.routing.Router`][] finds.

    A memory has the tensors `keys` [n, width], `about` (json lines: "prompt", "ids", "target", "subject" and what the
    kind adds) and those of the router ("router/..."), and in its header `router`. A kind of its own says what its
    entries own besides, and what they do (`ask` or `hooks`).

    Attributes:
        owned: names of the tensors with one row [...] for each entry.
    """

    owned: ClassVar[tuple[str, ...]] = ()

    # --- what entries own ------------------------------------------------------------------------------------------
    def own(self, memory: Memory) -> list[Own]:
        """What each entry owns of the kind's tensors."""
        return [
            {name: memory.tensors[name][entry] for name in self.owned} for entry in range(len(self.lines_of(memory)))
        ]

    def stacked(self, own: Sequence[Own], header: Mapping[str, Any]) -> dict[str, Tensor]:
        """The kind's tensors of what entries own; the header is the memory's."""
        return {name: torch.stack([one[name] for one in own]) if own else torch.zeros(0) for name in self.owned}

    # --- as of every kind ------------------------------------------------------------------------------------------
    def routes(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        """As the router decides."""
        return router_of(memory).routes(model, prompts, memory.tensors["keys"], self.lines_of(memory))

    def keys(self, memory: Memory) -> Tensor | None:
        """What entries are known by; None: by their texts."""
        return memory.tensors["keys"] if memory.tensors["keys"].shape[-1] else None

    def queries(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Tensor | None:
        """What prompts are compared by; None: their texts."""
        return router_of(memory).queries(model, prompts) if self.keys(memory) is not None else None

    def lines_of(self, memory: Memory) -> list[dict[str, Any]]:
        """What is known of each entry."""
        return Parts.of(memory).make("lines", lambda: unpacked(memory.tensors["about"]))

    def entries(self, memory: Memory) -> list[dict[str, Any]]:
        """Prompt, subject and target of each entry, and the bytes it takes."""
        keys = memory.tensors["keys"]
        width = keys.shape[-1] * keys.element_size()
        return [
            {
                **{name: line[name] for name in ("prompt", "subject", "target")},
                "bytes": width + sum(each.nbytes for each in own.values()) + len(str(line).encode()),
            }
            for line, own in zip(self.lines_of(memory), self.own(memory), strict=True)
        ]

    def without(self, memory: Memory, entry: int) -> Memory:
        """A memory without one of its entries."""
        lines = self.lines_of(memory)
        return self.taking(memory, others(memory, entry, len(lines)))

    def taking(self, memory: Memory, keep: Sequence[int]) -> Memory:
        """A memory with some of its entries, in this order.

        Args:
            memory: of this kind.
            keep: which of them, from 0.
        """
        own, lines = self.own(memory), self.lines_of(memory)
        tensors = {**memory.tensors, **self.stacked([own[entry] for entry in keep], memory.header)}
        tensors |= {"keys": memory.tensors["keys"][list(keep)], "about": packed([lines[entry] for entry in keep])}
        return replace(memory, tensors=tensors)

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The same entries at keys in random directions of the same lengths."""
        if "keys" not in rows or not rows["keys"].shape[-1]:
            return dict(rows)
        return {**rows, **super().control({"keys": rows["keys"]}, generator)}

    def check(self, memory: Memory, model: Model) -> None:
        """That keys, texts and router belong together, and that the router can read the model.

        Raises:
            TracerError: they do not.
        """
        check_parts(memory, ("keys", "about", *self.owned), (NAME,))
        super().check(memory, model)
        router, keys = router_of(memory), memory.tensors["keys"]
        router.check(model)
        check_about(memory, len(keys))
        width = router.own_features.width(router, model)
        if keys.dim() != 2 or keys.shape[-1] != width:
            raise MemoryMisfit(
                f"the tensor 'keys' of the memory {memory.name!r} is {list(keys.shape)}; expected a last dimension of "
                f"{width}, which its router reads of {model.name}. Make the memory on this model"
            )
        short = [name for name in self.owned if len(memory.tensors[name]) != len(keys)]
        if short:
            raise MemoryMisfit(
                f"the tensor {short[0]!r} of the memory {memory.name!r} has {len(memory.tensors[short[0]])} rows for "
                f"{len(keys)} entries; make it again"
            )


def router_of(memory: Memory) -> Router:
    """The router of a memory, read once.

    Args:
        memory: of a kind with a router.

    Raises:
        TracerError: it has none.
    """
    return Router.of(memory.header, memory.tensors, vars(memory)["_held"])
