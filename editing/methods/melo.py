"""MELO: blocks of LoRA, each of which acts where a prompt comes to the cluster of its edits (Yu et al. 2024).

Clusters are those of a state of the prompt, as GRACE's codebook; what acts is a low-rank change of some projections,
trained on the edits of a block. No weight is changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.change import MemoryChange
from editing.memories.melo import adapted
from editing.memories.memory import Memory
from tracer.checks import finite, whole
from tracer.engine.frame import Frame, attach
from tracer.engine.hooks import check_site
from tracer.engine.memories import remembering, resting
from tracer.engine.prompt_states import prompt_states
from tracer.engine.sites import Site
from tracer.errors import HyperparameterError

from .codebook.clusters import ClusterRule, Clusters, Point
from .codebook.present import chosen, matching, present
from .codebook.separation import best_layer, separations
from .context import EditContext
from .method import Change, Group, Method
from .training import Schedule, Trained, as_layers, train

if TYPE_CHECKING:
    from tracer.model import Model

MEASURED_ON = 8  # requests of a group, at most: where the layer of the keys is measured


@dataclass(frozen=True)
class MELOSettings:
    """Hyper-parameters of MELO.

    Attributes:
        layers: blocks in which LoRA acts; None: from a quarter to half of the depth. (Published: two, just behind the
            layer of the keys.)
        key_layer: layer whose state is the key; None: that of the memory that is there, or measured. It may be behind
            `layers`: the decision is made before, in a forward of its own. (Published: at three quarters of the depth.)
        radius: of a new cluster, in the units of a key; None: measured. (Published: 0.5.)
        read: kind of the site whose state, at the prompt's last token, is the key. (Published: the output of the
            up-projection, "pre".)
        enters: kind of the site that LoRA takes.
        leaves: kind of the site that it is added to. (Published: input and output of the up-projection, "mlp_in" and
            "pre"; here of the down-projection.)
        edits_per_block: requests that share a block.
        rank: of a block.
        scale: factor of a block. (Published: 350, the number of blocks.)
        bound: A begins uniform between this and its negative, B with zeros; None: one over the root of A's width.
            (Published: one over the root of 700, the rank of all blocks together.)
        compare: as of [`editing.methods.codebook.clusters.ClusterRule`][]. (Published: "sum".)
        overwrite: as of `ClusterRule`. (Published: False.)
        expand: as of `ClusterRule`. (Published: "mean".)
        split: as of `ClusterRule`. (Published: "half".)
        steps: passes over the requests of a block, at most.
        lr: learning rate of Adam. (Published: 1e-3.)
        halve_every: steps after which the rate is halved; 0: never. (Published: 20.)
        stop_loss: see [`editing.methods.training.Schedule`][]. (Published: 0, never.)
        seed: of A, and of the contexts that layer and radius are measured on.
        name: of the memory.
    """

    layers: Sequence[int] | None = None
    key_layer: int | None = None
    radius: float | None = None
    read: str = "mlp_in"
    enters: str = "key"
    leaves: str = "value"
    edits_per_block: int = 4
    rank: int = 2
    scale: float = 16.0
    bound: float | None = None
    compare: str = "ids"
    overwrite: bool = True
    expand: str = "none"
    split: str = "none"
    steps: int = 50
    lr: float = 3e-3
    halve_every: int = 0
    stop_loss: float = 1e-2
    seed: int = 0
    name: str = "melo"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        sites = ("hidden", "mlp", "attn", "mlp_in", "key", "pre", "value")
        choices = {"compare": ("ids", "sum"), "expand": ("none", "mean"), "split": ("none", "half")}
        for name, known in {**choices, "read": sites, "enters": sites, "leaves": sites}.items():
            chosen(name, getattr(self, name), known)
        for name in ("rank", "edits_per_block"):
            whole(name, getattr(self, name), 1, kind=HyperparameterError)
        whole("seed", self.seed, kind=HyperparameterError)
        for name in ("radius", "scale", "bound"):
            if getattr(self, name) is not None:
                finite(name, getattr(self, name), above=0, kind=HyperparameterError, expected="a number above zero")
        if self.key_layer is not None:
            whole("key_layer", self.key_layer, kind=HyperparameterError)
        if not isinstance(self.name, str) or not self.name:
            raise HyperparameterError(f"name is {self.name!r}; expected that of a memory, such as 'melo'")
        self.schedule()

    def schedule(self) -> Schedule:
        """Schedule of a block's training; checks its settings."""
        lengths = (self.steps, self.lr, self.stop_loss, self.edits_per_block)
        return Schedule("target_new", *lengths, halve_every=self.halve_every)

    @property
    def rule(self) -> ClusterRule:
        """How edits and clusters get along."""
        return ClusterRule(self.compare, self.overwrite, self.expand, self.split)


