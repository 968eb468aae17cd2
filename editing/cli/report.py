"""`tracer report`: one page about an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tracer.cli import printing
from tracer.cli.command import command


@command
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="File of a run, finished or not, a saved evaluation, a result folder of ROME or MEMIT; of several "
            "over the same records one report.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page; without it beside the first RUN, with the suffix .html."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page; without it the models' names.")] = None,
    cases: Annotated[
        int | None, typer.Option(min=0, help="How many cases are shown one by one; without it all.")
    ] = None,
    tables: Annotated[
        bool, typer.Option("--table", help="Also print what every method reaches by every measure.")
    ] = False,
) -> Any:
    """Write one page with tables, figures and every answer of an evaluation; it opens offline and loads nothing.

    With --out table.md only the tables of methods, in Markdown.

    tracer report run.sqlite

    tracer report first.sqlite second.sqlite --out both.html --cases 50 --table
    """
    from editing.bridges import read_run
    from editing.evaluation.result.evaluation import Evaluation
    from editing.evaluation.result.joining import join
    from editing.report import as_markdown, write
    from tracer.plots.export import replacing

    evaluation = join([read_run(run) if run.is_dir() else Evaluation.load(run) for run in runs])
    path = out or runs[0].with_suffix(".html")
    if path.suffix.lower() == ".md":
        with replacing(path) as temporary:
            temporary.write_text(as_markdown(evaluation), encoding="utf-8")
    else:
        path = write(evaluation, path, title=title, cases=cases)
    if tables:
        for line in str(evaluation).splitlines():
            printing.say(line)
    summary = {"summary": evaluation.summary().to_dict("records")} if tables else {}
    return {**summary, "wrote": printing.wrote([path])}
