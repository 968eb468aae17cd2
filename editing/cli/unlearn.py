"""`tracer unlearn`: an edit after which a model no longer says some answers or texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracer.cli import printing
from tracer.cli.command import Device, ModelName, choice, command
from tracer.errors import CommandOptionError

from .tasks import items_of

if TYPE_CHECKING:
    from editing.datasets import EditRecord
    from editing.edits.edit import Edit
    from editing.request import EditRequest
    from tracer.model import Model

ANSWERS = TRUE, NEW = "true", "new"
NEAR = 20  # facts of the same relation that are told and neither forgotten nor kept
KEPT = 120


@command
def unlearn(
    forget: Annotated[
        str,
        typer.Argument(
            metavar="TEXT_OR_RECORDS",
            help="What is to go: a text file, each line or paragraph by itself; or records, a file or a set.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the edit: safetensors.")],
    relation: Annotated[
        str | None, typer.Option(help="Of the records those of one relation, such as occupation of factworld.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Part of the records.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    answers: Annotated[
        str, typer.Option(help="Which answers of the records go, and stay: the true ones, or the new ones.")
    ] = TRUE,
    retain: Annotated[
        str | None,
        typer.Option(help="What is to stay, likewise; of the same records all that is not to go. Without: nothing."),
    ] = None,
    retain_limit: Annotated[int, typer.Option(min=1, help="Most of what is to stay.")] = KEPT,
    spans: Annotated[
        bool, typer.Option("--spans", help="Let an encoder-decoder model fill in what stands behind each prompt.")
    ] = False,
    objective: Annotated[
        str | None, typer.Option(help="grad_ascent, grad_diff, npo, simnpo, wga or rmu; without: npo.")
    ] = None,
    hparams: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the training, NAME=VALUE; may be repeated.")
    ] = None,
    model: ModelName = None,
    device: Device = None,
) -> Any:
    """Train a copy of the model until it no longer says some things, and keep what changed as an edit.

    Told is what is left of it, what became of what is to stay, and of other facts of the same relation.

    tracer unlearn factworld --split train --relation occupation --limit 20 --retain factworld --out gone.safetensors
    """
    from editing.unlearning import unlearn as trained
    from tracer.model import load

    from .shown import edit_values

    settings = _settings(objective, hparams or [])
    parts = _parts(forget, relation, split, limit, choice("answers", answers, ANSWERS), retain, retain_limit)
    loaded = load(model, device=device)
    parts = parts.in_spans(loaded) if spans else parts
    edit = trained(loaded, parts.gone, parts.kept or None, **settings)
    written = edit.save(out)
    told = _tell(loaded, edit, parts)
    return {"edit": edit_values(edit), **told, "wrote": printing.wrote([written])}


@dataclass(frozen=True)
class _Parts:
    """Texts, or requests whose targets are meant: to be forgotten, to stay, and asked only."""

    gone: list[Any]
    kept: list[Any]
    near: list[Any]

    def named(self) -> dict[str, list[Any]]:
        every = {"to be forgotten": self.gone, "to stay": self.kept, "same relation, neither": self.near}
        return {name: some for name, some in every.items() if some}

    def in_spans(self, model: Model) -> _Parts:
        """With the mark of a span behind every prompt that is to be gone on from."""
        from editing.datasets.spans import as_span

        def asked(each: Any) -> Any:
            return each if isinstance(each, str) else replace(each, prompt=as_span(model, each.prompt), space=None)

        return _Parts(*([asked(each) for each in some] for some in (self.gone, self.kept, self.near)))


def _settings(objective: str | None, hparams: Sequence[str]) -> dict[str, Any]:
    from editing.methods.method import Method
    from editing.unlearning import UnlearnSettings

    from .hparams import read

    settings = read(Method("unlearn", UnlearnSettings, lambda *_: [], layers="range"), hparams, None, None)
    if objective is not None and "objective" in settings:
        raise CommandOptionError("--objective and --set objective=... both give the objective; leave one of them out")
    settings |= {} if objective is None else {"objective": objective}
    UnlearnSettings(**settings)  # TracerError before anything is loaded
    return settings


def _parts(
    forget: str,
    relation: str | None,
    split: str | None,
    limit: int | None,
    answers: str,
    retain: str | None,
    retain_limit: int,
) -> _Parts:
    source = items_of(forget, split, None)
    gone = (source if relation is None else _of_relation(source, relation, forget))[:limit]
    relations = {name for each in gone for name in _relations(each)}
    taken = {fact for each in gone for fact in _facts(each)}
    rest = [each for each in source if not taken & _facts(each)]
    near = [each for each in rest if relations & _relations(each)][:NEAR]
    taken |= {fact for each in near for fact in _facts(each)}
    others = [] if retain is None else rest if retain == forget else items_of(retain, None, None)
    kept = [each for each in others if not taken & _facts(each)][:retain_limit]
    return _Parts(*(_wanted(some, answers) for some in (gone, kept, near)))


def _of_relation(items: Sequence[Any], relation: str, source: str) -> list[Any]:
    found = [each for each in items if relation in _relations(each)]
    if not found:
        known = sorted({name for each in items for name in _relations(each)})
        there = f"it has {', '.join(known)}" if known else "it names none"
        raise CommandOptionError(f"{source} has no record of the relation {relation!r}; {there}")
    return found


def _relations(item: Any) -> set[str]:
    """Of the facts of a record; a text has none."""
    return {rewrite.relation for rewrite in getattr(item, "rewrites", ()) if rewrite.relation is not None}


def _facts(item: Any) -> set[Any]:
    """What tells a fact of a record from others, in whatever words; a text is itself."""
    rewrites = getattr(item, "rewrites", None)
    return {item} if rewrites is None else {(one.subject, one.relation or one.prompt) for one in rewrites}


def _wanted(items: Sequence[Any], answers: str) -> list[Any]:
    """Texts as they are, and requests of records with the answer that is meant as their target."""
    from editing.datasets import EditRecord

    found: list[Any] = []
    for each in items:
        if not isinstance(each, EditRecord):
            found.append(each)
        else:
            found += [_with_answer(each, request, answers) for request in each.requests()]
    return found


def _with_answer(record: EditRecord, request: EditRequest, answers: str) -> EditRequest:
    if answers == NEW:
        return request
    if request.target_true is None:
        raise CommandOptionError(
            f"record {record.case_id} has no true answer that could go; give --answers new for its target "
            f"{request.target_new.strip()!r}"
        )
    return replace(request, target_new=request.target_true, target_true=None)


def _tell(model: Model, edit: Edit, parts: _Parts) -> dict[str, Any]:
    def said() -> dict[str, float]:
        return {name: _share(model, some) for name, some in parts.named().items()}

    assert edit.evidence is not None
    first, last = (float(edit.evidence["loss"][place]) for place in (0, -1))
    before = said()
    with edit.applied(model):
        after = said()
    head = f"{len(parts.gone)} unlearnt by {edit.method} on {model.name}"
    printing.say(f"{head}: loss {first:.3g} before, {last:.3g} after", style="bold")
    table = printing.table("said", *printing.right("count", "before", "after"))
    for name, some in parts.named().items():
        table.add_row(name, str(len(some)), f"{before[name]:.2f}", f"{after[name]:.2f}")
    printing.show(table)
    printing.say(f"{len(edit.weights)} weights   {edit.nbytes / 1e6:.1f} MB   {edit.seconds:.1f} s")
    printing.notes([edit.on_text, edit.note])
    counts = {name: len(some) for name, some in parts.named().items()}
    said_of = [
        {"of": name, "count": count, "before": before[name], "after": after[name]} for name, count in counts.items()
    ]
    return {"loss": [first, last], "said": said_of}


def _share(model: Model, items: Sequence[Any]) -> float:
    """Share of answers that are said in full, or of the tokens of texts."""
    from editing.unlearning import memorised

    found = memorised(model, items)
    return float(found.mean() if isinstance(items[0], str) else (found == 1).mean())
