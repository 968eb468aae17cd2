"""MEND and MALMEN as methods: what a trained editor makes of requests is an ordinary change of weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.methods.context import EditContext
from editing.methods.method import Change, Group, Method
from editing.methods.timing import part
from editing.prepared.prepared import Prepared
from editing.prepared.work import Preparation
from editing.request import EditWarning
from tracer.errors import PreparedForOther

from .changes import Changes, MetaEditor
from .episodes import line_of
from .prepare import make_malmen, make_mend, malmen_of, mend_of
from .settings import MALMENPreparation, MALMENSettings, MENDPreparation, MENDSettings

if TYPE_CHECKING:
    from tracer.model import Model

Make = Callable[[Any, Prepared, bool], MetaEditor]


def planned(method: str, make: Make) -> Callable[[Model, Sequence[Group], Any, EditContext], list[Change]]:
    """The `plan` of a method whose editor is prepared.

    Args:
        method: its name.
        make: makes the editor of what was prepared.
    """

    def plan(model: Model, groups: Sequence[Group], settings: MENDSettings, context: EditContext) -> list[Change]:
        prepared = context.prepared_for(method)
        check_layers(model, prepared, settings.layers)
        note_number(prepared, groups)
        editor = make(model, prepared, settings.published)
        told = told_of(prepared, settings.published)
        return [_change(model, editor, group, told, context.max_rows) for group in groups]

    return plan


def _change(model: Model, editor: MetaEditor, group: Group, told: Mapping[str, Any], max_rows: int | None) -> Change:
    with torch.no_grad(), part("search"):
        changes = editor.changes(model, [[line_of(model, request.fact) for request in group]], max_rows)
    with part("solve"):
        factors = {place.weight: changes.low[place.key].factors(place, 0) for place in editor.places}
    return Change(factors, told, evidence_of(changes))


def evidence_of(changes: Changes) -> dict[str, Tensor]:
    """Arrays that led to changes, by name and place, such as "x.4.down"; and the loss before.

    Args:
        changes: of one group.
    """
    arrays = {
        f"{name}.{key}": array.detach().float().cpu()
        for key, told in changes.told.items()
        for name, array in told.items()
        if name != "group"
    }
    return {"nll": changes.nll.float().cpu(), **arrays}


def told_of(prepared: Prepared, published: bool) -> dict[str, Any]:
    """What the settings of an edit say: of the editor's too.

    Args:
        prepared: the editor.
        published: as of the settings.
    """
    layers = sorted({int(key.partition(".")[0]) for key in prepared.header["places"]})
    own = {name: prepared.settings[name] for name in ("edits", "block") if name in prepared.settings}
    return {
        "layers": layers,
        "places": list(prepared.header["places"]),
        **own,
        "published": published,
        "prepared": prepared.digest,
    }


def check_layers(model: Model, prepared: Prepared, layers: Sequence[int] | None) -> None:
    """Pass if an editor is one of these layers.

    Args:
        model: to be edited.
        prepared: the editor.
        layers: asked for; None: any.

    Raises:
        TracerError: it is of others.
    """
    own = sorted({int(key.partition(".")[0]) for key in prepared.header["places"]})
    if layers is not None and list(layers) != own:
        raise PreparedForOther(
            f"this was prepared for {prepared.method} at the layers {own} of {prepared.model}, and {list(layers)} were "
            f"asked for; leave layers out, or train an editor of these: editing.prepare(model, {prepared.method!r}, "
            f"records, layers={list(layers)})"
        )


def note_number(prepared: Prepared, groups: Sequence[Group]) -> None:
    """Warn of groups of fewer or more requests than an editor was trained for.

    Args:
        prepared: the editor.
        groups: to be edited.

    Warns:
        EditWarning: of them.
    """
    able = prepared.settings["edits"]
    sizes = sorted({len(group) for group in groups if not min(able) <= len(group) <= max(able)})
    if sizes:
        known = str(able[0]) if len(able) == 1 else f"{min(able)} to {max(able)}"
        used = ", ".join(map(str, sizes))
        warnings.warn(
            f"this {prepared.method} was trained for {known} edits at once and is used for {used}; "
            f"expect less of it, or train one with editing.prepare(model, {prepared.method!r}, records, "
            f"edits={sizes[-1]})",
            EditWarning,
            stacklevel=5,
        )


_NETS: dict[str, Any] = {"needs": frozenset({"prepared", "max_rows"}), "layers": "none"}
MEND = Method(
    "mend",
    MENDSettings,
    planned("mend", mend_of),
    preparation=Preparation(MENDPreparation, make_mend, summary="nets that turn gradients into edits"),
    summary="a trained editor of gradients (Mitchell et al. 2022)",
    **_NETS,
)
MALMEN = Method(
    "malmen",
    MALMENSettings,
    planned("malmen", malmen_of),
    preparation=Preparation(MALMENPreparation, make_malmen, summary="nets that turn gradients into many edits at once"),
    summary="a trained editor of many edits at once (Tan et al. 2024)",
    **_NETS,
)
