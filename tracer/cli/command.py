"""The application: how errors reach the user, options that several commands have, and checks of what was given.

Bad input ends with exit code 2 and one line on standard error.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from tracer import checks
from tracer.errors import CommandOptionError, TracerError, TracerNote, UnknownFact

KINDS = ("hidden", "mlp", "attn")
MODULES = ("mlp", "attn")
METRICS = "prob, logit_diff, normalised_logit_diff, kl, log_prob or log_prob_diff"  # their own import is slow
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # click's UsageError; typer keeps it in a place of its own


class _Command(TyperGroup):
    """Errors a user can mend and notes about a model are one line each, not a traceback or a box.

    What a command prints is printed at its end, on a console of any encoding.
    """

    def main(self, *args: Any, **settings: Any) -> Any:
        from .printing import any_console

        with any_console():
            return super().main(*args, **settings)

    def invoke(self, ctx: Any) -> Any:
        from .printing import held

        try:
            with _one_line_notes(), held():
                return super().invoke(ctx)
        except TracerError as error:
            _fail(str(error))
        except USAGE_ERROR as error:
            _fail(f"{error.format_message().rstrip('.')}; see tracer --help")


app = typer.Typer(
    cls=_Command,
    help="Find where a language model keeps a fact, change it, and see what else changed. What a command does is shown "
    "with examples by tracer COMMAND --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Prompt = Annotated[str, typer.Argument(help="Text to be continued; it holds the subject, or {} in its place.")]
Subject = Annotated[str, typer.Option("--subject", "-s", help="What the fact is about; a part of the prompt.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Hub name, folder, .gguf file or a name of tracer models; without it the embedded model."
    ),
]
Target = Annotated[
    str | None, typer.Option(help='The answer, such as " Seattle"; without it the model\'s own next token.')
]
Kind = Annotated[str, typer.Option(help="all, or some of hidden, mlp, attn, with commas between.")]
Window = Annotated[
    int | None,
    typer.Option(help="MLP or attention layers restored together; without it 10, a third of a small model."),
]
Sever = Annotated[
    str | None,
    typer.Option(help="Also restore the last subject token with these severed: mlp, attn, or both with a comma."),
]
Device = Annotated[str | None, typer.Option(help="Where to run, such as cuda.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes on this machine that share the work.")]
Cluster = Annotated[
    str | None, typer.Option(help='Address of a Ray cluster to work on, or "local" for one of its own.')
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for figures and data; without it none are written.")
]
Formats = Annotated[
    str, typer.Option("--format", help="Some of html, png, svg, pdf, json, csv, npz, with commas between.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as json, and nothing else.")]


def command(
    function: Callable[..., Any] | None = None, *, name: str | None = None, help: str | None = None, **defaults: Any
) -> Any:
    """A decorator that adds a function to the application as a command, with an option `--json`.

    The function returns its result, which that option prints in the place of what it says.

    Args:
        function: of the command.
        name: of the command; None: the function's.
        help: of the command; None: the function's docstring.
        **defaults: of options, in the place of the function's.
    """
    if function is None:
        return lambda given: command(given, name=name, help=help, **defaults)

    @wraps(function)
    def called(*args: Any, as_json: bool, **options: Any) -> None:
        result = function(*args, **options)
        if as_json:
            from .printing import only

            only(result)

    own = inspect.signature(function, eval_str=True)
    options = [each.replace(default=defaults.get(each.name, each.default)) for each in own.parameters.values()]
    more = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
    called.__signature__ = own.replace(parameters=[*options, more])  # type: ignore[attr-defined]
    app.command(name, help=help)(called)
    return function


def choices(name: str, given: str, known: Sequence[str], everything: str | None = None) -> list[str]:
    """The comma-separated names in `given`, without repeats.

    Raises:
        TracerError: an unknown name, or no name at all.
    """
    chosen = list(dict.fromkeys(part.strip().lower().removeprefix(".") for part in given.split(",") if part.strip()))
    if everything in chosen:
        return list(known)
    wrong = [part for part in chosen if part not in known]
    if wrong or not chosen:
        names = ", ".join((*([everything] if everything else []), *known))
        raise CommandOptionError(f"unknown {name} {(wrong or [given])[0]!r}; expected one or more of {names}")
    return chosen


def choice(name: str, given: str, known: Sequence[str]) -> str:
    """The one name given, checked.

    Raises:
        TracerError: an unknown name.
    """
    chosen = choices(name, given, known)
    if len(chosen) > 1:
        raise CommandOptionError(f"{name} is {given!r}; expected one of {', '.join(known)}")
    return chosen[0]


def existing(name: str, given: str | None, known: Collection[str]) -> str | None:
    """The value given, if some fact has it or it is None.

    Raises:
        TracerError: no fact has it.
    """
    if given is not None and given not in known:
        raise UnknownFact(f"no fact has the {name} {given!r}; expected one of {', '.join(sorted(known))}")
    return given


def finite(name: str, given: float) -> float:
    """The number given.

    Raises:
        TracerError: it is infinite or NaN.
    """
    return checks.finite(name, given, kind=CommandOptionError)


def apart(given: dict[str, Any], reason: str) -> None:
    """Refuse options that do not go together.

    Args:
        given: values of options by name; all should be unset.
        reason: why they should be.

    Raises:
        TracerError: one of them has a value.
    """
    for name, value in given.items():
        if value is not None and value is not False and value != []:
            raise CommandOptionError(f"{name} {reason}")


@contextmanager
def _one_line_notes() -> Iterator[None]:
    from tracer.text import printable

    with warnings.catch_warnings():
        warnings.simplefilter("default", TracerNote)
        usual = warnings.showwarning

        def shown(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, TracerNote):
                typer.echo("tracer: note: " + printable(" ".join(str(message).split())), err=True)
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = shown
        yield


def _fail(message: str) -> NoReturn:
    from tracer.text import printable

    typer.echo("tracer: " + printable(" ".join(message.split())), err=True)
    raise typer.Exit(2)
