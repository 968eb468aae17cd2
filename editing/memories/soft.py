"""Soft prompts: an edit is some vectors that are put in front of the questions it is about, before the first block.

Chen et al. 2024, "Lifelong Knowledge Editing for LLMs with Retrieval-Augmented Continuous Prompt Learning" (RECIPE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tracer.engine.acts import Asked, Hook, Ids
from tracer.engine.front import ENTRANCE, position_vectors, with_front
from tracer.errors import MemoryMisfit, PromptTooLong

from .checks import check_parts
from .kind import Kind
from .lines import LINES, as_lines, packed
from .route import Decision, Route
from .small import Parts

if TYPE_CHECKING:
    from tracer.engine.frame import Frame
    from tracer.model import Model

    from .memory import Memory

PROMPTS = "prompts"


class Soft(Kind):
    """Puts the vectors of an entry in front of a question that a router finds it for.

    Tensors: "prompts" [n, P, d], the vectors; "lines", what the entries are about; and those of the router.
    """

    widths: ClassVar[Mapping[str, str]] = {PROMPTS: "d_model"}
    rewrites: ClassVar[bool] = True
    per_entry: ClassVar[tuple[str, ...]] = (PROMPTS, "keys")

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

    def entries(self, memory: Memory) -> list[dict[str, Any]]:
        """Prompt, target, subject and text of each edit, and the bytes it takes."""
        own = [memory.tensors[name] for name in self.per_entry if name in memory.tensors]
        lines = self._lines(memory)
        size = sum(tensor.nbytes for tensor in own) // max(1, len(lines))
        return [{**line, "bytes": size} for line in lines]

    def without(self, memory: Memory, entry: int) -> Memory:
        """A memory without one of its edits."""
        found = super().without(memory, entry)
        lines = packed([line for place, line in enumerate(self._lines(memory)) if place != entry])
        return replace(found, tensors={**found.tensors, LINES: lines})

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The same edits with vectors in random directions of the same lengths."""
        return {**rows, **super().control({PROMPTS: rows[PROMPTS]}, generator)} if PROMPTS in rows else dict(rows)

    def check(self, memory: Memory, model: Model) -> None:
        """As of any kind; also that each edit has its text.

        Raises:
            TracerError: it has not.
        """
        check_parts(memory, (PROMPTS, LINES), ())
        super().check(memory, model)
        prompts, count = memory.tensors[PROMPTS], len(self._lines(memory))
        if prompts.dim() != 3 or not prompts.shape[1] or len(prompts) != count:
            raise MemoryMisfit(
                f"the memory {memory.name!r} has prompts of shape {list(prompts.shape)} and {count} texts; expected "
                f"[{count}, vectors, {model.d_model}]. Make it again"
            )
        if not model.causal:
            raise MemoryMisfit(
                f"the memory {memory.name!r} puts vectors in front of questions, which {model.name}, a masked model, "
                "does not go on from; use a model that predicts the next token"
            )

    def _lines(self, memory: Memory) -> list[dict[str, Any]]:
        return Parts.of(memory).make("lines", lambda: as_lines(memory.tensors[LINES]))

    def _positions(self, memory: Memory, model: Model) -> Tensor | None:
        return Parts.of(memory).make(("positions", id(model.hf)), lambda: position_vectors(model))
