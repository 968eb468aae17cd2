"""`tracer finetune` and `tracer combine`: fine-tuning as an edit, and arithmetic of saved edits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracer.cli import printing
from tracer.cli.command import Device, ModelName, command
from tracer.errors import CommandFileError, HyperparameterError

if TYPE_CHECKING:
    from editing.edits.edit import Edit


@command
def finetune(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TEXT_OR_RECORDS",
            help="What is learnt: a text file, each line or paragraph by itself; or records, a file or a set.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the edit: safetensors.")],
    split: Annotated[str | None, typer.Option(help="Part of the records.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many lines or records.")] = None,
    hparams: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the training, NAME=VALUE; may be repeated.")
    ] = None,
    model: ModelName = None,
    device: Device = None,
) -> Any:
    """Fine-tune a copy of the model, and keep what changed as an edit that can be scaled, negated and added up.

    tracer finetune factworld --split train --limit 20 --out facts.safetensors
    """
    from editing.methods.method import Method
    from editing.tasks import FinetuneSettings
    from editing.tasks import finetune as tuned
    from tracer.model import load

    from .hparams import read
    from .shown import edit_values

    told = Method("finetune", FinetuneSettings, lambda *_: [], layers="range")
    settings = read(told, hparams or [], None, None)
    items = items_of(source, split, limit)
    loaded = load(model, device=device)
    edit = tuned(loaded, items, **settings)
    assert edit.evidence is not None
    first, last = (float(edit.evidence["loss"][place]) for place in (0, -1))
    written = edit.save(out)
    printing.say(f"{len(items)} learnt on {loaded.name}: loss {first:.3g} before, {last:.3g} after", style="bold")
    printing.say(f"{len(edit.weights)} weights   {edit.nbytes / 1e6:.1f} MB   {edit.seconds:.1f} s")
    printing.notes([edit.on_text, edit.note])
    return {"edit": edit_values(edit), "learnt": len(items), "loss": [first, last], "wrote": printing.wrote([written])}


@command
def combine(
    edits: Annotated[
        list[str],
        typer.Argument(metavar="EDIT...", help="Files of edits that are added up; 0.5*FILE for half of one."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the sum: safetensors.")],
    minus: Annotated[
        list[str] | None, typer.Option("--minus", help="A file that is taken away, 0.5*FILE for half; may be repeated.")
    ] = None,
) -> Any:
    """Add up saved edits of one model, and say how alike they are; no model is needed.

    tracer combine music.safetensors --minus 0.5*sports.safetensors --out both.safetensors
    """
    from editing.tasks import cosines

    from .shown import edit_values

    terms = [_term(text, 1.0) for text in edits] + [_term(text, -1.0) for text in minus or []]
    (name, factor, edit), *others = terms
    total = edit.scale(factor).compose(*(each.scale(by) for _, by, each in others))
    alike = cosines([each for *_, each in terms]) if all(each.weights for *_, each in terms) else None
    written = total.save(out)
    table = printing.table("edit", *printing.right("factor", "norm", *(f"cos {i}" for i in range(len(terms)))))
    for place, (name, factor, each) in enumerate(terms):
        norm = sum(value**2 for value in each.norm().values()) ** 0.5
        row = [] if alike is None else [f"{value:.3f}" for value in alike[place]]
        table.add_row(printing.literal(f"{place}  {name}"), f"{factor:g}", f"{norm:.3g}", *row)
    printing.show(table)
    printing.say(printing.literal(repr(total)).plain)
    parts = [{"edit": name, "factor": factor} for name, factor, _ in terms]
    return {"edit": edit_values(total), "terms": parts, "cosines": alike, "wrote": printing.wrote([written])}


def _term(text: str, sign: float) -> tuple[str, float, Edit]:
    """Name, factor and edit of FILE or FACTOR*FILE; a file of that whole name comes first."""
    from editing.edits.edit import load_edit

    factor, star, name = text.partition("*")
    if not star or Path(text).exists():
        return text, sign, load_edit(text)
    try:
        size = sign * float(factor)
    except ValueError as error:
        raise HyperparameterError(
            f"{text!r} begins with {factor!r}; expected FILE, or a number in front of it as in 0.5*FILE"
        ) from error
    return name, size, load_edit(name)


def items_of(source: str, split: str | None, limit: int | None) -> list[Any]:
    """Paragraphs of a text file, or records.

    Args:
        source: a file, or the name of a set.
        split: part of the records.
        limit: the first so many.

    Raises:
        TracerError: a text that cannot be read; as `load_records` does.
    """
    from editing.datasets import load_records

    path = Path(source)
    if path.suffix.lower() not in (".txt", ".md"):
        return list(load_records(source, split=split))[:limit]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFileError(f"{source} cannot be read ({error}); expected a text in UTF-8") from error
    parts = text.split("\n\n") if "\n\n" in text.strip() else text.splitlines()
    return [part.strip() for part in parts if part.strip()][:limit]
