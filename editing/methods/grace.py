"""GRACE: a codebook beside one layer, whose entries replace a state behind the prompts they know (Hartvigsen et al. 2023).

An entry has a key, the state of the edit's prompt at one site, a radius, and values that take the place of the state at
another site where a prompt's key is near. No weight is changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.change import MemoryChange
from editing.memories.grace import route
from editing.memories.memory import Memory
from editing.memories.placement import KEY_TOKENS, REPLACEMENTS, key_tokens
from tracer.checks import finite, whole
from tracer.engine.batch import Row
from tracer.engine.hooks import check_site
from tracer.engine.memories import remembering, resting
from tracer.engine.prompt_states import prompt_states
from tracer.engine.sites import KINDS, Site
from tracer.errors import HyperparameterError
from tracer.facts.fact import Fact
from tracer.facts.readout import Readout

from .codebook.table import Entry, Placed, Rule, entries_of, placed, tensors_of
from .codebook.values import Training, outputs, train_values
from .context import EditContext
from .method import Change, Group, Method
from .training import as_layers

if TYPE_CHECKING:
    from editing.request import EditRequest
    from tracer.model import Model

SITES = tuple(kind for kind in KINDS if kind != "embed")
RATE = 0.3  # of the root mean square of a state: the default learning rate
CHOICES = {
    "replacement": REPLACEMENTS,
    "key_token": KEY_TOKENS,
    "compare": ("ids", "mean"),
    "expand": ("none", "coverage", "moving_average"),
    "split": ("none", "shrink", "half"),
    "start": ("warm", "cold"),
    "read": SITES,
    "write": SITES,
}


@dataclass(frozen=True)
class GRACESettings:
    """Hyper-parameters of GRACE.

    Attributes:
        layers: the one with the codebook; None: that of the codebook that is there, or measured. (Published: at three
            quarters of the depth, and not measured.)
        radius: of a new entry, in the units of a key; None: measured. (Published: 1.)
        read: kind of the site whose state is the key.
        write: kind of the site whose state the values replace. (Published: the input and output of the up-projection,
            "mlp_in" and "pre", or of the down-projection, "key" and "value".)
        key_token: the token whose state is the key: "last", or "answer", which differs in masked models: the first mask.
        replacement: where values are put. "answer": one for each token of the target, from the key's token on. As
            published, one value: "replace_last", at the key's token; "replace_prompt", at all before it;
            "replace_all", at every token.
        compare: as of [`editing.methods.codebook.table.Rule`][]. (Published: "mean".)
        overwrite: as of `Rule`. (Published: False.)
        expand: as of `Rule`. (Published: "coverage".)
        split: as of `Rule`. (Published: "half".)
        start: what values begin with: "warm", the state they replace; "cold", uniform from 0 to 1, as published.
        steps: of Adam, at most.
        lr: of Adam; None: a share of the root mean square of the state that is replaced. (Published: 1.)
        stop_loss: a value is finished at a lower loss, mean over the target's tokens. (Published: 0, never.)
        seed: of cold starts and of the contexts that layer and radius are measured on.
        name: of the memory.
    """

    layers: Sequence[int] | None = None
    radius: float | None = None
    read: str = "mlp_in"
    write: str = "mlp"
    key_token: str = "answer"
    replacement: str = "answer"
    compare: str = "ids"
    overwrite: bool = True
    expand: str = "none"
    split: str = "none"
    start: str = "warm"
    steps: int = 100
    lr: float | None = None
    stop_loss: float = 1e-2
    seed: int = 0
    name: str = "grace"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        if self.layers is not None and len(self.layers) > 1:
            raise HyperparameterError(f"layers is {self.layers!r}; a codebook stands at one layer, name one")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                expected = ", ".join(map(repr, choices))
                raise HyperparameterError(f"{name} is {getattr(self, name)!r}; expected one of {expected}")
        for name in ("radius", "lr"):
            if getattr(self, name) is not None:
                finite(name, getattr(self, name), above=0, kind=HyperparameterError, expected="a number above zero")
        finite("stop_loss", self.stop_loss, 0, kind=HyperparameterError, expected="zero (never stop) or more")
        whole("steps", self.steps, 1, kind=HyperparameterError)
        whole("seed", self.seed, kind=HyperparameterError)
        if not isinstance(self.name, str) or not self.name:
            raise HyperparameterError(f"name is {self.name!r}; expected that of a memory, such as 'grace'")

    @property
    def rule(self) -> Rule:
        """How edits and entries get along."""
        return Rule(self.compare, self.overwrite, self.expand, self.split)


@dataclass(frozen=True, eq=False)
class Asked:
    """A request as it is learnt.

    Attributes:
        request: the request.
        row: prompt and target; `lookup` is the key's token.
        own: the entry that it would have by itself.
    """

    request: EditRequest
    row: Row
    own: Entry


def plan(model: Model, groups: Sequence[Group], given: GRACESettings, context: EditContext) -> list[Change]:
    """One change of the codebook per group, each from the one that the model has.

    Raises:
        TracerError: a codebook at another site than the one that is asked for; losses that are not finite.
    """
    before = present(model, given.name)
    settings = _resolved(model, given, before, context)
    others = [memory for memory in model.memories if memory.name != settings.name]
    with remembering(model, others):
        every = [_asked(model, group, settings) for group in groups]
        tables = [_filled(model, asked, before, settings) for asked in every]
        _train(model, every, tables, settings, context.max_rows)
        return [
            _change(model, asked, table, before, settings) for asked, table in zip(every, tables, strict=True)
        ]


def present(model: Model, name: str) -> Memory | None:
    """The memory of a name that a model has."""
    return next((memory for memory in model.memories if memory.name == name and isinstance(memory, Memory)), None)


def _resolved(model: Model, given: GRACESettings, before: Memory | None, context: EditContext) -> GRACESettings:
    """The settings with what the codebook that is there, or the model, says."""
    settings = given
    if before is not None:
        if before.kind != "grace":
            raise HyperparameterError(
                f"the memory {before.name!r} of {model.name} is of kind {before.kind!r}, not a codebook; give another "
                "name, such as name='grace-2'"
            )
        header = before.header
        settings = replace(settings, layers=settings.layers or (header["layer"],), radius=settings.radius or header["radius"])
        wanted = {**_header(settings), "radius": header["radius"]}
        for name, value in wanted.items():
            if header[name] != value:
                raise HyperparameterError(
                    f"the codebook {before.name!r} of {model.name} has {name}={header[name]!r}, and this edit asks for "
                    f"{value!r}; edit with that one, or give another name, such as name='grace-2'"
                )
    assert settings.layers is not None
    for kind in (settings.read, settings.write):
        check_site(model, Site(kind, settings.layers[0]))
        model.path(kind, settings.layers[0])
    return settings


def _header(settings: GRACESettings) -> dict[str, Any]:
    assert settings.layers is not None
    kept = {name: getattr(settings, name) for name in ("read", "write", "key_token", "replacement", "radius")}
    return {"layer": settings.layers[0], **kept}


def _asked(model: Model, group: Group, settings: GRACESettings) -> list[Asked]:
    """The requests with the keys, from the bare model, and what values begin with."""
    assert settings.layers is not None and settings.radius is not None
    read, write = (settings.read, settings.layers[0]), (settings.write, settings.layers[0])
    found = [request.fact.align(model) for request in group]
    prompts = [tuple(each.input_ids) for each in found]
    tokens = key_tokens(model, prompts, settings.key_token)
    with resting(model):
        keys = prompt_states(model, prompts, [read], tokens)[read].float().cpu()
    readouts = [Readout.of(model, each) for each in found]
    rows = [Row(tuple(each.ids), at, each.read, each.target) for each, at in zip(readouts, tokens, strict=True)]
    counts = [len(row.target) if settings.replacement == "answer" else 1 for row in rows]
    if settings.start == "warm":
        starts = outputs(model, rows, write, counts)
    else:
        draw = torch.Generator().manual_seed(settings.seed)
        width = prompt_states(model, prompts[:1], [write])[write].shape[1]
        starts = [torch.rand(count, width, generator=draw) for count in counts]
    about = [
        {
            "prompts": [request.text],
            "subject": request.subject,
            "target": request.target_new,
            "ids": list(row.target),
            "tokens": len(prompt),
        }
        for request, row, prompt in zip(group, rows, prompts, strict=True)
    ]
    own = [Entry(key, settings.radius, start, line) for key, start, line in zip(keys, starts, about, strict=True)]
    return [Asked(*parts) for parts in zip(group, rows, own, strict=True)]


@dataclass(eq=False)
class Table:
    """A codebook with the edits of a group, while they are trained.

    Attributes:
        entries: of it.
        trained: for each request the entry that acts on it; None: none does.
        losses: for each request.
        notes: what the reader should know.
    """

    entries: list[Entry]
    trained: list[int | None]
    losses: list[Tensor]
    notes: list[str]


def _filled(model: Model, asked: Sequence[Asked], before: Memory | None, settings: GRACESettings) -> Table:
    """The codebook with the requests' entries in it, which are not trained yet."""
    table = Table(list(entries_of(before)), [], [torch.zeros(0)] * len(asked), [])
    for each in asked:
        found: Placed = placed(table.entries, each.own, settings.rule)
        table.entries = list(found.entries)
        table.trained.append(found.entry)
        table.notes += filter(None, [found.note])
    return table


