"""Soft prompts: an edit is some vectors that are put in front of the questions it is about, before the first block.

Chen et al. 2024, "Lifelong Knowledge Editing for LLMs with Retrieval-Augmented Continuous Prompt Learning" (RECIPE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tracer.engine.acts import Asked, Hook, Ids
from tracer.engine.front import ENTRANCE, position_vectors, with_front
from tracer.errors import MemoryMisfit, PromptTooLong

from .checks import check_parts
from .kind import Kind
from .routed import Own, RoutedKind
from .small import Parts

if TYPE_CHECKING:
    from tracer.engine.frame import Frame
    from tracer.model import Model

    from .memory import Memory
    from .route import Decision

PROMPTS = "prompts"


class Soft(RoutedKind):
    """Puts the vectors of an entry in front of a question that the router finds it for.

    Besides what every kind with a router has: "prompts" [n, P, d], the vectors.
    """

    widths: ClassVar[Mapping[str, str]] = {PROMPTS: "d_model"}
    rewrites: ClassVar[bool] = True
    in_front: ClassVar[bool] = True
    owned: ClassVar[tuple[str, ...]] = (PROMPTS,)

    def stacked(self, own: Sequence[Own], header: Mapping[str, Any]) -> dict[str, Tensor]:
        """The vectors of all entries; the header says how many each has and how wide they are, `shape`."""
        return super().stacked(own, header) if own else {PROMPTS: torch.zeros(0, *header["shape"])}

    def ask(self, memory: Memory, model: Model, prompt: Ids, decision: Decision) -> Asked:
        """The question behind as many placeholders as there are vectors.

        Raises:
            TracerError: no room for the vectors.
        """
        count = memory.tensors[PROMPTS].shape[1]
        if len(prompt) + count > model.n_ctx:
            raise PromptTooLong(
                f"the memory {memory.name!r} puts {count} vectors in front of a prompt of {len(prompt)} tokens, and "
                f"{model.name} reads at most {model.n_ctx}; shorten the prompt"
            )
        self._positions(memory, model)  # before there are hooks that would see it measured
        return Asked((prompt[0],) * count + prompt)

    def hooks(self, memory: Memory, model: Model, frame: Frame) -> Sequence[Hook]:
        """The vectors at the first places of each row that a decision was made for."""

        def act(_: Tensor, y: Tensor, frame: Frame) -> Tensor:
            rows, decided = frame.rows(len(y)), frame.decided[memory.name]
            entries = [0 if decided[row] is None else decided[row].entry for row in rows]
            positions = self._positions(memory, model)
            columns = frame.columns(len(y), y.device)
            own = memory.tensor(PROMPTS, y)[entries]
            return with_front(y, own, columns, None if positions is None else positions.to(y.device))

        return [Hook(ENTRANCE, act)]

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The same edits with vectors in random directions of the same lengths."""
        if PROMPTS not in rows:
            return dict(rows)
        return {**rows, **Kind.control(self, {PROMPTS: rows[PROMPTS]}, generator)}

    def check(self, memory: Memory, model: Model) -> None:
        """As of any kind with a router; also that there are vectors of the model's width.

        Raises:
            TracerError: there are not; a masked model, which does not go on from them.
        """
        check_parts(memory, (PROMPTS,), ("shape",))
        super().check(memory, model)
        prompts = memory.tensors[PROMPTS]
        if prompts.dim() != 3 or not prompts.shape[1] or list(prompts.shape[1:]) != memory.header["shape"]:
            raise MemoryMisfit(
                f"the prompts of the memory {memory.name!r} are {list(prompts.shape)}; expected [{len(prompts)}, "
                f"vectors, {model.d_model}], as its header says. Make it again"
            )
        if not model.causal:
            raise MemoryMisfit(
                f"the memory {memory.name!r} puts vectors in front of questions, which {model.name}, a masked model, "
                "does not go on from; use a model that predicts the next token"
            )

    def _positions(self, memory: Memory, model: Model) -> Tensor | None:
        return Parts.of(memory).make(("positions", id(model.hf)), lambda: position_vectors(model))
