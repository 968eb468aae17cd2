"""`tracer average`: many facts, traced and averaged by class of token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracer.errors import OneOfSeveral, TracerError

from . import files, printing
from .command import (
    KINDS,
    METRICS,
    MODULES,
    Cluster,
    Device,
    Formats,
    Kind,
    ModelName,
    Out,
    Sever,
    Window,
    Workers,
    apart,
    choice,
    choices,
    command,
    existing,
)

if TYPE_CHECKING:
    from tracer.facts.fact import Fact
    from tracer.model import Model
    from tracer.tracing.average_trace import AverageTrace

NAME = "average"
LAST_SUBJECT = "last subject token"


@command
def average(
    path: Annotated[
        Path | None,
        typer.Option("--facts", help="JSON of records with prompt, subject, target; without it the embedded facts."),
    ] = None,
    relations: Annotated[
        list[str] | None, typer.Option("--relation", help="Of the embedded facts only these; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Trace only so many, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the facts drawn and of the intervals.")] = 0,
    model: ModelName = None,
    kind: Kind = "all",
    window: Window = None,
    metric: Annotated[str, typer.Option(help=f"One of {METRICS}.")] = "prob",
    samples: Annotated[int, typer.Option(help="Noise samples to average over.")] = 10,
    sever: Sever = None,
    resume: Annotated[
        Path | None, typer.Option(help="Folder that keeps every finished trace; with it a run can be interrupted.")
    ] = None,
    device: Device = None,
    workers: Workers = 1,
    cluster: Cluster = None,
    out: Out = None,
    formats: Formats = "html",
) -> Any:
    """Trace many facts and average by class of token: where on average the answer comes back.

    A fact whose target is not what the model says is skipped.

    tracer average --relation landmark_city --limit 40 --kind mlp --out figures

    tracer average --facts facts.json -m gpt2-xl --resume traces --workers 4 --format html,csv --out figures
    """
    from tracer.model import load
    from tracer.plots.export import writable_folder
    from tracer.progress import track
    from tracer.tracing.case import Setting
    from tracer.tracing.corruption import GaussianNoise
    from tracer.tracing.metrics import NAMES

    kinds = choices("kind", kind, KINDS, everything="all")
    modules = [] if sever is None else choices("sever", sever, MODULES)
    suffixes = files.formats(formats)
    name = choice("metric", metric, NAMES)
    Setting.checked("hidden", window, name, None, None, n_layers=1)
    noise = GaussianNoise(samples=samples)
    facts = _drawn(_facts(path, relations or []), limit, seed)
    with ExitStack() as folders:
        for folder in (out, resume):
            if folder:
                folders.enter_context(writable_folder(folder))
        loaded = load(model, device=device)
        for where, fact in track(facts, "reading facts"):
            _align(where, fact, loaded)
        settings = {
            "window": window,
            "corruption": noise.measured(loaded),
            "metric": name,
            "seed": seed,
            "workers": workers,
            "cluster": cluster,
        }
        chosen = [fact for _, fact in facts]
        averages = [_average(loaded, chosen, settings, resume, kind=kind) for kind in kinds]
        severed = []
        if modules:
            whole = next((a for a in averages if a.kind == "hidden"), None)
            severed = [whole or _average(loaded, chosen, settings, resume, tokens="subject_last")]
            severed += [_average(loaded, chosen, settings, resume, tokens="subject_last", sever=m) for m in modules]
        _print(averages)
        if severed:
            _print_severed(severed)
        written = files.placed(out, lambda folder: _write(averages, severed, folder, suffixes)) if out else []
        return {"averages": averages, "severed": severed, "wrote": printing.wrote(written)}


def _facts(path: Path | None, relations: Sequence[str]) -> list[tuple[str, Fact]]:
    """All there are to choose from, each with what it is called in errors."""
    if path is not None:
        from .factfile import read

        apart({"--relation": list(relations)}, "chooses among the embedded facts; leave it out, or --facts")
        return read(path)
    from tracer.factworld import facts

    known = facts()
    for relation in relations:
        existing("relation", relation, {fact.relation for fact in known})
    return [(f"fact {fact.text!r}", fact) for fact in known if not relations or fact.relation in relations]


def _drawn(facts: list[tuple[str, Fact]], limit: int | None, seed: int) -> list[tuple[str, Fact]]:
    """At most `limit` of them, in their order."""
    import numpy as np

    if limit is None or limit >= len(facts):
        return facts
    chosen = np.random.default_rng(seed).choice(len(facts), limit, replace=False)
    return [facts[i] for i in sorted(chosen.tolist())]


def _align(where: str, fact: Fact, model: Model) -> None:
    try:
        fact.align(model)
    except TracerError as error:
        raise OneOfSeveral(f"{where}: {error}") from error


def _average(
    model: Model, facts: Sequence[Fact], settings: dict[str, Any], resume: Path | None, **which: Any
) -> AverageTrace:
    """The average of one kind, or of hidden states with something severed; kept in a folder of its own."""
    from tracer.tracing.average import average_traces

    parts = [which.get("kind", "hidden"), which.get("tokens"), which.get("sever")]
    folder = None if resume is None else resume / "_".join(part for part in parts if part)
    return average_traces(model, facts, folder=folder, **settings, **which)


def _print(averages: Sequence[AverageTrace]) -> None:
    from tracer.tracing.metrics import trace_metric

    first = averages[0]
    skipped = f", {_counted(len(first.unknown), 'fact')} skipped as unknown" if first.unknown else ""
    facts = f"{_counted(first.facts, 'fact')} about {_counted(first.subjects, 'subject')} traced"
    printing.say(f"{facts}{skipped}", style="bold")
    total = printing.interval(first.total_effect, first.total_low, first.total_high)
    printing.say(f"total effect {total}   clean {first.clean:.4f}   corrupted {first.corrupted:.4f}")
    noise = first.corruption
    level = f"noise {noise['level']:.4g}, {noise['samples']} samples, seed {noise['seed']}"
    printing.say(
        f"{trace_metric(first.metric).label}, {level}; in brackets {100 * first.confidence:g} % intervals over subjects"
    )
    for each in averages:
        restored = each.kind if each.kind == "hidden" else f"{each.kind}, {each.window} layers"
        filled = printing.table(f"{restored} restored at", *printing.right("tokens", "peak at layer", "effect there"))
        for row, name in enumerate(each.classes):
            filled.add_row(name, f"{int(each.tokens[row]):,}", *_peak(each, row))
        printing.show(filled)


def _peak(average: AverageTrace, row: int) -> tuple[str, str]:
    """Layer and effect of the class's strongest effect, in the direction of the total effect."""
    import numpy as np

    effect = average.effect[row]
    if np.isnan(effect).all():
        return "–", "no such token"
    column = int(np.nanargmax(-effect if average.total_effect < 0 else effect))
    ends = (float(each[row, column]) for each in (average.low, average.high))
    return str(average.layers[column]), printing.interval(float(effect[column]), *ends)


def _print_severed(severed: Sequence[AverageTrace]) -> None:
    first = severed[0]
    row = first.classes.index(LAST_SUBJECT)
    rows = {each.sever: (each.effect[row], each.low[row], each.high[row]) for each in severed}
    printing.severed(rows, first.layers, falling=first.total_effect < 0)


def _write(
    averages: Sequence[AverageTrace], severed: Sequence[AverageTrace], folder: Path, suffixes: Sequence[str]
) -> list[Path]:
    from tracer.plots import plot_average, plot_severed

    singles = {f"{NAME}_{each.kind}": each for each in averages}
    written = files.write(folder, NAME, suffixes, averages, singles, {NAME: lambda: plot_average(averages)})
    if severed:
        name = f"{NAME}_severed"
        singles = {f"{name}_{each.sever or 'none'}": each for each in severed}
        written += files.write(folder, name, suffixes, severed, singles, {name: lambda: plot_severed(severed)})
    return written


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun if number == 1 else noun + 's'}"
