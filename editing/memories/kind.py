"""What a kind of memory has to say: what it decides, what it asks instead, and what it does where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tracer.engine.acts import Asked, Hook, Ids
from tracer.engine.hooks import check_site
from tracer.engine.sites import Site
from tracer.errors import MemoryMisfit, SiteError

from .route import Decision, Route

if TYPE_CHECKING:
    from tracer.engine.frame import Frame
    from tracer.model import Model

    from .memory import Memory

__all__ = ["Decision", "Kind", "Route"]


class Kind:
    """A kind of memory; a class of its own says what differs from this one, which acts nowhere.

    A kind has no state. What it keeps is in a `Memory`'s tensors, whose rows are entries, and in its header.

    Attributes:
        widths: the last dimension of each tensor that has to be as wide as the model is, by the model's name for it:
            "d_model", "d_mlp", "n_tokens".
        rewrites: whether `ask` puts other questions in the place of prompts.
        in_front: whether it only makes room in front of them, for vectors that hooks put there.
        per_entry: names of the tensors with a row, and of the lists in the header with an element, for each entry.
    """

    widths: ClassVar[Mapping[str, str]] = {}
    rewrites: ClassVar[bool] = False
    in_front: ClassVar[bool] = False
    per_entry: ClassVar[tuple[str, ...]] = ()

    def sites(self, memory: Memory) -> Sequence[tuple[str, int]]:
        """Kinds and layers of the sites that hooks read or write."""
        return ()

    def decide(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Any]:
        """The decision for each prompt; None: the memory stays out of it.

        It is made once, from the prompt alone, and kept while the answer is forced or written. The model answers as if
        no memory was attached meanwhile: run each prompt by itself (`tracer.engine.capture`), so that its decision is
        the same whatever it is asked together with.
        """
        return [route.decision for route in memory.routes(model, prompts)]

    def routes(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        """How it comes to the decision about each prompt, for tables and pictures; made as decisions are.

        A kind says it here or, if its decision needs no nearest entry, in `decide` too.
        """
        return [Route(True)] * len(prompts)

    def ask(self, memory: Memory, model: Model, prompt: Ids, decision: Any) -> Ids | Asked:
        """The ids to run in the place of a prompt, which end as the prompt does; or those and who is to answer."""
        return prompt

    def hooks(self, memory: Memory, model: Model, frame: Frame) -> Sequence[Hook]:
        """What is done in a forward of some rows.

        `frame.decided[memory.name]` holds the rows' decisions, `frame.since` tells where their prompts end.
        """
        return ()

    def entries(self, memory: Memory) -> list[dict[str, Any]]:
        """One line per entry, for tables."""
        return []

    def keys(self, memory: Memory) -> Tensor | None:
        """What prompts are compared with, [entries, width]; None: they are not compared as vectors."""
        return None

    def queries(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Tensor | None:
        """What keys are compared with for each prompt, [prompts, width]; made as decisions are."""
        return None

    def without(self, memory: Memory, entry: int) -> Memory:
        """A memory without one of its entries.

        Args:
            memory: of this kind.
            entry: which, from 0.

        Raises:
            TracerError: there is no such entry; entries of this kind do not stand each by itself.
        """
        count = len(self.entries(memory))
        if not 0 <= entry < count:
            raise MemoryMisfit(f"the memory {memory.name!r} has no entry {entry}; it has {count}, counted from 0")
        if not self.per_entry:
            raise MemoryMisfit(f"the entries of a {memory.kind} memory work together, so that none can be taken out")
        keep = [place for place in range(count) if place != entry]
        tensors = {name: each[keep] if name in self.per_entry else each for name, each in memory.tensors.items()}
        header = {
            name: [each[place] for place in keep] if name in self.per_entry else each
            for name, each in memory.header.items()
        }
        return replace(memory, tensors=tensors, header=header)

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The entries of a change turned into a control: random directions of the same lengths.

        A kind whose entries decide as well as act turns only what acts.
        """
        turned = {}
        for name, tensor in sorted(rows.items()):
            drawn = torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
            if tensor.is_floating_point() and tensor.dim() > 1:
                size = tensor.double().norm(dim=-1, keepdim=True)
                drawn = (drawn.double() * (size / drawn.double().norm(dim=-1, keepdim=True))).to(tensor.dtype)
            turned[name] = drawn if tensor.dim() > 1 else tensor
        return turned

    def neurons(self, memory: Memory) -> Mapping[int, Any]:
        """By layer, the [`editing.memories.neurons.Neurons`][] it puts beside MLPs; for kinds that are nothing else.

        Raises:
            TracerError: it is something else.
        """
        raise MemoryMisfit(
            f"the memory {memory.name!r} ({memory.kind}) does more than neurons of an MLP do, and cannot be made a "
            "part of a model's weights; save the model with it beside the weights (save_pretrained)"
        )

    def check(self, memory: Memory, model: Model) -> None:
        """Check that a memory fits a model.

        Raises:
            TracerError: it is of another width, or acts at a site that the model does not have.
        """
        for name, of in self.widths.items():
            tensor, width = memory.tensors.get(name), int(getattr(model, of))
            if tensor is None or tensor.dim() == 0 or tensor.shape[-1] != width:
                found = "is missing" if tensor is None else f"is {list(tensor.shape)}"
                raise MemoryMisfit(
                    f"the tensor {name!r} of the memory {memory.name!r} {found}; expected a last dimension of {width}, "
                    f"the {of} of {model.name}. Make the memory on this model, or load the one it is of"
                )
        for kind, layer in self.sites(memory):
            try:
                check_site(model, Site(kind, layer))
                model.path(kind, layer)
            except SiteError as error:
                raise MemoryMisfit(
                    f"the memory {memory.name!r} does not fit {model.name} ({error}); make it on this model"
                ) from error
