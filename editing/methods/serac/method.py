"""SERAC (Mitchell et al. 2022): an edit is a text and the vector by which it is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from editing.memories.change import MemoryChange
from editing.memories.lines import packed, unpacked
from editing.memories.memory import Memory
from editing.memories.scope import ENCODER, context_of, encoded, vectors_of
from editing.memories.small import Parts
from editing.methods.context import EditContext
from editing.methods.method import Change, Group, Method
from editing.prepared.work import Preparation
from tracer.engine.memories import resting
from tracer.errors import MemoryMisfit
from tracer.facts import answer_text, stated

from .prepare import make
from .settings import SERACPreparation, SERACSettings

if TYPE_CHECKING:
    from editing.prepared.prepared import Prepared
    from editing.request import EditRequest
    from tracer.model import Model

NAME = "serac"


def plan(model: Model, groups: Sequence[Group], settings: SERACSettings, context: EditContext) -> list[Change]:
    """One change per group: its requests are added to the memory; the same prompt's earlier edit is overwritten."""
    prepared = context.prepared_for(NAME)
    before = next((memory for memory in model.memories if memory.name == NAME), None)
    if before is not None and not (isinstance(before, Memory) and before.kind == NAME):
        raise MemoryMisfit(f"{model.name} has a memory {NAME!r} that is none of this kind; take it off first")
    if before is not None and before.header["prepared"] != prepared.digest:
        raise MemoryMisfit(
            f"the memory {NAME!r} of {model.name} was begun with other prepared models "
            f"({before.header['prepared'][:12]}) than were given ({prepared.digest[:12]}); go on with those"
        )
    with resting(model):  # as it does while questions are compared
        return [_change(model, group, settings, prepared, before) for group in groups]


def _change(model: Model, group: Group, settings: SERACSettings, prepared: Prepared, before: Memory | None) -> Change:
    header = {
        **{name: prepared.header[name] for name in ("answer", "similarity")},
        "scope": {**prepared.header["scope"], "known_by": settings.known_by},
        **{name: getattr(settings, name) for name in ("threshold", "output", "join")},
        "prepared": prepared.digest,
    }
    parts = Parts(prepared.tensors, vars(prepared)["_held"])
    width = int(prepared.header["width"])
    lines = unpacked(before.tensors["entries"]) if before is not None else []
    keys = list(before.tensors["keys"]) if before is not None else []
    overwritten = 0
    for request in group:
        line, key = _entry(model, request, header["scope"], parts)
        same = [place for place, old in enumerate(lines) if old["prompt"] == line["prompt"]]
        overwritten += len(same)
        for place in reversed(same):
            del lines[place], keys[place]
        lines, keys = [*lines, line], [*keys, key]
    tensors = {
        **prepared.tensors,
        "keys": torch.stack(keys) if keys else torch.zeros(0, width),
        "entries": packed(lines),
    }
    after = Memory(NAME, NAME, model.weights_fingerprint(), tensors, header)
    told = {name: header[name] for name in ("threshold", "output", "join", "prepared")}
    told |= {"known_by": settings.known_by, "answer": header["answer"]["by"], "entries": len(lines)}
    note = f"{overwritten} earlier edits of the same prompts were overwritten" if overwritten else ""
    return Change({}, told, {"keys": torch.stack(keys)}, note, (MemoryChange.between(before, after),))


def _entry(
    model: Model, request: EditRequest, scope: Mapping[str, Any], parts: Parts
) -> tuple[dict[str, Any], torch.Tensor]:
    found = request.fact.align(model)
    target = answer_text(model, found.target_ids)
    text = stated(model, request.text, target)
    line = {"prompt": request.text, "target": target, "subject": request.subject, "text": text}
    if scope["by"] == ENCODER:
        context = context_of(scope, scope["separator"], request.text, target)
        return line, encoded(parts, scope, model, context)[0]
    return line, vectors_of(parts, scope, model, [tuple(found.input_ids)])[0]


METHOD = Method(
    NAME,
    SERACSettings,
    plan,
    needs=frozenset({"prepared"}),
    layers="none",
    seq2seq=True,
    writes=False,
    preparation=Preparation(SERACPreparation, make, summary="a classifier of questions, and a model that answers"),
    summary="edits as texts, a classifier, a model that answers (Mitchell et al. 2022)",
)
