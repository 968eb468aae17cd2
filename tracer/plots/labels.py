"""The texts of a figure. What the user wrote is shown letter by letter, never interpreted."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from tracer.text import printable
from tracer.tracing.metrics import trace_metric

if TYPE_CHECKING:
    from tracer.tracing.average_trace import AverageTrace
    from tracer.tracing.trace import CausalTrace

LIMIT = 26  # characters of a token on an axis
MODULES = {"mlp": "MLP", "attn": "attention", "cross": "cross-attention"}


def escape(text: str) -> str:
    """`text` as Plotly will show it, letter by letter.

    Plotly draws a subset of HTML and, where MathJax is loaded, anything between dollar signs as a formula: both are
    turned off.
    """
    return html.escape(printable(text), quote=False).replace("$", "&#36;")


def token_label(token: str, limit: int = LIMIT) -> str:
    """A token for an axis: without its leading space, spaces made visible where it has nothing else, cut if long."""
    return escape(cut(token.strip(" ") or "␣" * len(token) or "∅", limit))


def cut(text: str, limit: int) -> str:
    """The first `limit` characters, the last of them an ellipsis if there are more."""
    return text if len(text) <= limit else text[: max(limit, 1) - 1] + "…"


def row_labels(trace: CausalTrace) -> list[str]:
    """One label per row of `trace.scores`: the token, with a star where it belongs to the subject."""
    start, end = trace.subject_range
    return [token_label(trace.tokens[p]) + ("*" if start <= p < end else "") for p in trace.positions]


def measure(trace: CausalTrace, limit: int | None = None) -> str:
    """The measure of the scores; the foil is left out where the text would have more than `limit` characters.

    "p(Seattle)", "logit difference to Paris", "normalised logit difference to Paris", "KL divergence".
    """
    metric = trace_metric(trace.metric)
    if metric.of_answer:
        return metric.of_answer.format(token_label(trace.answer))
    name = escape(metric.label)
    if not trace.foil:
        return name
    full = f"{name} to {token_label(trace.foil)}"
    return full if limit is None or len(html.unescape(full)) <= limit else name


def remark(trace: CausalTrace | AverageTrace) -> str:
    """Differences of a trace from an ordinary one: severed modules, estimated effects; or ""."""
    parts = []
    if trace.sever:
        parts.append(f"with {MODULES.get(trace.sever, escape(trace.sever))} severed")
    if trace.method != "exact":
        parts.append(estimate(trace.method))
    return " · ".join(parts)


def estimate(method: str) -> str:
    """The method that estimates effects from gradients, in words."""
    name = {"attribution": "gradient estimate", "integrated": "gradient estimate, integrated"}.get(method)
    return name or escape(method)


def x_title(trace: CausalTrace | AverageTrace) -> str:
    """The title of the horizontal axis."""
    if trace.kind in MODULES:
        if trace.window == 1:
            return f"single restored {MODULES[trace.kind]} layer"
        return f"centre of interval of {trace.window} restored {MODULES[trace.kind]} layers"
    stack = getattr(trace, "stack", None)
    return f"single restored layer within {f'the {stack} of ' if stack else ''}{model_label(trace.model)}"


def model_label(model: str) -> str:
    """A model's name; of a folder or a hub name only the last part."""
    return token_label(re.split(r"[/\\]", model.rstrip("/\\"))[-1])


def headline(prompt: str, answer: str, limit: int) -> str:
    """The prompt and its answer, the prompt cut so that both have about `limit` characters."""
    return f"{escape(cut(prompt, limit - min(len(answer), LIMIT)))} → <b>{token_label(answer)}</b>"


def summary(trace: CausalTrace) -> list[str]:
    """The two runs that the colours lie between, and the marks of the figure."""
    clean, corrupted = f"{trace.clean:.3f} in the clean run", f"{trace.corrupted:.3f} with the subject* corrupted"
    return [f"{measure(trace)} is {clean}, {corrupted}", "○ strongest sites", escape(trace.note)]