def plan(model: Model, groups: Sequence[Group], given: MELOSettings, context: EditContext) -> list[Change]:
    """One change of the memory per group, each from the one that the model has, with a block for every few requests.

    Raises:
        TracerError: a memory at other sites than those that are asked for; losses that are not finite.
    """
    before = present(model, given.name, "melo")
    settings = replace(given, layers=given.layers or _layers(model, before))
    if before is not None:
        settings = replace(settings, key_layer=before.header["layer"] if given.key_layer is None else given.key_layer)
    with remembering(model, [memory for memory in model.memories if memory.name != given.name]):
        return [_change(model, group, settings, before, context) for group in groups]


def _layers(model: Model, before: Memory | None) -> tuple[int, ...]:
    return tuple(before.header["layers"]) if before else tuple(range(model.n_layers // 4, model.n_layers // 2 + 1))


def _change(model: Model, group: Group, settings: MELOSettings, before: Memory | None, context: EditContext) -> Change:
    settings, radii, note = _measured(group, settings, context)
    header = _header(settings)
    if before is not None:
        matching(model, before, header)
    for kind, layer in _sites(settings):
        check_site(model, Site(kind, layer))
        model.path(kind, layer)
    clusters = Clusters.of(before)
    prompts = [tuple(request.about(None).align(model).input_ids) for request in group]
    read = (settings.read, header["layer"])
    with resting(model):
        keys = prompt_states(model, prompts, [read])[read].float().cpu()
    first = clusters.edits
    about = [_about(model, request, first + i) for i, request in enumerate(group)]
    if settings.overwrite:
        clusters.give_way(list(keys), about)
    a, b = _blocks(model, settings, before)
    draw, curves, notes = torch.Generator().manual_seed(settings.seed), [], [note]
    for start in range(0, len(group), settings.edits_per_block):
        some = range(start, min(start + settings.edits_per_block, len(group)))
        block = _free(clusters, len(a)) if settings.overwrite else len(a)
        trained, pair = _trained(model, [group[i] for i in some], settings, draw)
        a, b = (_put(old, new, block) for old, new in zip((a, b), pair, strict=True))
        curves.append(trained.loss)
        notes.append(trained.note)
        clusters.add(
            [Point(keys[i], block, about[i]) for i in some],
            [radii[i] * (float(keys[i].norm()) if settings.radius is None else 1) for i in some],
            settings.rule,
        )
    tensors = {**clusters.tensors(), "a": a, "b": b}
    after = Memory(settings.name, "melo", model.weights_fingerprint(), tensors, header)
    evidence = {
        "loss": torch.nn.utils.rnn.pad_sequence([row for curve in curves for row in curve.T], padding_value=math.nan),
        "radius": torch.tensor([cluster.radius for cluster in clusters.all]),
        "conflicts": torch.tensor(clusters.conflicts),
        "forgotten": torch.tensor(clusters.forgotten),
    }
    used = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    text = "; ".join(filter(None, [*notes, *clusters.notes]))
    return Change({}, used, evidence, text, (MemoryChange.between(before, after),))


def _measured(group: Group, settings: MELOSettings, context: EditContext) -> tuple[MELOSettings, list[float], str]:
    """The settings with a layer of the keys, a radius for each request (in lengths of its key), and a remark or ""."""
    layer, given = settings.key_layer, settings.radius
    if layer is not None and given is not None:
        return settings, [given] * len(group), ""
    every = tuple(range(context.model.n_layers)) if layer is None else (layer,)
    asked = group if given is None else group[:MEASURED_ON]
    found = [separations(request, settings.read, every, "last", settings.seed, context) for request in asked]
    note = ""
    if layer is None:
        layer, note = best_layer(found[:MEASURED_ON])
    settings = replace(settings, key_layer=layer)
    return settings, [one[layer].radius for one in found] if given is None else [given] * len(group), note


def _sites(settings: MELOSettings) -> list[tuple[str, int]]:
    assert settings.layers is not None and settings.key_layer is not None
    pairs = [(kind, layer) for layer in settings.layers for kind in (settings.enters, settings.leaves)]
    return [(settings.read, settings.key_layer), *pairs]


def _header(settings: MELOSettings) -> dict[str, Any]:
    assert settings.layers is not None
    kept = {name: getattr(settings, name) for name in ("read", "enters", "leaves", "rank", "scale")}
    return {"layer": settings.key_layer, "layers": list(settings.layers), **kept}


def _about(model: Model, request: Any, edit: int) -> dict[str, Any]:
    about = {"prompt": request.text, "subject": request.subject, "target": request.target_new, "edit": edit}
    return {**about, "ids": list(request.fact.align(model).target_ids)}


# --- blocks -----------------------------------------------------------------------------------------------------------
def _blocks(model: Model, settings: MELOSettings, before: Memory | None) -> tuple[Tensor, Tensor]:
    """The blocks that are there, [blocks, layers, rank, width] each."""
    if before is not None:
        return before.tensors["a"], before.tensors["b"]
    assert settings.layers is not None
    widths = _widths(model, settings)
    a, b = (torch.zeros(0, len(settings.layers), settings.rank, width) for width in widths)
    return a, b


def _widths(model: Model, settings: MELOSettings) -> list[int]:
    return [model.d_mlp if kind in ("key", "pre") else model.d_model for kind in (settings.enters, settings.leaves)]


def _free(clusters: Clusters, count: int) -> int:
    """A block that no point has any more, or the next one."""
    used = {point.block for cluster in clusters.all for point in cluster.points}
    return next((block for block in range(count) if block not in used), count)


def _put(blocks: Tensor, new: Tensor, place: int) -> Tensor:
    if place == len(blocks):
        return torch.cat([blocks, new.unsqueeze(0)])
    return torch.cat([blocks[:place], new.unsqueeze(0), blocks[place + 1 :]])


def _trained(
    model: Model, group: Group, settings: MELOSettings, draw: torch.Generator
) -> tuple[Trained, tuple[Tensor, Tensor]]:
    """A block trained on some requests: the curve, and A and B [layers, rank, width]."""
    assert settings.layers is not None
    enters, leaves = _widths(model, settings)
    bound = enters**-0.5 if settings.bound is None else settings.bound
    shape = (len(settings.layers), settings.rank)
    a = (2 * torch.rand(*shape, enters, generator=draw) - 1) * bound
    pair = tuple(one.to(model.device).requires_grad_() for one in (a, torch.zeros(*shape, leaves)))
    with _adapting(model, settings, *pair):
        trained = train(model, group, pair, settings.schedule())
    return trained, (pair[0].detach().cpu(), pair[1].detach().cpu())


@contextmanager
def _adapting(model: Model, settings: MELOSettings, a: Tensor, b: Tensor) -> Iterator[None]:
    """Context in which a block acts at every token of every row."""
    assert settings.layers is not None
    with ExitStack() as stack:
        for place, layer in enumerate(settings.layers):
            seen: list[Tensor] = []

            def act(y: Tensor, place: int = place, seen: list[Tensor] = seen) -> Tensor:
                x = seen.pop()
                return y + adapted(x, a[place].to(x), b[place].to(y), settings.scale)

            stack.callback(attach(model, settings.leaves, layer, act, Frame()).remove)
            stack.callback(attach(model, settings.enters, layer, seen.append, Frame()).remove)
        yield


METHOD = Method(
    "melo",
    MELOSettings,
    plan,
    seeded=True,
    writes=False,
    located=False,
    summary="clusters of prompts, a block of LoRA for each (Yu et al. 2024)",
)
