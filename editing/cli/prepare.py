"""`tracer prepare`: make once what a method needs for a model, and keep it in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tracer.cli import printing
from tracer.cli.command import Device, ModelName, command
from tracer.errors import CannotWrite


@command
def prepare(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="The method, such as serac.")],
    records: Annotated[
        str | None,
        typer.Argument(
            metavar="RECORDS", help="To learn from: a file, or a set such as factworld; some methods need none."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File for what is made: safetensors.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Part of the records; without it the train part of factworld, else all.")
    ] = None,
    spans: Annotated[
        bool, typer.Option("--spans", help="Let an encoder-decoder model fill in what stands behind each prompt.")
    ] = False,
    hparams: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the preparation, NAME=VALUE; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random draws.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever was kept of an earlier run.")] = False,
    model: ModelName = None,
    device: Device = None,
) -> Any:
    """Train or measure what a method needs once for a model, and keep it in a file.

    A run that was stopped goes on where it was. The result is for tracer edit METHOD --prepared FILE.

    tracer prepare serac factworld --out serac.safetensors
    """
    from dataclasses import replace

    from editing.datasets import in_spans, load_records
    from editing.methods.compute import method_named
    from editing.methods.prepare import preparation_of
    from editing.methods.prepare import prepare as made
    from tracer.model import load

    from . import hparams as parameters

    chosen = method_named(method)
    preparation = preparation_of(chosen)
    asked = replace(chosen, settings=preparation.settings, needs=frozenset(), layers="none", seeded=False)
    settings = parameters.read(asked, hparams or [], None, None)
    if out is not None and not out.absolute().parent.is_dir():
        raise CannotWrite(f"there is no folder {out.absolute().parent} for {out.name}; make it, or name another")
    listed = None
    if records is not None:
        part = "train" if split is None and records == "factworld" else split
        listed = load_records(records, split=part, limit=limit)
    loaded = load(model, device=device)
    if spans and listed is not None:
        listed = in_spans(loaded, listed)
    value = made(loaded, chosen.name, listed, seed=seed, resume=not fresh, **settings)
    printing.say(repr(value))
    told = ("method", "settings", "seed", "fingerprint", "model", "records", "history", "seconds", "note", "nbytes")
    values = {name: getattr(value, name) for name in told}
    return {**values, "wrote": printing.wrote([] if out is None else [value.save(out)])}
