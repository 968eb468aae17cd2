"""SERAC: edits as texts; a classifier finds the one that a question is about, and another model answers with it.

Mitchell et al. 2022, "Memory-based model editing at scale". The model itself is never changed: where no edit is near
enough, it answers as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tracer.engine.acts import Asked, Ids
from tracer.errors import MemoryMisfit, PromptTooLong
from tracer.facts.prompt import prompt_ids

from .kind import Kind
from .lines import packed, unpacked
from .route import Decision, Route
from .scope import ENCODER, OWN, question_of, vectors_of
from .similarity import log_similarities
from .small import Parts, answering_of, mixture_of

if TYPE_CHECKING:
    from tracer.model import Model

    from .memory import Memory


class Serac(Kind):
    """Puts the text of the nearest edit in front of a question, if that is near enough.

    Tensors: "keys" [n, width], the vectors of the edits, made once; "entries", their texts; and those of the classifier
    ("centre", "factor", "projection", or "classifier/...") and of the model that answers ("answering/..."). The header
    says how: `scope`, `answer`, `similarity` (arguments of `log_similarities`), `threshold`, `output` and `join`, what
    stands between an edit and a question.
    """

    rewrites: ClassVar[bool] = True
    per_entry: ClassVar[tuple[str, ...]] = ("keys",)

    def routes(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        """The nearest edit to each prompt, by similarity, and the next one."""
        keys = memory.tensors["keys"].float()
        if not len(keys):
            return [Route(False)] * len(prompts)
        vectors = self.queries(memory, model, prompts)
        soft, threshold = memory.header["output"] == "soft", float(memory.header["threshold"])
        found = []
        for vector in vectors:
            similarity = log_similarities(vector.unsqueeze(0), keys, **memory.header["similarity"])[0].exp()
            order = similarity.argsort(descending=True, stable=True)[:2].tolist()
            score = float(similarity[order[0]])
            next_one = (order[1], float(similarity[order[1]])) if len(order) > 1 else (-1, float("nan"))
            found.append(Route(soft or score > threshold, order[0], score, threshold, *next_one))
        return found

    def ask(self, memory: Memory, model: Model, prompt: Ids, decision: Decision) -> Asked:
        """The edit's text with the question behind it, and who answers.

        Raises:
            TracerError: too long a text for whoever answers.
        """
        parts = Parts.of(memory)
        text = f"{self._lines(memory)[decision.entry]['text']}{memory.header['join']}{question_of(model, prompt)}"
        ids = tuple(prompt_ids(model, text))
        other = answering_of(parts, memory.header["answer"], model)
        room = (other or model).n_ctx
        if len(ids) > room:
            raise PromptTooLong(
                f"the memory {memory.name!r} makes the prompt {len(ids)} tokens long, and {(other or model).name} "
                f"reads at most {room}; shorten the prompt, or the edit"
            )
        if memory.header["output"] == "soft":
            other = mixture_of(model, other or model, prompt, len(ids), decision.score)
        return Asked(ids, other)

    def keys(self, memory: Memory) -> Tensor:
        """The vectors of the edits."""
        return memory.tensors["keys"]

    def queries(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Tensor:
        """The vectors of prompts."""
        return vectors_of(Parts.of(memory), memory.header["scope"], model, prompts)

    def without(self, memory: Memory, entry: int) -> Memory:
        """A memory without one of its edits."""
        lines = self._lines(memory)
        found = super().without(memory, entry)
        entries = packed([line for place, line in enumerate(lines) if place != entry])
        return replace(found, tensors={**found.tensors, "entries": entries})

    def entries(self, memory: Memory) -> list[dict[str, Any]]:
        """Prompt, target, subject and text of each edit, and the bytes it takes."""
        width = memory.tensors["keys"].shape[-1] * memory.tensors["keys"].element_size()
        return [{**line, "bytes": width + len(str(line).encode())} for line in self._lines(memory)]

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The same edits at keys in random directions of the same lengths; texts and models stay."""
        return {**rows, **super().control({"keys": rows["keys"]}, generator)} if "keys" in rows else dict(rows)

    def check(self, memory: Memory, model: Model) -> None:
        """As of any kind; also that its classifier reads this model's states, and that each key has a text.

        Raises:
            TracerError: it does not.
        """
        super().check(memory, model)
        repair = f"make it on this model ({model.name}) again, or load the model it is of"
        scope, tensors = memory.header.get("scope", {}), memory.tensors
        lacking = [name for name in ("keys", "entries") if name not in tensors]
        if lacking or scope.get("by") not in (OWN, ENCODER):
            raise MemoryMisfit(f"the memory {memory.name!r} lacks {lacking or 'its classifier'}; {repair}")
        if scope["by"] == OWN:
            expected = len(scope["layers"]) * model.d_model
            found = tensors["projection"].shape[-1] if "projection" in tensors else None
            if found != expected or not all(0 <= layer < model.n_layers for layer in scope["layers"]):
                raise MemoryMisfit(
                    f"the classifier of the memory {memory.name!r} reads states {found} wide of the layers "
                    f"{scope['layers']}, and those of {model.name} are {expected} wide, of {model.n_layers} layers; "
                    f"{repair}"
                )
        try:
            count = len(self._lines(memory))
        except ValueError as error:
            raise MemoryMisfit(f"the texts of the memory {memory.name!r} cannot be read ({error}); {repair}") from error
        if count != len(tensors["keys"]):
            raise MemoryMisfit(
                f"the memory {memory.name!r} has {len(tensors['keys'])} keys and {count} texts, so that an index would "
                f"be out of range; {repair}"
            )
        if not model.causal:
            raise MemoryMisfit(
                f"the memory {memory.name!r} puts texts in front of questions, which {model.name}, a "
                "masked model, does not go on from; use a model that predicts the next token"
            )

    def _lines(self, memory: Memory) -> list[dict[str, Any]]:
        return Parts.of(memory).make("lines", lambda: unpacked(memory.tensors["entries"]))
