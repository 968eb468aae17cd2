"""`tracer models`, `tracer tokens`, `tracer world`: models at hand, a prompt in tokens, facts of the embedded model."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

import typer

from . import printing
from .command import ModelName, Prompt, Subject, Target, command, existing


@command
def models() -> Any:
    """List the models that can be loaded here without a network, or by installing a package.

    tracer models
    """
    from rich.table import Column

    from tracer.model import models as available

    names = (Column(name, no_wrap=True) for name in ("name", "model", "licence"))
    filled = printing.table(*names, "")
    found = available()
    for each in found:
        name, licence = each.name or "(no name)", each.licence or "see the hub"
        filled.add_row(*map(printing.literal, (name, each.what, licence, each.how)))
    printing.show(filled)
    return found


@command
def tokens(prompt: Prompt, subject: Subject, target: Target = None, model: ModelName = None) -> Any:
    """Show the prompt in the model's tokens, and which of them are the subject.

    tracer tokens "The Space Needle is in downtown" -s "The Space Needle" --target " Seattle"
    """
    from tracer.facts.fact import Fact
    from tracer.model import load

    fact = Fact(prompt, subject, target)
    found = fact.inspect(load(model))
    for line in str(found).split("\n"):
        printing.say(line)
    return found


@command
def world(
    query: Annotated[str, typer.Argument(help="Text to look for in subjects, relations and objects.")] = "",
    relation: Annotated[str | None, typer.Option(help="Only this relation.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only subjects of this type.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
) -> Any:
    """Search the facts that the embedded model was taught.

    tracer world seattle

    tracer world --type landmark --limit 5 --json
    """
    from rich.table import Column

    from tracer.factworld import facts

    known = facts()
    relation = existing("relation", relation, {f.relation for f in known})
    kind = existing("type", kind, {f.type for f in known})
    words = _folded(query).split()
    found = [
        f
        for f in known
        if relation in (None, f.relation)
        and kind in (None, f.type)
        and all(word in _folded(f"{f.subject} {f.type} {f.relation} {f.object}") for word in words)
    ]
    names = (Column(name, no_wrap=True) for name in ("type", "relation"))
    filled = printing.table("subject", *names, "object", "prompt")
    for fact in found[:limit]:
        filled.add_row(*map(printing.literal, (fact.subject, fact.type, fact.relation, fact.object, fact.text)))
    if found:
        printing.show(filled)
    shown = min(limit, len(found))
    printing.say(f"{shown:,} of {len(found):,} facts found, {len(known):,} known" if found else "no fact found")
    return {"facts": found[:limit], "found": len(found), "known": len(known)}


def _folded(text: str) -> str:
    """For searching: without case, accents and underscores."""
    plain = unicodedata.normalize("NFKD", text.replace("_", " "))
    return "".join(c for c in plain if not unicodedata.combining(c)).casefold()
