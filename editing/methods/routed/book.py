"""A memory with a router, while edits are added to it; of two for one prompt the later one stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.change import MemoryChange
from editing.memories.lines import packed
from editing.memories.memory import Memory
from editing.memories.registry import kind_named
from editing.memories.routed import Own, router_of
from editing.memories.routing.router import NAME, Router
from editing.methods.beside import present
from tracer.engine.memories import resting
from tracer.errors import HyperparameterError
from tracer.facts.readout import answer_text

if TYPE_CHECKING:
    from editing.request import EditRequest
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Book:
    """A memory that is to be added to.

    Attributes:
        model: that has it.
        name: of the memory.
        kind: of the memory.
        router: finds its entries.
        header: of the memory, less what its router says.
        before: as it is; None: there is none yet.
    """

    model: Model
    name: str
    kind: str
    router: Router
    header: Mapping[str, Any]
    before: Memory | None

    @classmethod
    def open(cls, model: Model, name: str, kind: str, router: Router, header: Mapping[str, Any] | None = None) -> Book:
        """The memory of a model with a name, or a new one.

        Args:
            model: to be edited.
            name: of the memory.
            kind: of the memory.
            router: to find entries with.
            header: further words of the memory, as they are in one that was begun.

        Raises:
            TracerError: it is of another kind, or was begun with another router or other words.
        """
        before, header = present(model, name, kind), dict(header or {})
        router.check(model)
        if before is not None:
            begun = router_of(before)
            if begun.digest != router.digest:
                raise HyperparameterError(
                    f"the memory {name!r} of {model.name} was begun with the {begun!r}, and this edit asks for the "
                    f"{router!r}; leave that to it, or give this one another name, such as name='{name}-2'"
                )
            for word, value in header.items():
                if before.header.get(word) != value:
                    raise HyperparameterError(
                        f"the memory {name!r} of {model.name} was begun with {word}={before.header.get(word)!r}, and "
                        f"this edit asks for {value!r}; leave that to it, or give this one another name, such as "
                        f"name='{name}-2'"
                    )
        return cls(model, name, kind, router, header, before)

    def added(
        self, lines: Sequence[Mapping[str, Any]], own: Sequence[Own], header: Mapping[str, Any] | None = None
    ) -> tuple[MemoryChange, Tensor, str]:
        """The change that adds entries, their keys [entries, width], and a remark or "".

        Args:
            lines: of the entries.
            own: what they own of the kind's tensors.
            header: of the memory from now on, where entries change it.
        """
        acts = kind_named(self.kind)
        with resting(self.model):
            keys = self.router.keys(self.model, lines)
        newest = {line["prompt"]: place for place, line in enumerate(lines)}
        chosen = sorted(newest.values())
        former = acts.lines_of(self.before) if self.before is not None else []
        kept = [place for place, line in enumerate(former) if line["prompt"] not in newest]
        words = {NAME: self.router.header(), **(self.header if header is None else header)}
        parts = [acts.own(self.before)[place] for place in kept] if self.before is not None and kept else []
        parts += [own[place] for place in chosen]
        stays = self.before.tensors["keys"][kept] if self.before is not None else keys[:0]
        tensors = {
            **self.router.stored(),
            **acts.stacked(parts, words),
            "keys": torch.cat([stays, keys[chosen]]),
            "about": packed([*(former[place] for place in kept), *(lines[place] for place in chosen)]),
        }
        after = Memory(self.name, self.kind, self.model.weights_fingerprint(), tensors, words)
        gone = len(former) - len(kept) + len(lines) - len(chosen)
        note = f"{gone} earlier edits of the same prompts were overwritten" if gone else ""
        return MemoryChange.between(self.before, after), keys, note


def line_of(model: Model, request: EditRequest) -> dict[str, Any]:
    """What is known of an entry.

    Args:
        model: whose tokens are meant.
        request: the edit.
    """
    found = request.fact.align(model)
    return {
        "prompt": request.text,
        "ids": list(found.input_ids),
        "target": answer_text(model, found.target_ids),
        "subject": request.subject,
    }
