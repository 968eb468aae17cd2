"""WISE (Wang et al. 2024): a side copy of one projection, and a rule by which prompts are routed to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.covariance.states import states_over_text
from editing.memories.change import MemoryChange
from editing.memories.lines import packed, unpacked
from editing.memories.memory import Memory
from editing.memories.wise import KEYS, SITES, widths
from editing.methods.context import EditContext
from editing.methods.method import Change, Group, Method
from tracer.engine.memories import remembering
from tracer.engine.sweep import check_numbers
from tracer.errors import MaskedModelError, MemoryMisfit
from tracer.factworld import held_out_text
from tracer.model import EMBEDDED
from tracer.model.soundness import PASSAGE

from .keys import Whitening, rows_of
from .published import Learnt, learn, lesson_of, merged
from .settings import WISESettings

if TYPE_CHECKING:
    from editing.request import EditRequest
    from tracer.model import Model

NAME = "wise"
MANY = ("prompts", "targets", "subjects")  # of a shard of the published rule


def plan(model: Model, groups: Sequence[Group], given: WISESettings, context: EditContext) -> list[Change]:
    """One change per group, which adds its requests to the memory; the same prompt's earlier edit is overwritten.

    What an edit of the rule "keys" becomes depends on the bare weights alone; as published it goes on with the copy of
    the edits before it.

    Raises:
        TracerError: a masked model; a memory of the name that was begun in another way; a site that the model lacks.
    """
    if not model.causal:
        raise MaskedModelError(f"{model.name} is a masked model, and wise routes prompts that are gone on from")
    layer = given.layers[0] if given.layers else model.n_layers - 1
    settings = replace(given, layers=(layer,))
    for kind in SITES[settings.site]:
        model.path(kind, layer)
    header = {name: getattr(settings, name) for name in ("rule", "site", "threshold")} | {"layer": layer}
    before = _before(model, header)
    if settings.rule != KEYS:
        return [_as_published(model, group, settings, header, before) for group in groups]
    whitening = _whitening(model, settings, context)
    return [_by_keys(model, group, settings, header, before, whitening) for group in groups]


def _before(model: Model, header: Mapping[str, Any]) -> Memory | None:
    found = next((memory for memory in model.memories if memory.name == NAME), None)
    if found is None:
        return None
    own = {name: found.header.get(name) for name in header} if isinstance(found, Memory) else {}
    if not isinstance(found, Memory) or found.kind != NAME or own != dict(header):
        raise MemoryMisfit(
            f"the memory {NAME!r} of {model.name} was begun with {own}, and this edit asks for {dict(header)}; go on "
            "with the same layer, site, rule and threshold, or take it off first"
        )
    return found


def _line(model: Model, request: EditRequest) -> dict[str, Any]:
    return {"prompt": request.text, "target": request.target_new, "subject": request.subject}


# --- by keys ---------------------------------------------------------------------------------------------------------
def _whitening(model: Model, settings: WISESettings, context: EditContext) -> Whitening:
    """Of what the projection reads over text with the bare weights; made once for all edits of these."""
    assert settings.layers
    read, layer = SITES[settings.site][0], settings.layers[0]

    def make() -> Whitening:
        states = check_numbers(model, states_over_text(model, layer, settings.tokens, kind=read))
        return Whitening.of(states, settings.damping)

    key = model.weights_fingerprint(), read, layer, settings.tokens, settings.damping
    return context.measured.get("whitening", key, make)


def _by_keys(
    model: Model,
    group: Group,
    settings: WISESettings,
    header: Mapping[str, Any],
    before: Memory | None,
    whitening: Whitening,
) -> Change:
    assert settings.layers
    layer = settings.layers[0]
    lines = unpacked(before.tensors["entries"]) if before is not None else []
    entries: list[tuple[dict[str, Any], Tensor, Tensor, Tensor]] = []
    if before is not None:
        tensors = before.tensors
        for place, line in enumerate(lines):
            own = tensors["owners"] == place
            entries.append((line, tensors["routes"][place], tensors["left"][own], tensors["right"][own]))
    curves, overwritten = [], 0
    with remembering(model, [memory for memory in model.memories if memory.name != NAME]):
        for request in group:
            rows = rows_of(model, request, layer, settings, whitening)
            line = _line(model, request)
            kept = [entry for entry in entries if entry[0]["prompt"] != line["prompt"]]
            overwritten += len(entries) - len(kept)
            entries = [*kept, (line, rows.route, rows.left, rows.right)]
            curves.append(rows.loss)
    owners = [place for place, entry in enumerate(entries) for _ in entry[2]]
    tensors = {
        "routes": torch.stack([entry[1] for entry in entries]),
        "left": torch.cat([entry[2] for entry in entries]),
        "right": torch.cat([entry[3] for entry in entries]),
        "owners": torch.tensor(owners),
        "entries": packed([entry[0] for entry in entries]),
    }
    last = torch.stack([curve[-1] for curve in curves])
    missing = int((last >= settings.stop_loss).sum())
    notes = [f"{missing} of {len(last)} requests end above a loss of {settings.stop_loss:.3g}" if missing else ""]
    notes.append(f"{overwritten} earlier edits of the same prompts were overwritten" if overwritten else "")
    return _change(model, settings, header, before, tensors, {"loss": _filled(curves)}, notes)


def _filled(curves: Sequence[Tensor]) -> Tensor:
    """Curves [passes, requests]; after its end each has its last value."""
    longest = max(map(len, curves))
    return torch.stack([torch.cat([each, each[-1:].expand(longest - len(each))]) for each in curves], 1)


# --- as published ----------------------------------------------------------------------------------------------------
def _as_published(
    model: Model, group: Group, settings: WISESettings, header: Mapping[str, Any], before: Memory | None
) -> Change:
    assert settings.layers
    size = widths(model, settings.site)
    deltas = list(before.tensors["delta"]) if before is not None else []
    limits = before.tensors["distances"].tolist() if before is not None else []
    lines = unpacked(before.tensors["entries"]) if before is not None else []
    curves = []
    with remembering(model, [memory for memory in model.memories if memory.name != NAME]):
        for request in group:
            done = sum(len(line["prompts"]) for line in lines)
            if done % settings.save_freq == 0:
                deltas, limits = [*deltas, torch.zeros(size)], [*limits, math.inf]
                lines = [*lines, {name: [] for name in MANY}]
            texts = settings.irrelevant or _sentences(model)
            irrelevant = texts[done % len(texts)]
            lesson = lesson_of(model, request.text, request.target_new, settings.templates, irrelevant)
            mask = _mask(size, settings, done // settings.save_freq)
            found: Learnt = learn(model, settings.layers[0], lesson, deltas[-1], mask, settings, limits[-1])
            deltas[-1], limits[-1] = found.delta, found.distance
            said = zip(MANY, _line(model, request).values(), strict=True)
            lines[-1] = {**lines[-1], **{name: [*lines[-1][name], value] for name, value in said}}
            curves.append(found.curve[:, 0])
            if settings.merge_freq and (done + 1) % settings.merge_freq == 0:
                count = settings.merge_freq // settings.save_freq
                whole = merged(deltas[-count:], settings.merge_density)
                deltas, limits = [*deltas[:-count], whole], [*limits[:-count], min(limits[-count:])]
                lines = [
                    *lines[:-count],
                    {name: [each for line in lines[-count:] for each in line[name]] for name in MANY},
                ]
    tensors = {"delta": torch.stack(deltas), "distances": torch.tensor(limits), "entries": packed(_joined(lines))}
    return _change(model, settings, header, before, tensors, {"loss": _filled(curves)}, [])


def _joined(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of shards with what tables show of them: the last edit's prompt, target and subject, and how many."""
    pairs = list(zip(("prompt", "target", "subject"), MANY, strict=True))
    return [{**line, **{one: line[many][-1] for one, many in pairs}, "edits": len(line["prompts"])} for line in lines]


