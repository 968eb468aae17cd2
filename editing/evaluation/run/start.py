"""Evaluate methods of editing on records: in this process, in several, or on a cluster, by the same code."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path
from typing import Any

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.former_names import rename
from editing.evaluation.result.schema import COLUMNS
from editing.methods.compute import method_named
from editing.questions.record import EditRecord
from tracer.errors import EvaluationOptionError, TracerError, UnknownMethod, WorkerError
from tracer.factworld import held_out_text
from tracer.inference import ordinary
from tracer.model import Model
from tracer.runs import Failed, Store, run
from tracer.runs.recipe import Recipe

from .left_out import left_out
from .protocol import Cell, Mode, Protocol, jobs_of

WORK = "editing.evaluation.run.tasks:worker"


@ordinary()
def evaluate(
    model: Model,
    records: Iterable[Any],
    method: str | Sequence[str] = "rome",
    mode: Mode = "single",
    *,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    protocol: Protocol | None = None,
    hparams: Mapping[str, Any] | None = None,
    path: str | Path | None = None,
    workers: int = 1,
    cluster: str | None = None,
    **options: Any,
) -> Evaluation:
    """Edit a model with the records' facts and measure the effects; the model is left as it was.

    Args:
        model: any model that the methods can edit.
        records: [`editing.datasets.EditRecord`][], or anything that `as_records` takes.
        method: one method, or several for one table.
        mode: "single": each case alone on the model as it was. "batch": all cases in one edit. "sequential": one after
            the other, nothing taken back.
        layers: of every method; None: the method's own layers.
        seed: of every method.
        protocol: how edits are measured; None: as `Protocol` has it, or as `options` say.
        hparams: hyper-parameters; each goes to the methods that have it.
        path: keep the run in this file, case by case; if it exists, resume it. None: a temporary one.
        workers: number of processes, see [`tracer.runs.run`][]. Workers elsewhere load the model by its name.
        cluster: a Ray cluster, see [`tracer.runs.run`][].
        options: fields of `Protocol` and hyper-parameters, by their names, in place of the two.

    Returns:
        The measurements, with the unedited model and the controls beside every method.

    Raises:
        TracerError: no records, case ids that are not unique, an unknown method, mode or option, another run in `path`.
            An edit that cannot be made is a row of `edits` with the reason, without any row of `metrics`.
    """
    known = {each.name for each in fields(Protocol)}
    named = {name: options.pop(name) for name in list(options) if name in known}
    twice = [*(named if protocol is not None else ()), *(options.keys() & (hparams or {}).keys())]
    if twice:
        raise EvaluationOptionError(
            f"{twice[0]} is given by its name and again with protocol= or hparams=; leave one of the two out"
        )
    protocol = protocol or Protocol.of(named)
    options |= hparams or {}
    names = [method] if isinstance(method, str) else list(method)
    plain, objects = _apart(options)
    chosen = None if layers is None else tuple(layers)
    cells = [_cell(name, mode, model.name, chosen, seed, plain, objects, names) for name in names]
    given = {"models": {model.name: model}, "hparams": objects}
    if workers > 1 or cluster is not None:
        given = {"hparams": objects}  # workers in other processes load the model themselves
    with tempfile.TemporaryDirectory() as folder:
        file = Path(path) if path is not None else Path(folder) / "run.sqlite"
        begin(file, [model], as_records(records), cells, protocol, {name: repr(x) for name, x in objects.items()})
        return carry_on(file, workers=workers, cluster=cluster, given=given)


def cells_of(
    methods: Sequence[str],
    models: Sequence[str],
    modes: Sequence[Mode] = ("single",),
    layers: Sequence[tuple[int, ...] | None] = (None,),
    seeds: Sequence[int] = (0,),
    hparams: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """Every combination of methods, models, modes, layers and seeds.

    Args:
        methods: names.
        models: names.
        modes: of use.
        layers: to write at; None: the method's own.
        seeds: of the draws.
        hparams: each goes to the methods that have it.

    Raises:
        TracerError: a hyper-parameter that no method has.
    """
    plain = dict(hparams or {})
    every = product(models, methods, modes, layers, seeds)
    return [_cell(name, mode, model, some, seed, plain, {}, methods) for model, name, mode, some, seed in every]


def begin(
    path: str | Path,
    models: Sequence[Model],
    records: Sequence[EditRecord],
    cells: Sequence[Cell],
    protocol: Protocol,
    noted: Mapping[str, str] | None = None,
) -> None:
    """Make the file of a run, or find it there with the same settings.

    Args:
        path: of the file.
        models: named by the cells.
        records: the cases.
        cells: the methods as they are used.
        protocol: of the measurements.
        noted: hyper-parameters that json cannot hold, as text.

    Raises:
        TracerError: no records, a layer that a model does not have, cells or case ids that are not unique; or `path` is
            another run, or anything else.
    """
    for cell, model in product(cells, models):
        for layer in (cell.layers or ()) if cell.model == model.name else ():
            model.path("key", layer)  # TracerError for a layer that does not exist
    begun = _begun(Path(path))
    settings = {
        "models": [asdict(Recipe.of(model, anywhere=True, like=begun.get(model.name, ""))) for model in models],
        "cells": [asdict(cell) for cell in cells],
        "protocol": protocol.as_json(),
        "canary": held_out_text()[: 8 * protocol.canary_tokens],
        "objects": dict(noted or {}),
        "records": [record.model_dump(mode="json") for record in records],
    }
    if without := {model.name: words for model in models if (words := left_out(model, protocol))}:
        settings["left_out"] = without
    tables = {name: tuple(columns) for name, columns in COLUMNS.items()}
    rename(Path(path), {"routes": tables["routes"]})
    Store.create(path, jobs_of(cells, records, protocol), settings, tables).close()


def _begun(path: Path) -> dict[str, str]:
    """Fingerprints of models, by name, that a run has noted where there is one; an earlier version notes others."""
    if not path.exists():
        return {}
    try:
        with Store.open(path, check=False) as store:
            return {str(each["name"]): str(each["fingerprint"]) for each in store.settings().get("models", ())}
    except (TracerError, KeyError, TypeError):  # what it is instead is said when it is opened for good
        return {}


def carry_on(
    path: str | Path, *, workers: int = 1, cluster: str | None = None, given: Mapping[str, Any] | None = None
) -> Evaluation:
    """Do the remaining jobs of a run, failed ones once more, and return its measurements.

    Args:
        path: of the run.
        workers: number of processes, see [`tracer.runs.run`][].
        cluster: a Ray cluster, see [`tracer.runs.run`][].
        given: models and hyper-parameters to use instead of loading them.

    Raises:
        TracerError: jobs failed; the measurements of the others are in the file.
    """
    rename(Path(path), {"routes": tuple(COLUMNS["routes"])})
    with Store.open(path) as store:
        store.retry_failed()
    try:
        run(path, WORK, workers=workers, cluster=cluster, given=given)
    except Failed as error:
        raise WorkerError(f"{error}") from error
    return Evaluation.load(path)


def as_records(given: Iterable[Any]) -> list[EditRecord]:
    """Records from records, or from mappings in a layout that `editing.datasets` knows.

    Args:
        given: the records or mappings.

    Raises:
        TracerError: anything else.
    """
    listed = list(given)
    if all(isinstance(each, EditRecord) for each in listed):
        return listed
    from editing.datasets import records_of

    return records_of(listed)


def _apart(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hyper-parameters that json can hold, and others."""
    import json

    plain, objects = {}, {}
    for name, value in options.items():
        try:
            plain[name] = json.loads(json.dumps(value))
        except TypeError:
            objects[name] = value
    return plain, objects


def _cell(
    name: str,
    mode: Mode,
    model: str,
    layers: tuple[int, ...] | None,
    seed: int,
    plain: Mapping[str, Any],
    objects: Mapping[str, Any],
    methods: Sequence[str] = (),
) -> Cell:
    """A cell with those of the hyper-parameters that its method has; one that no method has is left in, to be named."""
    known = {each: method_named(each).parameters for each in {name, *methods}}
    own = {key: value for key, value in plain.items() if key in known[name]}
    stray = [key for key in (*plain, *objects) if not any(key in names for names in known.values())]
    if stray:
        raise UnknownMethod(
            f"{stray[0]!r} is neither an option of an evaluation ({', '.join(each.name for each in fields(Protocol))}) "
            f"nor a hyper-parameter of {', '.join(methods or [name])}"
        )
    if method_named(name).layers == "none":
        layers = None
    return Cell(name, mode, model, layers, seed, own)
