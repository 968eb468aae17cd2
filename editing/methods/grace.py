"""GRACE: a codebook beside one layer, whose entries replace a state behind prompts they know (Hartvigsen et al. 2023).

An entry has a key, the state of the edit's prompt at one site, a radius, and values that take the place of the state at
another site where a prompt's key is near. No weight is changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from editing.memories.change import MemoryChange
from editing.memories.memory import Memory
from editing.memories.placement import KEY_TOKENS, REPLACEMENTS
from tracer.checks import finite, whole
from tracer.engine.hooks import check_site
from tracer.engine.memories import remembering
from tracer.engine.sites import KINDS, Site
from tracer.errors import EncoderDecoderError, HyperparameterError

from .codebook.learning import Book, Radius, Sites, learn, learnt, lost
from .codebook.present import chosen, matching, present
from .codebook.separation import best_layer, separations
from .codebook.table import Rule, entries_of, tensors_of
from .context import EditContext
from .method import Change, Group, Method
from .training import as_layers

if TYPE_CHECKING:
    from tracer.model import Model

SITES = tuple(kind for kind in KINDS if kind != "embed")
MEASURED_ON = 8  # requests of a group, at most: where the layer is measured
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
        key_token: the token whose state is the key: "last", or "answer", in masked models the first mask.
        replacement: where values are put. "answer": one for each token of the target, from the key's token on. As
            published, one value: "replace_last", at the key's token; "replace_prompt", at all before it;
            "replace_all", at every token.
        compare: as of [`editing.methods.codebook.table.Rule`][]. (Published: "mean".)
        overwrite: as of `Rule`. (Published: False.)
        expand: as of `Rule`. (Published: "coverage".)
        split: as of `Rule`. (Published: "half".)
        start: what values begin with: "warm", the state they replace; "cold", uniform from 0 to 1, as published.
        steps: of Adam, at most.
        lr: of Adam; None: 0.3 of the usual size of a number of the state that is replaced. (Published: 1.)
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
            chosen(name, getattr(self, name), choices)
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


def plan(model: Model, groups: Sequence[Group], given: GRACESettings, context: EditContext) -> list[Change]:
    """One change of the codebook per group, each from the one that the model has.

    Raises:
        TracerError: a codebook at another site than the one that is asked for; losses that are not finite.
    """
    before = present(model, given.name, "grace")
    fixed = _fixed(model, given, before)
    with remembering(model, [memory for memory in model.memories if memory.name != given.name]):
        every, books = [], []
        for group in groups:
            settings, radii, note = _measured(group, fixed, context)
            every.append(settings)
            start = entries_of(before)
            books.append(learnt(model, group, start, radii, _sites(settings), settings.rule, _cold(settings)))
            books[-1].notes += filter(None, [note])
        for sites in dict.fromkeys(map(_sites, every)):
            some = [book for book, settings in zip(books, every, strict=True) if _sites(settings) == sites]
            learn(model, some, sites, given.steps, given.lr, given.stop_loss, context.max_rows)
        parts = zip(books, every, strict=True)
        return [_change(model, book, before, settings) for book, settings in parts]


def _fixed(model: Model, given: GRACESettings, before: Memory | None) -> GRACESettings:
    """The settings with the layer of the codebook that is there; checked against what that is, and the model has."""
    settings = given
    if before is not None:
        settings = replace(given, layers=given.layers or (before.header["layer"],))
        matching(model, before, _header(settings))
    for layer in settings.layers or answering(model):
        if layer not in answering(model):
            raise EncoderDecoderError(
                f"layer {layer} of {model.name} is in the encoder, and the codebook looks up the state that the answer "
                f"is read from; name a layer of the decoder, {answering(model)[0]} to {answering(model)[-1]}"
            )
        for kind in (settings.read, settings.write):
            check_site(model, Site(kind, layer))
            model.path(kind, layer)
    return settings


def _measured(group: Group, settings: GRACESettings, context: EditContext) -> tuple[GRACESettings, list[Radius], str]:
    """The settings with a layer, a radius for each request, and a remark about these, or ""."""
    layers, given = settings.layers, settings.radius
    if layers is not None and given is not None:
        return settings, [Radius(given)] * len(group), ""
    every = layers or tuple(answering(context.model))
    asked = group if given is None else group[:MEASURED_ON]
    found = [
        separations(request, settings.read, every, settings.key_token, settings.seed, context) for request in asked
    ]
    layer, note = best_layer(found[:MEASURED_ON]) if layers is None else (layers[0], "")
    settings = replace(settings, layers=(layer,))
    if given is not None:
        return settings, [Radius(given)] * len(group), note
    return settings, [Radius(one[layer].radius, relative=True) for one in found], note


def answering(model: Model) -> range:
    """Layers that have a state of the token behind which the answer is written."""
    return model.stacks.get("decoder", range(model.n_layers))


def _cold(settings: GRACESettings) -> torch.Generator | None:
    return torch.Generator().manual_seed(settings.seed) if settings.start == "cold" else None


def _sites(settings: GRACESettings) -> Sites:
    assert settings.layers is not None
    layer = settings.layers[0]
    return Sites((settings.read, layer), (settings.write, layer), settings.key_token, settings.replacement)


def _header(settings: GRACESettings) -> dict[str, Any]:
    assert settings.layers is not None
    kept = {name: getattr(settings, name) for name in ("read", "write", "key_token", "replacement")}
    return {"layer": settings.layers[0], **kept}


def _change(model: Model, book: Book, before: Memory | None, settings: GRACESettings) -> Change:
    after = Memory(settings.name, "grace", model.weights_fingerprint(), tensors_of(book.entries), _header(settings))
    notes = [*book.notes, *lost(model, book.entries, _sites(settings))]
    unsaid = [
        float(losses[-1]) for losses, said in zip(book.losses, book.said, strict=True) if len(losses) and not said
    ]
    if unsaid:
        notes.append(
            f"{len(unsaid)} of {len(book.rows)} targets are not what the model says after {settings.steps} steps; the "
            f"highest loss is {max(unsaid):.3g}"
        )
    radii = [math.nan if entry is None else book.entries[entry].radius for entry in book.acting]
    evidence = {
        "loss": torch.nn.utils.rnn.pad_sequence(book.losses, padding_value=math.nan),  # [steps, requests]
        "entry": torch.tensor([-1 if entry is None else entry for entry in book.acting]),
        "radius": torch.tensor(radii),
    }
    used = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    if settings.radius is None and len(radii) == 1:
        used["radius"] = radii[0]
    return Change({}, used, evidence, "; ".join(notes), (MemoryChange.between(before, after),))


METHOD = Method(
    "grace",
    GRACESettings,
    plan,
    needs=frozenset({"max_rows"}),
    layers="one",
    masked=True,
    seq2seq=True,
    seeded=True,
    writes=False,
    located=False,
    summary="a codebook of keys and values beside a layer (Hartvigsen et al. 2023)",
)
