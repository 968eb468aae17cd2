"""WILKE: ROME at the layer whose weight has to change least (Hu et al. 2024).

"WilKE: Wise-Layer Knowledge Editor for Lifelong Knowledge Editing" writes each fact at the layer that fits it best, and
takes that to be the one with the smallest |change| / |weight| (Frobenius norms) of all at which ROME is tried.

As published the rule does not ask whether an edit works, and the smallest change of all is that of a layer at which it
does nothing: the MLP of the last block, whose output at the subject nobody reads, wins wherever it is tried. So by
default the least change counts among the layers at which the model says the new target afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.edits.size import norm_of
from editing.edits.weights import applied
from editing.methods.value.settings import NEEDS, resolve
from editing.request import EditRequest
from tracer.engine.answer import knows
from tracer.engine.batch import Row
from tracer.facts.readout import Readout
from tracer.progress import track

from . import rome
from .context import EditContext
from .method import Change, Group, Method
from .training import losses

if TYPE_CHECKING:
    from tracer.model import Model

Factors = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class WILKESettings(rome.ROMESettings):
    """Hyper-parameters of WILKE; see `ROMESettings`.

    Attributes:
        layers: at which ROME is tried; None: all.
        works: choose among the layers at which the edit works. False: among all, as published.
    """

    works: bool = True


@dataclass(frozen=True, eq=False)
class Tried:
    """ROME for one request at every layer that was tried, L of them.

    Attributes:
        layers: of the edits.
        changes: the edits.
        change: Frobenius norm of each one's change over that of the weight, [L].
        works: whether the model says the new target with it, [L] bool.
        nll: of the new target with it, per token, [L] (natural logarithm).
    """

    layers: tuple[int, ...]
    changes: tuple[Change, ...]
    change: Tensor
    works: Tensor
    nll: Tensor

    def place(self, working: bool) -> int:
        """Place of the layer to write at; where the edit works at none, of the one with the lowest NLL.

        Args:
            working: choose among the layers at which the edit works.
        """
        if working and not bool(self.works.any()):
            return int(self.nll.argmin())
        return int((self.change.where(self.works, torch.inf) if working else self.change).argmin())


def plan(model: Model, groups: Sequence[Group], given: WILKESettings, context: EditContext) -> list[Change]:
    """One change per group: requests are written one after the other, each at its own layer, on top of those before."""
    settings = resolve(model, given, range(model.n_layers), context)
    context = replace(context, given=settings.covariance)  # one pass over the text for all layers
    found: list[list[Tried]] = [[] for _ in groups]
    for turn, requests in enumerate(zip_longest(*groups)):
        for places in _together(requests, turn):
            with ExitStack() as stack:
                for earlier in found[places[0]] if turn else ():
                    stack.enter_context(applied(model, _chosen(earlier, given).factors))
                tried = scan(model, [requests[place] for place in places], settings.layers, given, context)
            for place, one in zip(places, tried, strict=True):
                found[place].append(one)
    used = settings.as_json()
    return [_change(own, given, used, settings.note) for own in found]


def _together(requests: Sequence[EditRequest | None], turn: int) -> Iterator[list[int]]:
    """Places of the groups whose requests see the same weights: in the first turn all, and then each by itself."""
    places = [place for place, request in enumerate(requests) if request is not None]
    yield from [[place] for place in places] if turn else [places]


def scan(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    given: WILKESettings,
    context: EditContext,
) -> list[Tried]:
    """ROME for each request alone at each layer, and what it does there; the values of all are searched for together.

    Args:
        model: to be edited; it is left as it was.
        requests: each an edit of its own.
        layers: to try.
        given: hyper-parameters.
        context: with a covariance of the layers.
    """
    rows = [_row(model, request) for request in requests]
    groups, changes, numbers = [[request] for request in requests], [], []
    for layer in track(layers, "trying layers"):
        weight = model.down_projection(layer).weight.detach()
        size = float(weight.double().norm())
        changes.append(rome.plan(model, groups, replace(given, layers=(layer,)), context))
        for request, row, change in zip(requests, rows, changes[-1], strict=True):
            with applied(model, change.factors), torch.no_grad():
                says, nll = knows(model, request.fact), float(losses(model, [row])[0])
            (factors,) = change.factors.values()
            numbers.append((norm_of(*factors) / size, says, nll))
    table = torch.tensor(numbers, dtype=torch.float64).reshape(len(layers), len(requests), 3)
    return [
        Tried(tuple(layers), tuple(own), table[:, i, 0], table[:, i, 1] > 0, table[:, i, 2])
        for i, own in enumerate(zip(*changes, strict=True))
    ]


def _row(model: Model, request: EditRequest) -> Row:
    found = Readout.of(model, request.fact.align(model))
    return Row(found.ids, found.read[0], found.read, found.target)


def _chosen(tried: Tried, given: WILKESettings) -> Change:
    return tried.changes[tried.place(given.works)]


def _change(tried: Sequence[Tried], given: WILKESettings, used: dict, note: str) -> Change:
    """The edits of a group together, with what every layer that was tried would have taken."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    chosen = [_chosen(one, given) for one in tried]
    for change in chosen:
        for name, pair in change.factors.items():
            parts.setdefault(name, []).append(pair)
    factors = {
        name: (torch.cat([u for u, _ in pairs], 1), torch.cat([v for _, v in pairs], 1))
        for name, pairs in parts.items()
    }
    places = [one.place(given.works) for one in tried]
    layers = [one.layers[place] for one, place in zip(tried, places, strict=True)]
    evidence = {name: torch.stack([getattr(one, name).float() for one in tried]) for name in ("change", "works", "nll")}
    evidence |= {"tried": torch.tensor(tried[0].layers), "layer": torch.tensor(layers)}
    evidence |= {
        name: torch.cat([change.evidence[name] for change in chosen])
        for name in ("k_star", "cur_input", "cur_output", "target_init", "delta", "idle")
    }
    idle = sum(not bool(one.works[place]) for one, place in zip(tried, places, strict=True))
    told = f"at the layer chosen the edit does not work for {idle} of {len(tried)} requests" if idle else ""
    return Change(factors, {**used, "layers": sorted(set(layers))}, evidence, "; ".join(filter(None, [note, told])))


WILKE = Method(
    "wilke",
    WILKESettings,
    plan,
    needs=NEEDS,
    layers="range",
    located=False,
    seeded=True,
    summary="ROME at the layer that has to change least (Hu et al. 2024)",
)
