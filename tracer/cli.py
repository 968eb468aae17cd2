"""The ``tracer`` command: trace a fact, look at its tokens, search what the embedded model knows.

Bad input ends with exit code 2 and one line on standard error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from .errors import TracerError

if TYPE_CHECKING:
    from rich.table import Column, Table
    from rich.text import Text

    from .result import CausalTrace

KINDS = ("hidden", "mlp", "attn")
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # click's UsageError; typer keeps it in a place of its own
ARTICLE = re.compile(r"^(the|a|an)\s+(?=\S)", re.IGNORECASE)


class _Command(TyperGroup):
    """Errors a user can mend are one line, not a traceback or a box."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TracerError as error:
            _fail(str(error))
        except USAGE_ERROR as error:
            _fail(f"{error.format_message().rstrip('.')}; see tracer --help")


app = typer.Typer(
    cls=_Command,
    help="Find where a language model keeps a fact.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Prompt = Annotated[str, typer.Argument(help="Text to be continued; it holds the subject, or {} in its place.")]
Subject = Annotated[str, typer.Option("--subject", "-s", help="The part of the prompt that is corrupted.")]
ModelName = Annotated[
    str | None, typer.Option("--model", "-m", help="Hub name or folder; without it the embedded model.")
]
Target = Annotated[
    str | None, typer.Option(help='Answer to trace, such as " Seattle"; without it the model\'s own next token.')
]


@app.command()
def trace(
    prompt: Prompt,
    subject: Subject,
    target: Target = None,
    model: ModelName = None,
    kind: Annotated[str, typer.Option(help="all, or some of hidden, mlp, attn, with commas between.")] = "all",
    samples: Annotated[int, typer.Option(help="Noise samples to average over.")] = 10,
    window: Annotated[
        int | None,
        typer.Option(help="MLP or attention layers restored together; without it 10, a third of a small model."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 1,
    sigma: Annotated[float, typer.Option(help="Noise, in standard deviations of subject embeddings.")] = 3.0,
    device: Annotated[str | None, typer.Option(help="Where to run, such as cuda.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for figures and data; without it none are written.")] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Some of html, png, svg, pdf, json, csv, npz, with commas between.")
    ] = "html",
) -> None:
    """Corrupt the subject, restore one state at a time, and show where the answer comes back."""
    from .causal import causal_trace
    from .corruption import GaussianNoise
    from .export import FORMATS, writable_folder
    from .model import load
    from .tokens import Fact

    kinds = _choices("kind", kind, KINDS, everything="all")
    suffixes = _choices("format", formats, FORMATS)
    fact = Fact(prompt, subject, target)
    noise = GaussianNoise(sigma=sigma, samples=samples, seed=seed)
    if window is not None and window < 1:
        raise TracerError(f"window is {window}; expected a whole number of at least 1")
    # before the work, not after it
    with writable_folder(out) if out else nullcontext():
        loaded = load(model, device=device)
        width = window or max(1, min(10, round(loaded.n_layers / 3)))
        traces = [causal_trace(loaded, fact, kind=k, window=width, corruption=noise) for k in kinds]
        _print_traces(traces)
        if out:
            for path in _write(traces, out, suffixes):
                _console().print(_text(f"wrote {path}"), soft_wrap=True)


@app.command()
def tokens(prompt: Prompt, subject: Subject, target: Target = None, model: ModelName = None) -> None:
    """Show the prompt in the model's tokens, and which of them are the subject."""
    from .model import load
    from .tokens import Fact

    fact = Fact(prompt, subject, target)
    print(fact.inspect(load(model)))


@app.command()
def world(
    query: Annotated[str, typer.Argument(help="Text to look for in subjects, relations and objects.")] = "",
    relation: Annotated[str | None, typer.Option(help="Only this relation.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only subjects of this type.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
) -> None:
    """Search the facts that the embedded model was taught."""
    from rich.table import Column

    from .factworld import facts

    known = facts()
    relation = _one_of("relation", relation, {f.relation for f in known})
    kind = _one_of("type", kind, {f.type for f in known})
    words = _folded(query).split()
    found = [
        f
        for f in known
        if relation in (None, f.relation)
        and kind in (None, f.type)
        and all(word in _folded(f"{f.subject} {f.type} {f.relation} {f.object}") for word in words)
    ]
    table = _table("subject", *(Column(name, no_wrap=True) for name in ("type", "relation")), "object", "prompt")
    for fact in found[:limit]:
        table.add_row(*map(_text, (fact.subject, fact.type, fact.relation, fact.object, fact.text)))
    if found:
        _console().print(table)
    shown = min(limit, len(found))
    note = f"{shown:,} of {len(found):,} facts found, {len(known):,} known" if found else "no fact found"
    _console().print(note, highlight=False)


def slug(subject: str) -> str:
    """A file name for a subject: "The Space Needle" -> "space_needle"."""
    name = ARTICLE.sub("", unicodedata.normalize("NFC", subject).strip().lower())
    return re.sub(r"\W+", "_", name).strip("_")[:48].rstrip("_") or "trace"


def _write(traces: Sequence[CausalTrace], folder: Path, suffixes: Sequence[str]) -> list[Path]:
    from .export import PICTURES, export
    from .plots import plot_trace

    name = slug(traces[0].subject)
    figure = plot_trace(traces) if {"html", *PICTURES} & set(suffixes) else None
    written = []
    for suffix in suffixes:
        if suffix == "npz":  # holds one trace
            written += [export(t, folder / f"{name}_{t.kind}.npz") for t in traces]
        else:
            drawn = suffix in ("html", *PICTURES)
            written.append(export(figure if drawn else list(traces), folder / f"{name}.{suffix}"))
    return written


def _print_traces(traces: Sequence[CausalTrace]) -> None:
    from rich.table import Column

    from .plots import strongest_sites

    first = traces[0]
    noise = first.corruption
    console = _console()
    console.print(_text(f"{first.prompt} → {first.answer.strip()}"), style="bold", soft_wrap=True)
    level = f"noise {noise['level']:.4g}, {noise['samples']} samples, seed {noise['seed']}"
    console.print(f"clean {first.clean:.4f}   corrupted {first.corrupted:.4f}   ({level})", highlight=False)
    if first.note:
        console.print(_text(first.note), style="yellow", soft_wrap=True)
    numbers = (Column(_text(name), justify="right") for name in ("layer", f"p({first.answer.strip()})", "effect"))
    table = _table("restored", "site", "token", *numbers)
    for each in traces:
        restored = each.kind if each.kind == "hidden" else f"{each.kind}, {each.window} layers"
        for place, (token, layer) in zip(("peak", "best at subject"), strongest_sites(each), strict=False):
            score = float(each.scores[each.positions.index(token), each.layers.index(layer)])
            star = "*" if each.subject_range[0] <= token < each.subject_range[1] else ""
            label = _text(f"{each.tokens[token].strip() or repr(each.tokens[token])}{star}")
            effect = f"{score - each.corrupted:+.4f}"
            table.add_row(restored if place == "peak" else "", place, label, str(layer), f"{score:.4f}", effect)
    console.print(table)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


def _table(*columns: Column | str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def _text(text: str) -> Text:
    """Text as it is: no markup, nothing that a terminal would obey."""
    from rich.text import Text

    from .labels import printable

    return Text(printable(text), overflow="fold")


def _fail(message: str) -> NoReturn:
    from .labels import printable

    typer.echo("tracer: " + printable(" ".join(message.split())), err=True)
    raise typer.Exit(2)


def _choices(name: str, given: str, known: Sequence[Any], everything: str | None = None) -> list[Any]:
    """The comma-separated names in ``given``, without repeats."""
    chosen = list(dict.fromkeys(part.strip().lower().removeprefix(".") for part in given.split(",") if part.strip()))
    if everything in chosen:
        return list(known)
    wrong = [part for part in chosen if part not in known]
    if wrong or not chosen:
        names = ", ".join((*([everything] if everything else []), *known))
        raise TracerError(f"unknown {name} {(wrong or [given])[0]!r}; expected one or more of {names}")
    return chosen


def _one_of(name: str, given: str | None, known: set[str]) -> str | None:
    if given is not None and given not in known:
        raise TracerError(f"no fact has the {name} {given!r}; expected one of {', '.join(sorted(known))}")
    return given


def _folded(text: str) -> str:
    """For searching: without case, accents and underscores."""
    plain = unicodedata.normalize("NFKD", text.replace("_", " "))
    return "".join(c for c in plain if not unicodedata.combining(c)).casefold()