def _train(
    model: Model, every: Sequence[Sequence[Asked]], tables: Sequence[Table], settings: GRACESettings, max_rows: int | None
) -> None:
    """Train what acts on each request, those of all groups together; an entry's second request after its first."""
    assert settings.layers is not None
    jobs = []
    for table, asked in zip(tables, every, strict=True):
        turns: dict[int | None, int] = {}
        for place, (each, entry) in enumerate(zip(asked, table.trained, strict=True)):
            turns[entry] = turns.get(entry, 0) + 1
            jobs.append((turns[entry], table, place, each.row, entry))
    training = Training((settings.write, settings.layers[0]), settings.replacement, settings.steps, settings.stop_loss)
    for turn in sorted({job[0] for job in jobs}):
        now = [job for job in jobs if job[0] == turn and job[4] is not None]
        if not now:
            continue
        starts = [table.entries[entry].values for _, table, _, _, entry in now]
        rates = [settings.lr if settings.lr is not None else RATE * float(start.square().mean().sqrt()) for start in starts]
        found = train_values(model, [row for _, _, _, row, _ in now], starts, training, rates, max_rows)
        for (_, table, place, _, entry), each in zip(now, found, strict=True):
            table.entries[entry] = replace(table.entries[entry], values=each.values)
            table.losses[place] = each.losses


