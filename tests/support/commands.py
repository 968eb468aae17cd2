"""Running the command, and reading what it prints."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from tracer.cli import app


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})
    return result.exit_code, result.stdout, result.stderr


def done(*arguments: str) -> str:
    """What a command prints that is to succeed."""
    code, printed, errors = run(*arguments)
    assert (code, errors) == (0, ""), errors
    return printed


def cells(printed: str, *first: str) -> list[str]:
    """The cells of the first row of a table that begins with these."""
    for line in printed.splitlines():
        found = re.split(r" {2,}", line.strip())
        if tuple(found[: len(first)]) == first:
            return found
    raise AssertionError(f"no row {first} in\n{printed}")


def assert_one_line(result: tuple[int, str, str], message: str) -> None:
    """Bad input: nothing but one line on standard error that says ``message``."""
    code, printed, errors = result
    assert (code, printed) == (2, "")
    assert errors.startswith("tracer: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert "Traceback" not in errors
