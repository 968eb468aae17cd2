"""The texts of the page, as HTML in which no text of the user or the model is markup."""

from __future__ import annotations

import html
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from editing.questions.question import GROUPS
from editing.questions.table import ARROW, written
from tracer.errors import TracerError
from tracer.facts.inspection import visible
from tracer.text import printable
from tracer.tracing.metrics import trace_metric

if TYPE_CHECKING:
    from editing.edits.edit import Edit
    from editing.ledger.editor import Entry
    from editing.questions.answer import Answer
    from editing.questions.outcome import Outcome
    from tracer.facts.inspection import Inspection
    from tracer.tracing.trace import CausalTrace

    from .cells import Cell, Suggestion
    from .jobs import Job

PREFERRED = "after the edit, whether the answer that is meant is more probable than the other one, per token"
WRITTEN = "after the edit, whether greedy decoding writes the answer that is meant"
KINDS = {"hidden": "hidden states", "mlp": "MLP", "attn": "attention"}


def shown(text: str) -> str:
    """`text` letter by letter: in one line, and nothing in it is markup."""
    return html.escape(printable(text))


# --- the fact --------------------------------------------------------------------------------------------------------
def alignment(inspection: Inspection) -> str:
    """The prompt's tokens, those of the subject marked, and the target's."""
    found = inspection.alignment
    start, end = found.subject_range
    parts = []
    for place, token in enumerate(found.tokens):
        inside = start <= place < end
        role = "subject" if inside else "the answer is read here" if place == found.answer_position else ""
        title = f"token {place}, id {found.input_ids[place]}{role and ', ' + role}"
        parts.append(_token(token, title, "tw-subject" if inside else ""))
    if inspection.target_tokens:
        parts.append(ARROW)
        pairs = zip(inspection.target_tokens, found.target_ids, strict=True)
        parts += [_token(token, f"id {number}, target", "tw-goal") for token, number in pairs]
    quiet = f"{len(found.tokens)} tokens; the subject, underlined, is {_range(range(start, end), 'token')}"
    return f'<div class="tw-tokens">{"".join(parts)}</div><div class="tw-quiet">{quiet}</div>'


def _token(token: str, title: str, kind: str) -> str:
    return f'<span class="tw-token {kind}" title="{html.escape(title)}">{html.escape(visible(token)) or "∅"}</span>'


def _range(numbers: Sequence[int], name: str) -> str:
    if len(numbers) == 1:
        return f"{name} {numbers[0]}"
    return f"{name}s {numbers[0]} to {numbers[-1]}"


# --- a cell ----------------------------------------------------------------------------------------------------------
def cell(found: Cell, trace: CausalTrace) -> str:
    """A cell's numbers with their names."""
    restored = found.restored
    rows = [
        ("restored", f"{KINDS[found.kind]}, {_range(restored, 'layer')}"),
        ("at token", f"{found.token} {_token(found.text, 'token', '')}"),
        (shown(trace_metric(trace.metric).label), f"{found.score:.4f}"),
        ("clean run", f"{trace.clean:.4f}"),
        ("corrupted run", f"{trace.corrupted:.4f}"),
        ("effect", f"{found.effect:+.4f}"),
        ("share brought back", "–" if np.isnan(found.share) else f"{100 * found.share:.1f} %"),
        ("rank", f"{found.rank} of {found.cells} cells"),
    ]
    body = "".join(f'<div><span class="tw-quiet">{name}</span><span>{value}</span></div>' for name, value in rows)
    return f'<div class="tw-numbers">{body}</div>'


def suggested(name: str, found: Suggestion) -> str:
    """Suggested layers, or the reason for a missing suggestion."""
    if found.best is None:
        return f'<div class="tw-quiet">{name}: {shown(found.reason)}</div>'
    several = f", or {_range(found.window, 'layer')}" if len(found.window) > 1 else ""
    return f"<div>{name}: <b>layer {found.best}</b>{several}</div>"


# --- an edit ---------------------------------------------------------------------------------------------------------
def edit_line(edit: Edit) -> str:
    """An edit in one line."""
    wishes = ", ".join(f"{request.text} → {request.target_new.strip()}" for request in edit.requests)
    layers = edit.settings.get("layers")
    at = f", {_range(layers, 'layer')}" if isinstance(layers, list | tuple) and layers else ""
    return f"{edit.method}{at}: {wishes}"


