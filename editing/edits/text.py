"""An edit in words: in a line, and in full."""

from __future__ import annotations

import math
from typing import Any

from editing.request import EditRequest
from tracer.text import printable

SHOWN = 5  # requests written out in full
MOST = 12  # weights


def line_of(edit: Any) -> str:
    """Method, first request and size of an [`editing.Edit`][]."""
    first = f": {wish(edit.requests[0])}" if edit.requests else ""
    more = ", ..." if len(edit.requests) > 1 else ""
    parts = []
    if edit.weights or not edit.memories:
        ranks = set(edit.rank().values())
        rank = "-".join(str(bound) for bound in sorted({min(ranks, default=0), max(ranks, default=0)}))
        norm = math.hypot(*edit.norm().values())
        parts.append(f"{count(len(edit.weights), 'weight')}, rank {rank}, norm {norm:.3g}")
    parts += [change.describe() for change in edit.memories]
    return (
        f"Edit({edit.method} on {edit.model}, {count(len(edit.requests), 'request')}{first}{more}; {'; '.join(parts)})"
    )


def text_of(edit: Any) -> str:
    """All of that, with what it took and what it does to unrelated text."""
    took = f"{edit.seconds:.1f} s, {edit.memory / 1e6:.0f} MB"
    if edit.parts:
        took += " (" + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in edit.parts.items()) + ")"
    lines = [f"{edit.method} on {edit.model} ({edit.fingerprint[:12]}), {took}"]
    lines += [f"  {wish(request)}" for request in edit.requests[:SHOWN]]
    if len(edit.requests) > SHOWN:
        lines.append(f"  ... and {len(edit.requests) - SHOWN} more requests")
    changes = edit.describe()
    lines += [f"  {line}" for line in changes[:MOST]]
    if len(changes) > MOST:
        lines.append(f"  ... and {len(changes) - MOST} more weights")
    return "\n".join([*lines, *(f"  {printable(text)}" for text in (edit.on_text, edit.note) if text)])


def wish(request: EditRequest) -> str:
    """A request in a line."""
    was = f" (was {request.target_true.strip()!r})" if request.target_true else ""
    return printable(f"{request.text!r} -> {request.target_new.strip()!r}{was}")


def count(number: int, what: str) -> str:
    """A number of things."""
    return f"{number} {what}{'' if number == 1 else 's'}"
