"""Transformer-Patcher: neurons for each fact beside the last MLP, active there alone (Huang et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.activations import activation_of
from editing.memories.change import MemoryChange
from editing.memories.lines import LINES, as_lines, packed
from editing.memories.memory import Memory
from editing.methods.beside import Beside, present, row_of, states_of
from editing.methods.method import Change, Group, Method
from tracer.engine.memories import remembering
from tracer.errors import HyperparameterError

from .plateau import ASIDE
from .preparation import PREPARATION, states_for
from .settings import OWN, TPatcherSettings
from .training import Bench, Patches, measured_margins, train

if TYPE_CHECKING:
    from editing.methods.context import EditContext
    from editing.request import EditRequest
    from tracer.engine.batch import Row
    from tracer.model import Model

KIND, DEFAULT = "t_patcher", "relu"


def plan(model: Model, groups: Sequence[Group], settings: TPatcherSettings, context: EditContext) -> list[Change]:
    """One change per group: patches for the tokens that the model, as it is, does not say.

    Raises:
        TracerError: a memory of this name that is of another kind or layer; a loss that is not finite.
    """
    before = present(model, settings.name, KIND)
    layer = settings.layers[0] if settings.layers else before.header["layer"] if before else model.n_layers - 1
    model.path("mlp_in", layer)  # refuses a layer that the model does not have
    if before is not None and before.header["layer"] != layer:
        raise HyperparameterError(
            f"layers is {layer}, and the memory {settings.name!r} of {model.name} has its patches at layer "
            f"{before.header['layer']}; leave layers out, or give the new ones a memory of their own (name=...)"
        )
    name = activation_of(model, layer) if settings.activation == OWN else settings.activation
    has = before.header["activation"] if before else name or DEFAULT
    if name not in (None, has):
        raise HyperparameterError(
            f"activation is {name!r}, and the memory {settings.name!r} of {model.name} has patches with {has!r}; leave "
            "it out, or give the new ones a memory of their own (name=...)"
        )
    margins = tuple(settings.margins) if settings.margins is not None else measured_margins(has)
    used = replace(settings, layers=(layer,), activation=has, margins=margins)
    device = model.device
    corpus = states_for(model, layer, settings.tokens, context).to(device, torch.float32)
    kept = torch.arange(len(corpus), device=device) % ASIDE == ASIDE - 1 if settings.validate_every else None
    aside, corpus = (None, corpus) if kept is None else (corpus[kept], corpus[~kept])
    bench = Bench(layer, has, margins, corpus, _tensors(before, device), aside)  # type: ignore[arg-type]
    rows = [row_of(model, request) for group in groups for request in group]
    others = [memory for memory in model.memories if memory.name != settings.name]
    with remembering(model, others):
        beside = Beside(model, rows, [layer], context.measured.trials, context.max_rows)
        patches = _begun(model, beside, rows, groups, bench, used, before)
        train(model, beside, rows, patches, bench, used)
    return [
        _change(model, before, group, [rows[i] for i in own.rows], own, bench, used)
        for group, own in zip(groups, patches, strict=True)
    ]


def _begun(
    model: Model,
    beside: Beside,
    rows: Sequence[Row],
    groups: Sequence[Group],
    bench: Bench,
    settings: TPatcherSettings,
    before: Memory | None,
) -> list[Patches]:
    """Patches of every group with their starting values: one at each token that is not said."""
    entered = [each.float() for each in states_of(model, [row.ids for row in rows], "mlp_in", bench.layer)]
    hidden = [each.float() for each in states_of(model, [row.ids for row in rows], "hidden", bench.layer)]
    kept = [_kept(before, group, model.device) for group in groups]
    stay = torch.stack([own for own, group in zip(kept, groups, strict=True) for _ in group])
    places = _unsaid(beside, rows, bench, settings, stay)
    earlier = _earlier(model, before, bench)
    unembed = model.module("unembed").weight
    found, first = [], 0
    for stays, group in zip(kept, groups, strict=True):
        own = range(first, first + len(group))
        first += len(group)
        at = [(row, place) for row in own for place in places[row]]
        tokens = tuple(rows[row].target[place] for row, place in at)
        where = [(row, rows[row].read[place]) for row, place in at]
        owner = torch.tensor([row for row, _ in where], device=model.device)
        prompts = {request.text for request in group}  # one that is written again is no other
        others, apart = torch.cat([bench.corpus[:0], *(x for prompt, x in earlier if prompt not in prompts)]), None
        if len(group) > 1:  # patches of one request stay out of the others
            more = torch.cat([entered[row] for row in own])
            of = torch.tensor([row for row in own for _ in entered[row]], device=model.device)
            apart = torch.cat([of.new_ones(len(others), len(owner), dtype=torch.bool), of[:, None] != owner])
            others = torch.cat([others, more])
        patches = Patches(
            tuple(own),
            owner,
            tokens,
            torch.stack([entered[row][position] for row, position in where]),
            torch.stack([hidden[row][position].norm() for row, position in where]),
            others,
            apart,
            stays,
        )
        wanted = unembed[list(tokens)].detach().float().to(model.device)  # type: ignore[index]
        patches.begin(settings, wanted if wanted.shape[1] == model.d_model else None)
        found.append(patches)
    return found


def _kept(before: Memory | None, group: Group, device: torch.device) -> Tensor:
    """Which patches of the memory stay, [k] bool: all but those of prompts that are written again."""
    prompts = {request.text for request in group}
    lines = as_lines(before.tensors[LINES]) if before is not None else []
    stay = [line["prompt"] not in prompts for line in lines for _ in line["tokens"]]
    return torch.tensor(stay, dtype=torch.bool, device=device)


def _unsaid(
    beside: Beside, rows: Sequence[Row], bench: Bench, settings: TPatcherSettings, stay: Tensor
) -> list[list[int]]:
    """Which tokens of each row's target are not said after those before them, or the least probable one."""

    def old(x: Tensor, some: Sequence[int]) -> Tensor:
        return (
            torch.zeros_like(x) if bench.present is None else bench.before(x.to(bench.corpus.dtype), stay[list(some)])
        )

    found: dict[int, list[int]] = {}
    with torch.no_grad():
        for some in beside.run({bench.layer: old}):
            for row, log_probs in some.items():
                target = torch.tensor(rows[row].target, device=log_probs.device)
                wrong = (log_probs.argmax(-1) != target).nonzero().flatten().tolist()
                least = int(log_probs.gather(-1, target[:, None]).argmin())
                found[row] = (wrong or [least])[: settings.patches]
    return [found[row] for row in range(len(rows))]