def _mask(size: tuple[int, int], settings: WISESettings, shard: int) -> Tensor:
    """Entries of the weight that a shard may change, drawn by its number."""
    draw = torch.Generator().manual_seed(settings.seed * 1_000_003 + shard)
    return (torch.rand(size, generator=draw) < settings.density).float()


def _sentences(model: Model) -> list[str]:
    """Sentences that no edit is about."""
    text = held_out_text() if model.name == EMBEDDED else PASSAGE
    return [part.strip() for part in text.replace("\n", " ").split(". ") if part.strip()][:200]


def _change(
    model: Model,
    settings: WISESettings,
    header: Mapping[str, Any],
    before: Memory | None,
    tensors: Mapping[str, Tensor],
    evidence: Mapping[str, Tensor],
    notes: Sequence[str],
) -> Change:
    after = Memory(NAME, NAME, model.weights_fingerprint(), tensors, header)
    named = ("threshold", "steps", "lr", "seed")
    more = (
        ("tokens", "damping", "stop_loss")
        if settings.rule == KEYS
        else ("alpha", "beta", "gamma", "density", "save_freq", "merge_freq")
    )
    told = {"layers": list(settings.layers or ()), "rule": settings.rule, "site": settings.site}
    told |= {name: getattr(settings, name) for name in (*named, *more)}
    change = MemoryChange.between(before, after)
    return Change({}, told, dict(evidence), "; ".join(filter(None, notes)), (change,))


METHOD = Method(
    NAME,
    WISESettings,
    plan,
    layers="one",
    seeded=True,
    located=False,
    summary="a side copy of one projection, which prompts are routed to (Wang et al. 2024)",
)
