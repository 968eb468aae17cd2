"""`tracer ability`: scores of a model beside the edited facts, before and after edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracer.cli import printing
from tracer.cli.command import Device, ModelName, command
from tracer.errors import CannotWrite

if TYPE_CHECKING:
    from editing.ability import AbilityChange, AbilityResult, Score
    from tracer.model import Model


@command
def ability(
    tasks: Annotated[
        str,
        typer.Option(
            help="With commas between: factworld, csqa, anli, mmlu, squad2, or names of lm-evaluation-harness."
        ),
    ] = "factworld",
    edits: Annotated[
        list[Path] | None,
        typer.Option("--edit", help="A saved edit, to measure before and after; repeated: made one after the other."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most questions of each task.")] = None,
    fewshot: Annotated[
        int | None, typer.Option(min=0, help="Worked examples before each question; without it as each task says.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions in one forward.")] = 8,
    force: Annotated[
        bool, typer.Option("--force", "--anyway", help="Also make edits that are of other weights.")
    ] = False,
    model: ModelName = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File for the scores: json.")] = None,
) -> Any:
    """Score a model on tasks of lm-evaluation-harness; with --edit before and after.

    The tasks' data come from the hub, except those of factworld, which are about the embedded model's facts.

    tracer ability --tasks factworld --edit edit.safetensors

    tracer ability --tasks csqa,anli,mmlu,squad2 --limit 200 -m gpt2-xl --edit edit.safetensors --out ability.json
    """
    from editing.ability import AbilityChange
    from editing.ability import ability as measure
    from editing.ability.result import write
    from editing.edits.edit import load_edit
    from tracer.model import EMBEDDED, load

    files = edits or []
    if out is not None and (out.suffix.lower() != ".json" or not out.absolute().parent.is_dir()):
        raise CannotWrite(f"the scores cannot be written to {out}; name a .json file in a folder that is there")
    made = [load_edit(path) for path in files]  # bad files show before a model is loaded
    name = model or next((edit.model for edit in made if edit.model != EMBEDDED), None)
    loaded = load(name, device=device)
    with _made(loaded, files, force):
        pass  # edits of other weights show before the work
    result: AbilityResult | AbilityChange = measure(loaded, tasks, limit, fewshot=fewshot, batch_size=batch_size)
    if files:
        with _made(loaded, files, force):
            after = measure(loaded, tasks, limit, fewshot=fewshot, batch_size=batch_size)
        result = AbilityChange(result, after)
    _show(result, [f"{edit.method} ({path})" for path, edit in zip(files, made, strict=True)])
    if out is not None:
        write(out, result, edits=[str(path) for path in files])
    return {"edits": files, "result": result, "wrote": printing.wrote([] if out is None else [out])}


@contextmanager
def _made(model: Model, files: Sequence[Path], force: bool) -> Iterator[None]:
    """Context in which the model has the edits, one after the other; TracerError for one that is of other weights."""
    from editing.edits.edit import load_edit

    with ExitStack() as stack:
        for path in files:
            stack.enter_context(load_edit(path, model, force).applied(model))
        yield


def _show(result: AbilityResult | AbilityChange, edits: Sequence[str]) -> None:
    from editing.ability import AbilityResult

    first = result if isinstance(result, AbilityResult) else result.before
    printing.say(first.model + (f" with {', then '.join(edits)}" if edits else ""), style="bold")
    if isinstance(result, AbilityResult):
        filled = printing.table("task", "metric", *printing.right("n", "score"))
        for score in result.scores:
            filled.add_row(printing.literal(score.task), score.metric, str(score.n), _written(score))
    else:
        filled = printing.table("task", "metric", *printing.right("n", "before", "after", "difference"))
        for old, new in zip(result.before.scores, result.after.scores, strict=True):
            change = f"{new.value - old.value:+.4f}"
            filled.add_row(printing.literal(old.task), old.metric, str(old.n), _written(old), _written(new), change)
    printing.show(filled)


def _written(score: Score) -> str:
    return f"{score.value:.4f}" + (f" ± {score.stderr:.4f}" if score.stderr is not None else "")
