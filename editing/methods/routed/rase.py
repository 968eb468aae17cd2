"""RASE: edits that a router switches on (Han et al. 2023, "Improving Sequential Model Editing with Fact Retrieval").

Each fact is written into the unedited model by another method, such as ROME, and what that would change is kept as a
patch. A prompt that the router finds to be about a fact is answered with that patch, and every other one by the model
as it was. So an edit does not wear with the number of others; what that costs is misses of the router, bytes and time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.routed import Own
from editing.methods.compute import check_seq2seq, method_named, settings_of
from editing.methods.context import EditContext
from editing.methods.method import Change, Group, Method
from editing.methods.value.settings import NEEDS
from editing.prepared.work import Preparation
from tracer.engine.memories import remembering
from tracer.engine.sites import WIDE
from tracer.errors import HyperparameterError
from tracer.model import orientation

from .book import Book, line_of
from .measure import RouterPreparation, measured
from .routers import router_for
from .settings import RASESettings

if TYPE_CHECKING:
    from tracer.model import Model

NAME = "rase"
Place = tuple[int, str, str]


def plan(model: Model, groups: Sequence[Group], given: RASESettings, context: EditContext) -> list[Change]:
    """One change of the memory per group, each from the one that the model has; every request is an entry by itself.

    Raises:
        TracerError: an editor that keeps its edits in a memory of its own, or changes what is no projection of an MLP;
            a memory that was begun with another router.
    """
    editor = method_named(given.editor)
    check_seq2seq(model, editor)
    name = given.name or NAME
    router = router_for(context, given.router, given.routing, NAME)
    book = Book.open(model, name, "weights", router)
    layers = {} if given.layers is None else {"layers": given.layers}
    settings = settings_of(editor, {**given.editor_settings, **layers})
    with remembering(model, [memory for memory in model.memories if memory.name != name]):
        own = replace(context, model=context.model, origin=context.origin or model.weights_fingerprint())
        alone = [[request] for group in groups for request in group]
        changes = iter(editor.plan(own.model, alone, settings, own))
    found = []
    for group in groups:
        some = [next(changes) for _ in group]
        places = [tuple(each) for each in book.before.header["places"]] if book.before is not None else []
        patches, places = patches_of(model, some, places, editor)
        header = {"places": [list(place) for place in places], "widths": [_widths(model, place) for place in places]}
        change, keys, note = book.added([line_of(model, request) for request in group], patches, header)
        used = {**given.told(router), "editor": editor.name, "layers": sorted({layer for layer, *_ in places})}
        used |= {"editor_settings": _plain(some[0].settings), "name": name}
        notes = [note, *dict.fromkeys(each.note for each in some)]
        evidence = {"keys": keys, **_gathered(some)}
        found.append(Change({}, used, evidence, "; ".join(filter(None, notes)), (change,)))
    return found


def patches_of(
    model: Model, changes: Sequence[Change], places: Sequence[Place], editor: Method
) -> tuple[list[Own], list[Place]]:
    """What each change adds to which projections: A and B by place; and the places, known ones first.

    Args:
        model: that was edited.
        changes: of one request each.
        places: known before.
        editor: that made them, for messages.

    Raises:
        TracerError: memories among the changes; a weight that is no projection of an MLP.
    """
    known, patches = list(places), []
    for change in changes:
        if change.memories or not change.factors:
            raise HyperparameterError(
                f"{editor.name} keeps its edits in a memory of its own, which has its own rule of when they act; name "
                "an editor that changes weights, such as rome or memit"
            )
        own: dict[str, Tensor] = {}
        for name, (u, v) in change.factors.items():
            place = place_of(model, name, editor)
            if place not in known:
                known.append(place)
            path = name.removesuffix(".weight")
            into, out = (u, v) if orientation(model.hf.get_submodule(path), path) == "in_out" else (v, u)
            for side, part in zip("ab", (into, out), strict=True):
                own[f"{side}.{known.index(place)}"] = part.detach().float().cpu().T.contiguous()
        patches.append(own)
    return patches, known


def place_of(model: Model, weight: str, editor: Method) -> Place:
    """The layer of a weight, and the kinds of the sites between which it lies.

    Args:
        model: that has it.
        weight: its full name.
        editor: that changes it, for the message.

    Raises:
        TracerError: its input and output are no sites.
    """
    path = weight.removesuffix(".weight")
    for layer in range(model.n_layers):
        projections = model.projections(layer)
        if path == projections["down"]:
            return layer, "key", "value"
        if path == projections.get("up") and "gate" not in projections:
            return layer, "mlp_in", "pre"
    raise HyperparameterError(
        f"{editor.name} changes {weight!r}, whose input and output no site stands for, so that it cannot be switched "
        "on for a row; name an editor that changes projections of MLPs, such as rome or memit, or other modules of it"
    )


def _widths(model: Model, place: Place) -> list[int]:
    return [model.d_mlp if kind in WIDE else model.d_model for kind in place[1:]]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _gathered(changes: Sequence[Change]) -> dict[str, Tensor]:
    """Evidence of all requests, where every one has it in the same shape; entries are rows."""
    found = {}
    for name, first in changes[0].evidence.items():
        some = [change.evidence.get(name) for change in changes]
        if all(each is not None and each.shape == first.shape for each in some):
            found[name] = torch.cat([each.reshape(1) if each.dim() == 0 else each for each in some if each is not None])
    return found


METHOD = Method(
    NAME,
    RASESettings,
    plan,
    needs=frozenset((*NEEDS, "prepared")),
    located=False,
    seq2seq=True,
    writes=False,
    preparation=Preparation(RouterPreparation, measured, summary="routers on the model's own states, and by tokens"),
    summary="any method's edits, switched on by a router (Han et al. 2023)",
)
