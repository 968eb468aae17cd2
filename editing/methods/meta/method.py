"""Trained editors as methods: what one makes of requests is an ordinary change of weights."""

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
from tracer.errors import HyperparameterError, PreparedForOther

from .changes import Changes, MetaEditor
from .episodes import line_of
from .in_turn import InTurn
from .ke_prepare import KEPreparation, KESettings, ke_of, make_ke
from .prepare import make_malmen, make_mend, make_rledit, malmen_of, mend_of
from .settings import (
    MALMENPreparation,
    MALMENSettings,
    MENDPreparation,
    MENDSettings,
    RLEditPreparation,
    RLEditSettings,
)

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
        editor = make(model, prepared, settings.published)
        if not isinstance(editor, InTurn):
            note_number(prepared, groups)
        told = told_of(prepared, settings)
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


def told_of(prepared: Prepared, settings: MENDSettings) -> dict[str, Any]:
    """What the settings of an edit say: of the editor's too.

    Args:
        prepared: the editor.
        settings: of the edit.
    """
    layers = sorted({int(key.partition(".")[0]) for key in prepared.header["places"]})
    own = {name: prepared.settings[name] for name in ("edits", "block") if name in prepared.settings}
    return {
        **vars(settings),
        "layers": layers,
        "places": list(prepared.header["places"]),
        **own,
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


def rledit_of(model: Model, prepared: Prepared, moving: bool = False) -> InTurn:
    """The editor that was trained, in batches of as many requests as it was trained for.

    Args:
        model: to be edited.
        prepared: of `make_rledit`.
        moving: as of [`editing.methods.meta.malmen.Malmen`][].
    """
    return InTurn(malmen_of(model, prepared, moving), max(prepared.settings["edits"]))


def plan_ke(model: Model, groups: Sequence[Group], settings: KESettings, context: EditContext) -> list[Change]:
    """One change per group, as of `planned`: one request after another.

    Raises:
        TracerError: a group of several requests where the published editor is asked for.
    """
    most = max(len(group) for group in groups)
    if settings.published and most > 1:
        raise HyperparameterError(
            f"ke as published reads one request, and {most} were given at once; leave published out to have them "
            "edited one after another"
        )

    def in_turn(model: Model, prepared: Prepared, _: bool) -> InTurn:
        return InTurn(ke_of(model, prepared), 1, settings.rounds)

    return planned("ke", in_turn)(model, groups, settings, context)


MEND = Method(
    "mend",
    MENDSettings,
    planned("mend", mend_of),
    needs=frozenset({"prepared", "max_rows"}),
    layers="none",
    seq2seq=True,
    preparation=Preparation(MENDPreparation, make_mend, summary="nets that turn gradients into edits"),
    summary="a trained editor of gradients (Mitchell et al. 2022)",
)
MALMEN = Method(
    "malmen",
    MALMENSettings,
    planned("malmen", malmen_of),
    needs=frozenset({"prepared", "max_rows"}),
    layers="none",
    seq2seq=True,
    preparation=Preparation(MALMENPreparation, make_malmen, summary="nets that turn gradients into many edits at once"),
    summary="a trained editor of many edits at once (Tan et al. 2024)",
)
RLEDIT = Method(
    "rledit",
    RLEditSettings,
    planned("rledit", rledit_of),
    needs=frozenset({"prepared", "max_rows"}),
    layers="none",
    seq2seq=True,
    preparation=Preparation(RLEditPreparation, make_rledit, summary="MALMEN's nets, trained on sequences of edits"),
    summary="a trained editor of batches one after another (Li et al. 2025)",
)
KE = Method(
    "ke",
    KESettings,
    plan_ke,
    needs=frozenset({"prepared", "max_rows"}),
    layers="none",
    seq2seq=True,
    preparation=Preparation(KEPreparation, make_ke, summary="a net that reads a request and turns its gradient"),
    summary="a trained editor that reads the request (De Cao et al. 2021)",
)