def _earlier(model: Model, before: Memory | None, bench: Bench) -> list[tuple[str, Tensor]]:
    """Prompts that the memory has patches for, and what enters the MLP in each request, without its first token."""
    lines = as_lines(before.tensors[LINES]) if before is not None else []
    if not lines:
        return []
    entered = states_of(model, [line["ids"] for line in lines], "mlp_in", bench.layer)
    return [(line["prompt"], each[1:].float()) for line, each in zip(lines, entered, strict=True)]


def _tensors(memory: Memory | None, device: torch.device) -> tuple[Tensor, ...] | None:
    if memory is None or not len(memory.tensors["keys"]):
        return None
    return tuple(memory.tensors[name].to(device, torch.float32) for name in ("keys", "biases", "values"))


def _change(
    model: Model,
    before: Memory | None,
    group: Sequence[EditRequest],
    rows: Sequence[Row],
    patches: Patches,
    bench: Bench,
    settings: TPatcherSettings,
) -> Change:
    with torch.no_grad():
        new = {"keys": patches.parameters[0], "biases": patches.parameters[1], "values": patches.values}
    lines = []
    for row, request, ran in zip(patches.rows, group, rows, strict=True):
        own = [token for token, of in zip(patches.tokens, patches.owner.tolist(), strict=True) if of == row]
        said = {"prompt": request.text, "target": request.target_new, "subject": request.subject}
        lines.append({**said, "tokens": own, "ids": list(ran.ids)})
    tensors = {name: tensor.detach().cpu().float() for name, tensor in new.items()} | {LINES: packed(lines)}
    if before is not None:
        prompts = {request.text for request in group}
        stays = packed([line for line in as_lines(before.tensors[LINES]) if line["prompt"] not in prompts])
        old = {name: before.tensors[name][patches.kept.cpu()] for name in new} | {LINES: stays}
        tensors = {name: torch.cat([old[name], tensor]) for name, tensor in tensors.items()}
    header = {"layer": bench.layer, "activation": bench.activation}
    after = Memory(settings.name, KIND, model.weights_fingerprint(), tensors, header)
    evidence = {"curve": torch.tensor(patches.curve, dtype=torch.float64), "active": patches.active().detach().cpu()}
    return Change({}, _plain(settings), evidence, _note(patches, settings), (MemoryChange.between(before, after),))


def _note(patches: Patches, settings: TPatcherSettings) -> str:
    if patches.done or not settings.stop_loss:
        return ""
    return (
        f"after {len(patches.curve)} steps the target has a loss of {patches.curve[-1][2]:.3g} and patches are active "
        f"at {patches.share:.2%} of other states"
    )


def _plain(settings: TPatcherSettings) -> dict[str, Any]:
    """The settings as json values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


METHOD = Method(
    "t_patcher",
    TPatcherSettings,
    plan,
    needs=frozenset({"max_rows", "prepared"}),
    layers="one",
    writes=False,
    masked=True,
    seeded=True,
    preparation=PREPARATION,
    located=False,
    summary="neurons for each fact beside the last MLP (Huang et al. 2023)",
)