def outcome(found: Outcome, title: str) -> str:
    """Every question before and after, by group, and the generated texts."""
    asked, before, after = found.probes.questions, found.before, found.after
    head = (
        '<th>prompt</th><th>answer</th><th class="tw-number">p(new)</th><th class="tw-number">p(true)</th>'
        f'<th title="{PREFERRED}">preferred</th><th title="{WRITTEN}">written</th>'
    )
    body = []
    for group, places in found.groups().items():
        body.append(f'<tr class="tw-group"><td colspan="6">{GROUPS[group]}</td></tr>')
        for place in places:
            old, new = shown(before.answers[place]), shown(after.answers[place])
            cells = [
                f"<td>{shown(asked[place].prompt)}{_routes(after.each[place])}</td>",
                f"<td>{new if old == new else f'{old}{ARROW}<b>{new}</b>'}</td>",
                f'<td class="tw-number">{_pair(before.new[place], after.new[place])}</td>',
                f'<td class="tw-number">{_pair(before.true[place], after.true[place])}</td>',
                f"<td>{_verdict(after.as_meant[place])}</td><td>{_verdict(after.as_meant_greedy[place])}</td>",
            ]
            body.append(f"<tr>{''.join(cells)}</tr>")
    tables = f'<table class="tw-table"><tr>{head}</tr>{"".join(body)}</table>'
    texts = "".join(
        f'<tr><td>{shown(prompt)}</td><td class="tw-quiet">before</td><td>{shown(old)}</td></tr>'
        f'<tr><td></td><td class="tw-quiet">after</td><td>{shown(new)}</td></tr>'
        for prompt, old, new in written(found)
    )
    if texts:
        tables += f'<table class="tw-table"><tr class="tw-group"><td colspan="3">written text</td></tr>{texts}</table>'
    return f"<div>{title}</div>{tables}"


def _routes(answer: Answer) -> str:
    """How the model's memories decided about a question, a line each."""
    return "".join(f'<div class="tw-quiet">{shown(str(route))}</div>' for route in answer.routes)


def _verdict(meant: float) -> str:
    """Whether an answer is as the edit means it to be; a dash where that is not known."""
    if np.isnan(meant):
        return "–"
    return '<span class="tw-good">yes</span>' if meant else '<span class="tw-bad">no</span>'


def _pair(before: float, after: float) -> str:
    return ARROW.join("–" if np.isnan(each) else f"{each:.3f}" for each in (before, after))


def history(entries: Sequence[Entry], position: int) -> str:
    """Every edit, those undone in grey."""
    if not entries:
        return '<div class="tw-quiet">No edit was made: the model is as it was given.</div>'
    rows = []
    for entry in entries:
        state = "now" if entry.index == position else "in the model" if entry.active else "undone"
        kind = "" if entry.active else ' class="tw-quiet"'
        rows.append(f"<tr{kind}><td>{entry.index}</td><td>{shown(edit_line(entry.edit))}</td><td>{state}</td></tr>")
    start = f"<tr><td>0</td><td>as it was given</td><td>{'' if position else 'now'}</td></tr>"
    return f'<table class="tw-table">{start}{"".join(rows)}</table>'


# --- messages --------------------------------------------------------------------------------------------------------
def message(text: str, kind: str = "") -> str:
    """A message: kind "", "warning" or "error"."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="tw-message {kind and "tw-" + kind}" role="{role}">{shown(text)}</div>'


def failure(error: BaseException) -> str:
    """An exception as a message; unexpected ones with their type, and a traceback to unfold."""
    if isinstance(error, TracerError):
        return message(str(error), "error")
    where = html.escape("".join(traceback.format_exception(error)))
    told = shown(f"{type(error).__name__}: {error}")
    return (
        f'<div class="tw-message tw-error" role="alert">{told}'
        f"<details><summary>where it came from</summary><pre>{where}</pre></details></div>"
    )


def report(job: Job, done: str) -> str:
    """How a job ended: its result, and its warnings."""
    if job.state == "failed" and job.error is not None:
        told = failure(job.error)
    elif job.state == "cancelled":
        told = message("Cancelled; everything is as it was before.")
    else:
        told = message(done)
    return told + "".join(message(f"Warning: {text}", "warning") for text in job.warnings)