def _change(
    model: Model, asked: Sequence[Asked], table: Table, before: Memory | None, settings: GRACESettings
) -> Change:
    header = _header(settings)
    after = Memory(settings.name, "grace", model.weights_fingerprint(), tensors_of(table.entries), header)
    high = [float(losses[-1]) for losses in table.losses if len(losses) and losses[-1] > max(settings.stop_loss, 0.1)]
    notes = list(table.notes)
    if high:
        notes.append(f"{len(high)} of {len(asked)} requests end above a loss of 0.1; the highest is {max(high):.3g}")
    notes += _lost(model, table.entries, settings)
    evidence = {
        "loss": torch.nn.utils.rnn.pad_sequence(table.losses, padding_value=torch.nan),  # [steps, requests]
        "entry": torch.tensor([-1 if entry is None else entry for entry in table.trained]),
        "radius": torch.tensor([math.nan if entry is None else table.entries[entry].radius for entry in table.trained]),
    }
    used = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    return Change({}, used, evidence, "; ".join(notes), (MemoryChange.between(before, after),))


def _lost(model: Model, entries: Sequence[Entry], settings: GRACESettings) -> list[str]:
    """Remarks about prompts that an entry was to cover and that no entry, or one with another target, acts on now.

    A prompt with an entry of its own is nearest to that one; those looked at share an entry with others.
    """
    assert settings.layers is not None
    read = (settings.read, settings.layers[0])
    shared = [(entry, prompt) for entry in entries if len(entry.about["prompts"]) > 1 for prompt in entry.about["prompts"]]
    if not shared:
        return []
    keys, radii = torch.stack([entry.key for entry in entries]), torch.tensor([entry.radius for entry in entries])
    texts = [tuple(Fact(prompt, prompt).align(model).input_ids) for _, prompt in shared]
    with resting(model):
        states = prompt_states(model, texts, [read], key_tokens(model, texts, settings.key_token))[read].float().cpu()
    found = [route(state, keys, radii) for state in states]
    lost = [
        prompt
        for (entry, prompt), to in zip(shared, found, strict=True)
        if not to.hit or list(entries[to.entry].about["ids"]) != list(entry.about["ids"])
    ]
    return [f"no longer answered as edited: {', '.join(map(repr, lost))}"] if lost else []


METHOD = Method(
    "grace", GRACESettings, plan, layers="one", masked=True, seeded=True, writes=False,
    needs=frozenset({"max_rows"}), summary="a codebook of keys and values beside a layer (Hartvigsen et al. 2023)",
)
