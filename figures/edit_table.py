"""An edit as a table: what the model says to each prompt before and after, and how probable that is."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import plotly.graph_objects as go

from editing import Outcome
from editing.questions.answers import Answers
from tracer.plots.labels import cut, escape, headline, model_label
from tracer.plots.style import EDGE, FRAME, INK, QUIET, Canvas, see_through

NEW, TRUE = "#c4552d", "#3b6ea5"  # as in plot_outcome
WIDTH, TOP, ROW, GAP = 1130, 104, 27, 7
GROUP, PROMPT, BEFORE, AFTER = EDGE, 114, 488, 816  # where columns begin
ONE, MANY = {"same_subject": "other fact"}, {"same_subject": "other facts"}
ANSWER, BAR = 116, 110  # room for an answer, and how long a bar of 1 is
LINE, ACROSS = 19, 44  # of a written text: height of a line, and its characters


def edit_table(outcome: Outcome, *, shown: int = 3, note: str = "") -> go.Figure:
    """A line for each prompt, at most ``shown`` of a group: answers in colour, bars as long as they are probable.

    Orange is the new target, blue the answer that is true without the edit, grey anything else. The first of the
    prompts that are to be continued stands last, with what the model writes.
    """
    rows = [(name, place) for name, places in outcome.groups().items() for place in places[:shown]]
    groups = {name: [place for each, place in rows if each == name] for name, _ in rows}
    texts = [[wrap(each.strip(), ACROSS) for each in one.texts[:1]] for one in (outcome.before, outcome.after)]
    lines = max((len(text) for both in texts for text in both), default=0)
    height = TOP + len(rows) * ROW + 2 * GAP * len(groups) + (lines * LINE + 2 * GAP if lines else 0) + 10
    canvas = Canvas(WIDTH, height)
    figure = go.Figure()
    for name, x in (("before", BEFORE), ("after", AFTER)):
        _text(figure, x, TOP - 15, f"<b>{name} the edit</b>")
    y = float(TOP)
    for name, places in groups.items():
        _rule(figure, y)
        y += GAP
        _text(
            figure, GROUP, y + ROW / 2, ONE.get(name, name) if len(places) == 1 else MANY.get(name, f"{name}s"), QUIET
        )
        for place in places:
            _text(figure, PROMPT, y + ROW / 2, escape(cut(outcome.probes.questions[place].prompt, 56)))
            for one, x in ((outcome.before, BEFORE), (outcome.after, AFTER)):
                _answer(figure, one, place, x, y + ROW / 2)
            y += ROW
        y += GAP
    if lines:
        _rule(figure, y)
        y += GAP + LINE / 2 + 3
        _text(figure, GROUP, y, "writes", QUIET)
        _text(figure, PROMPT, y, escape(outcome.probes.generate[0]))
        for (text,), x in zip(texts, (BEFORE, AFTER), strict=True):
            for row, line in enumerate(text):
                _text(figure, x, y + row * LINE, escape(line))
    first = outcome.probes.questions[0]
    subtitle = f"what {model_label(outcome.model)} says, and how probable that is" + (f" · {note}" if note else "")
    layout = canvas.layout(headline(first.prompt, first.new or "", WIDTH // 10), subtitle)
    hidden: dict[str, Any] = {"visible": False, "fixedrange": True}
    figure.update_layout(
        layout,
        xaxis={**hidden, "range": [0, WIDTH], "domain": [0, 1]},
        yaxis={**hidden, "range": [height, 0], "domain": [0, 1]},
        plot_bgcolor="white",
    )
    return figure


def _answer(figure: go.Figure, one: Answers, place: int, x: float, y: float) -> None:
    """What is said, and a bar for its probability."""
    question, said = one.probes.questions[place], one.answers[place].strip()
    known = {(question.new or "").strip(): (NEW, one.new[place])}
    if question.true is not None:
        known[question.true.strip()] = (TRUE, one.true[place])
    color, p = known.get(said, (QUIET, float("nan")))
    _text(figure, x, y, f"<b>{escape(cut(said, 17 if p == p else 30))}</b>", color)
    if p == p:  # a number
        left = x + ANSWER + 14
        bar = {"type": "rect", "x0": left, "y0": y - 6, "y1": y + 6, "line": {"width": 0}}
        figure.add_shape(**bar, x1=left + BAR, fillcolor=see_through(color, 0.13))
        figure.add_shape(**bar, x1=left + BAR * p, fillcolor=color)
        _text(figure, left + BAR + 8, y, f"{p:.2f}", QUIET)


def _rule(figure: go.Figure, y: float) -> None:
    figure.add_shape(type="line", x0=EDGE, x1=WIDTH - EDGE, y0=y, y1=y, line={"color": FRAME, "width": 1})


def _text(figure: go.Figure, x: float, y: float, text: str, color: str = INK) -> None:
    place = {"x": x, "y": y, "xref": "x", "yref": "y", "xanchor": "left", "yanchor": "middle"}
    figure.add_annotation(**place, text=text, showarrow=False, align="left", font={"size": 13.5, "color": color})
