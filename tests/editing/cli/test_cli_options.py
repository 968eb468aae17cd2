"""What all commands have in common: names and types of options, examples in the help, completion, a quick start."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from commands import done
from repository import surroundings

import editing.cli
from tracer.cli.command import METRICS
from tracer.tracing.metrics import NAMES

COMMANDS: dict[str, Any] = typer.main.get_command(editing.cli.app).commands  # type: ignore[attr-defined]
RUNS = "evaluate sweep"
SHARED = {
    "--attack": (int, RUNS),
    "--cluster": (str, f"average {RUNS}"),
    "--controls": (bool, RUNS),
    "--device": (str, f"trace average neurons ability edit {RUNS} prepare finetune unlearn"),
    "--draw": (int, RUNS),
    "--force": (bool, "ability edit"),
    "--format": (str, "trace average neurons"),
    "--json": (bool, " ".join(COMMANDS)),
    "--kind": (str, "trace average"),
    "--layers": (str, f"edit {RUNS}"),
    "--layout": (str, RUNS),
    "--lenient": (bool, RUNS),
    "--limit": (int, f"average world ability edit {RUNS} prepare finetune unlearn"),
    "--method": (str, f"neurons {RUNS}"),
    "--metric": (str, "trace average"),
    "--mode": (str, RUNS),
    "--model": (str, f"trace average neurons tokens ability edit {RUNS} prepare finetune unlearn"),
    "--option": (str, RUNS),
    "--out": (Path, f"trace average neurons ability edit {RUNS} prepare report finetune combine unlearn"),
    "--paraphrase": (str, "neurons edit"),
    "--relation": (str, "average neurons world unlearn"),
    "--samples": (int, "trace average"),
    "--seed": ((int, str), f"trace average neurons edit {RUNS} prepare"),  # several with commas, of an evaluation
    "--set": (str, f"edit {RUNS} prepare finetune unlearn"),
    "--sever": (str, "trace average"),
    "--spans": (bool, f"{RUNS} prepare unlearn"),
    "--split": (str, f"{RUNS} prepare finetune unlearn"),
    "--subject": (str, "trace neurons tokens edit"),
    "--target": (str, "trace neurons tokens edit"),
    "--texts": (bool, RUNS),
    "--window": (int, "trace average"),
    "--workers": (int, f"average {RUNS}"),
}
"""Options of several commands: what is given to them, and which commands have them."""
SHORT = {"--subject": "-s", "--model": "-m", "--out": "-o"}


def options_of(command: Any) -> dict[str, Any]:
    """Every long name of a command's options, and the option."""
    return {name: p for p in command.params for name in p.opts if name.startswith("--")}


def given_to(option: Any) -> type:
    """The type of what is given to an option, once where it may be repeated."""
    kind = option.type_descriptor.annotation
    inside = [each for each in get_args(kind) if each is not type(None)]
    return inside[0] if inside else kind


def examples(command: Any) -> list[list[str]]:
    """The command lines in a command's help, as words after ``tracer``."""
    return [shlex.split(line)[1:] for line in re.findall(r"^tracer .*$", command.help, re.MULTILINE)]


# --- names and types -------------------------------------------------------------------------------------------------
def test_options_of_several_commands_are_those_of_the_table() -> None:
    found: dict[str, list[str]] = {}
    for name, command in COMMANDS.items():
        for option in options_of(command):
            found.setdefault(option, []).append(name)
    several = {option: names for option, names in found.items() if len(names) > 1}
    aliases = {"--anyway", "--methods", "--modes", "--seeds"}  # other names of some in the table
    assert {option: sorted(names) for option, names in several.items() if option not in aliases} == {
        option: sorted(names.split()) for option, (_, names) in SHARED.items()
    }


@pytest.mark.parametrize("option", SHARED)
def test_an_option_takes_the_same_in_every_command(option: str) -> None:
    kinds, names = SHARED[option]
    for name in names.split():
        found = options_of(COMMANDS[name])[option]
        assert given_to(found) in (kinds if isinstance(kinds, tuple) else (kinds,)), name
        assert [short for short in found.opts if not short.startswith("--")] == (
            [SHORT[option]] if option in SHORT else []
        ), name
        assert found.help, name


def test_sweep_is_evaluate_with_other_defaults() -> None:
    one, other = (options_of(COMMANDS[name]) for name in RUNS.split())
    assert one.keys() == other.keys() and all(one[name].opts == other[name].opts for name in one)
    changed = {
        name: (one[name].default, other[name].default) for name in one if one[name].default != other[name].default
    }
    assert changed == {
        "--texts": (True, False),
        "--controls": (True, False),
        "--out": (Path("run.sqlite"), Path("sweep.sqlite")),
    }


def test_metrics_in_the_help_are_those_there_are() -> None:
    assert tuple(METRICS.replace(" or ", ", ").split(", ")) == NAMES


# --- help ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_examples_that_parse(name: str) -> None:
    own = [words for words in examples(COMMANDS[name]) if words[0] == name]
    assert own
    for words in examples(COMMANDS[name]):
        command = COMMANDS[words[0]]
        context = command.make_context(words[0], words[1:])
        assert not context.args and context.params, words
        missing = [p.name for p in command.params if p.required and context.params[p.name] is None]
        assert not missing, words


def test_examples_that_are_wrong_do_not_parse() -> None:
    for words in (["--kinds", "mlp"], ["--samples", "many"], []):
        with pytest.raises(Exception, match=r"No such option|valid integer|Missing parameter"):
            COMMANDS["trace"].make_context("trace", words)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_is_printed(name: str) -> None:
    printed = done(name, "--help")
    assert f"tracer {name}" in printed.replace("\n", " ") and "--json" in printed


# --- a shell ---------------------------------------------------------------------------------------------------------
def tracer(*arguments: str, **variables: str) -> str:
    """What ``tracer`` prints in a process of its own."""
    program = "from editing.cli import app; app(prog_name='tracer')"
    command = [sys.executable, "-c", program, *arguments]
    environment = {**surroundings(), **variables}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert told.stderr == ""
    return told.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tracer e", {"edit", "evaluate"}),
        ("tracer trace --wi", {"--window"}),
        ("tracer report --t", {"--table", "--title"}),
    ],
)
def test_the_shell_completes_commands_and_options(line: str, expected: set[str]) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_TRACER_COMPLETE": "complete_bash"}
    assert set(tracer(**words).split()) == expected


@pytest.mark.parametrize(
    ("shell", "part"),
    [("bash", "complete -o default -F"), ("zsh", "#compdef tracer"), ("fish", "complete --command tracer")],
)
def test_completion_is_generated_for_every_shell(shell: str, part: str) -> None:
    shown = tracer("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert part in shown and "_TRACER_COMPLETE" in shown


def test_the_command_begins_without_what_only_the_work_needs() -> None:
    code = "import sys, editing.cli; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], env=surroundings(), capture_output=True, text=True, timeout=60)
    loaded = set(told.stdout.split())
    assert "typer" in loaded and not loaded & {"torch", "numpy", "pandas", "transformers", "plotly", "pydantic", "rich"}
