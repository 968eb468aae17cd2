"""`tracer doctor`: what the installation has, what it lacks, and how to mend it."""

from __future__ import annotations

import typer

from . import printing
from .command import AsJson, app

MARKS = {"good": ("ok", None), "missing": ("-", None), "bad": ("no", "yellow")}


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at versions, machine, cache, browser, extras and models, and say how to mend what is not as it should be.

    Nothing is loaded, installed or fetched. The exit code is 1 if something will fail ("no"), and 0 if at most
    something more could be had ("-").

    tracer doctor

    tracer doctor --json
    """
    from tracer.doctor import examine

    findings = examine()
    if as_json:
        printing.only(findings)
    else:
        part = ""
        for each in findings:
            if each.part != part:
                printing.say(f"{each.part}:")
                part = each.part
            mark, style = MARKS[each.state]
            printing.say(f"  {mark:<3}{each.name}: {each.found}", style=style)
            if each.repair:
                printing.say(f"       {each.repair}", style=style)
    if any(each.state == "bad" for each in findings):
        raise typer.Exit(1)
