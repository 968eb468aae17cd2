"""CaliNET: a small MLP beside the last one, trained on many facts together (Dong et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.change import MemoryChange
from editing.memories.lines import LINES, as_lines, packed
from editing.memories.memory import Memory
from editing.methods.beside import Beside, present, row_of, states_of
from editing.methods.method import Change, Group, Method
from editing.methods.training import text_rows
from tracer.engine.batch import Row
from tracer.engine.memories import remembering
from tracer.errors import HyperparameterError
from tracer.progress import track

from .settings import CaliNETSettings
from .training import Block, rates, train

if TYPE_CHECKING:
    from editing.methods.context import EditContext
    from editing.request import EditRequest
    from tracer.model import Model

KIND = "calinet"
WIDTH = 64
"""Tokens of a window of the text that is to stay."""


def plan(model: Model, groups: Sequence[Group], settings: CaliNETSettings, context: EditContext) -> list[Change]:
    """One change per group: a block of slots for its facts, beside the blocks that are there.

    Raises:
        TracerError: a memory of this name that is of another kind or other layers; a loss that is not finite.
    """
    before = present(model, settings.name, KIND)
    layers = settings.layers or (tuple(before.header["layers"]) if before else (model.n_layers - 1,))
    for layer in layers:
        model.path("mlp_in", layer)  # refuses one that the model does not have
    used = replace(settings, layers=layers)
    if before is not None:
        _check(model, before, used)
    others = [memory for memory in model.memories if memory.name != settings.name]
    text = _text(model, used)
    with remembering(model, others):
        return [
            _change(model, group, used, context, _without(before, group), before, text)
            for group in track(groups, "slots of edits")
        ]


def _change(
    model: Model,
    group: Group,
    settings: CaliNETSettings,
    context: EditContext,
    stays: Memory | None,
    before: Memory | None,
    text: Sequence[Row],
) -> Change:
    """The change for a group, whose block comes behind the blocks that stay."""
    layers = settings.layers or ()
    slots = {layer: _slots(stays, layer, model.device) for layer in layers} if stays else {}
    earlier = [row for line in as_lines(stays.tensors[LINES]) for row in line["rows"]] if stays else []
    drawn = Random(settings.seed).sample(range(len(earlier)), min(settings.replay, len(earlier)))
    again = [_row(earlier[i]) for i in sorted(drawn)]
    new = [row_of(model, request) for request in group]
    rows = [*new, *_other(again, new), *text]
    block = Block.begun(model, layers, settings, slots)
    beside = Beside(model, rows, layers, context.measured.trials, context.max_rows)
    kept: dict[int, Tensor] = {}
    if text:
        with torch.no_grad():
            first = len(rows) - len(text)
            for found in beside.run(block.before(), frozenset(range(first, len(rows)))):
                kept |= {place: log_probs for place, log_probs in found.items() if place >= first}
    learnt = train(model, beside, rows, block, rates(block, settings, *_sizes(model, new, layers)), settings, kept)
    after = _after(model, stays, group, new, block, settings)
    curve = torch.tensor(block.curve, dtype=torch.float64)
    note = "" if learnt else f"after {len(curve)} steps the targets have a mean loss of {float(curve[-1][1]):.3g}"
    return Change({}, _plain(settings), {"curve": curve}, note, (MemoryChange.between(before, after),))


def _without(before: Memory | None, group: Group) -> Memory | None:
    """The memory without blocks all of whose facts are written again."""
    if before is None:
        return None
    prompts = {request.text for request in group}
    lines = as_lines(before.tensors[LINES])
    gone = [{fact["prompt"] for fact in line["facts"]} <= prompts for line in lines]
    stay = torch.tensor([not out for out, line in zip(gone, lines, strict=True) for _ in range(line["slots"])])
    tensors = {name: tensor[stay.bool()] for name, tensor in before.tensors.items() if name != LINES}
    tensors[LINES] = packed([line for out, line in zip(gone, lines, strict=True) if not out])
    return replace(before, tensors=tensors)


def _row(kept: Mapping[str, Any]) -> Row:
    return Row(tuple(kept["ids"]), 0, tuple(kept["read"]), tuple(kept["target"]))


def _other(earlier: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Earlier rows but those of a prompt that is written again, whose last target counts."""
    prompts = {row.ids[: row.read[0] + 1] for row in new}
    return [row for row in earlier if row.ids[: row.read[0] + 1] not in prompts]


def _text(model: Model, settings: CaliNETSettings) -> list[Row]:
    """Windows of a text whose distributions are to stay; none without a weight."""
    return text_rows(model, WIDTH, settings.kl_tokens) if settings.kl_weight else []


def _sizes(model: Model, rows: Sequence[Row], layers: Sequence[int]) -> tuple[dict[int, Tensor], dict[int, float]]:
    """What enters the MLPs where targets are read, and how long the states behind them are."""
    ids = [row.ids for row in rows]
    x, reach = {}, {}
    for layer in layers:
        for kind, put in (("mlp_in", x), ("hidden", reach)):
            states = states_of(model, ids, kind, layer)
            put[layer] = torch.cat([each[list(row.read)].float() for each, row in zip(states, rows, strict=True)])
    return x, {layer: float(states.norm(dim=-1).mean()) for layer, states in reach.items()}


def _after(
    model: Model,
    before: Memory | None,
    group: Sequence[EditRequest],
    rows: Sequence[Row],
    block: Block,
    settings: CaliNETSettings,
) -> Memory:
    named = [{"prompt": each.text, "target": each.target_new, "subject": each.subject} for each in group]
    ran = [{"ids": row.ids, "read": row.read, "target": row.target} for row in rows]
    line = {"slots": settings.slots, "facts": named, "rows": ran}
    tensors = {
        f"{name}.{layer}": tensor.detach().cpu().float()
        for layer, own in block.slots.items()
        for name, tensor in own.items()
    } | {LINES: packed([line])}
    if before is not None:
        tensors = {name: torch.cat([before.tensors[name], tensor]) for name, tensor in tensors.items()}
    header = {"layers": list(settings.layers or ()), "activation": settings.activation, "gated": settings.gated}
    return Memory(settings.name, KIND, model.weights_fingerprint(), tensors, header)


def _slots(memory: Memory, layer: int, device: torch.device) -> dict[str, Tensor]:
    names = ("in", "out", "up") if memory.header["gated"] else ("in", "out")
    return {name: memory.tensors[f"{name}.{layer}"].to(device, torch.float32) for name in names}


def _check(model: Model, before: Memory, settings: CaliNETSettings) -> None:
    own = {"layers": list(settings.layers or ()), "activation": settings.activation, "gated": settings.gated}
    for name, value in own.items():
        if before.header[name] != value:
            raise HyperparameterError(
                f"{name} is {value!r}, and the memory {settings.name!r} of {model.name} has {before.header[name]!r}; "
                "give that too, or give the new slots a memory of their own (name=...)"
            )


def _plain(settings: CaliNETSettings) -> dict[str, Any]:
    """The settings as json values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


METHOD = Method(
    "calinet",
    CaliNETSettings,
    plan,
    needs=frozenset({"max_rows"}),
    layers="range",
    writes=False,
    masked=True,
    seeded=True,
    located=False,
    summary="a small MLP beside the last one, for many facts (Dong et al. 2022)",
)
