"""Layout and texts of a figure of traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .fit import Arrangement, axis_title, headline_on, in_line, panel_widths, tick_room
from .labels import escape, measure, remark, row_labels, summary, x_title
from .style import (
    AXIS,
    BAR_ROOM,
    EDGE,
    LINE,
    SMALL,
    TITLES,
    Canvas,
    axis,
    in_layout,
    layer_ticks,
    small,
    text_width,
    wrapped,
)

if TYPE_CHECKING:
    from tracer.tracing.trace import CausalTrace

TOP, HEADING, BOTTOM, RIGHT = 118, 62, 60, 30  # margins; the top holds title, subtitle and panel titles
GAP = 22  # between a colour bar's room and the next panel
NARROWEST = 560  # for the title


@dataclass(frozen=True)
class Plan:
    """Places of the panels, in pixels from the top left corner."""

    left: int
    top: int
    panel: tuple[int, int]  # width, height of one heat map
    step: tuple[int, int]  # from one panel to the next
    columns: int
    rows: int
    headed: bool  # panels of different prompts: each says its own instead of the figure's title
    bottom: int
    width: int

    @classmethod
    def of(cls, traces: Sequence[CausalTrace], width: int) -> Plan:
        """The plan for `width` pixels, or for as many as one panel needs."""
        n_layers = max(max(t.layers) - min(t.layers) + 1 for t in traces)
        n_rows = max(len(t.positions) for t in traces)
        height = max(n_rows * (30 if n_rows <= 9 else 23 if n_rows <= 20 else 17), 150)
        left = 30 + int(max(text_width(label) for t in traces for label in row_labels(t)))

        def between(columns: int) -> int:
            # the label column is repeated only where neighbours have different tokens
            same = all(same_rows(traces[i - 1], t) for i, t in enumerate(traces) if i % columns)
            return BAR_ROOM + (GAP if same else left)

        def beside(columns: int) -> int:
            return left + (columns - 1) * between(columns) + BAR_ROOM + RIGHT

        columns, panel = in_line(width, len(traces), panel_widths(n_layers, 220, 250, 340), beside)
        total = max(beside(columns) + columns * panel, NARROWEST)
        step = panel + between(columns)
        headed = len({(t.prompt, t.subject, t.answer, t.model, t.metric, t.foil) for t in traces}) > 1
        remarks = LINE * max(_remark(t, step)[1] for t in traces)
        bottom = BOTTOM + LINE * (max(axis_title(x_title(t), panel)[1] for t in traces) - 1)
        _, lines = ("", 0) if headed else wrapped(summary(traces[0]), total - 2 * EDGE)
        top = (96 if headed else TOP + LINE * (lines - 1)) + remarks
        steps = (step, height + bottom + HEADING + remarks)
        return cls(left, top, (panel, height), steps, columns, -(-len(traces) // columns), headed, bottom, total)

    @property
    def canvas(self) -> Canvas:
        """The figure's canvas."""
        return Canvas(self.width, self.top + (self.rows - 1) * self.step[1] + self.panel[1] + self.bottom)

    def place(self, index: int) -> tuple[int, int]:
        """The upper left corner of a panel."""
        return self.left + index % self.columns * self.step[0], self.top + index // self.columns * self.step[1]


def arrangement(traces: Sequence[CausalTrace], plan: Plan) -> Arrangement:
    """Titles, axes and colour bars of the figure as planned."""
    title, subtitle = "Where restoring clean states brings the answer back", ""
    if not plan.headed:
        title = headline_on(plan.width - 2 * EDGE, traces[0].prompt, traces[0].answer)
        subtitle, _ = wrapped(summary(traces[0]), plan.width - 2 * EDGE)
    width, height = plan.panel
    places = [plan.place(index) for index in range(len(traces))]
    axes = [_axes(traces, plan, index) for index in range(len(traces))]
    return Arrangement(
        plan.canvas.layout(
            title,
            subtitle,
            annotations=[
                plan.canvas.heading(x, y, _heading(t, plan)) for t, (x, y) in zip(traces, places, strict=True)
            ],
            **{name: each for pair in axes for name, each in pair.items()},
        ),
        tuple(
            plan.canvas.color_bar(x + width, y, height, measure(t, int((height + 40) / 6.9)))
            for t, (x, y) in zip(traces, places, strict=True)
        ),
    )


def _axes(traces: Sequence[CausalTrace], plan: Plan, index: int) -> dict[str, Any]:
    trace, labels = traces[index], row_labels(traces[index])
    x_axis, y_axis = axis("x", index), axis("y", index)
    x_domain, y_domain = plan.canvas.domain(*plan.place(index), *plan.panel)
    layers = list(range(min(trace.layers), max(trace.layers) + 1))
    # panels with the same rows zoom together; one with those of its left neighbour is not labelled again
    twin = next(i for i, each in enumerate(traces) if same_rows(each, trace))
    first = index % plan.columns == 0
    return {
        in_layout(x_axis): {
            **AXIS,
            "domain": x_domain,
            "anchor": y_axis,
            "range": [layers[0] - 0.5, layers[-1] + 0.5],
            "tickvals": layer_ticks(layers, tick_room(layers, plan.panel[0])),
            "tickfont": SMALL,
            "title": axis_title(x_title(trace), plan.panel[0])[0],
        },
        in_layout(y_axis): {
            **AXIS,
            "domain": y_domain,
            "anchor": x_axis,
            # numbers, not the texts, place the rows: two equal tokens are two rows; the first token is on top
            "range": [len(labels) - 0.5, -0.5],
            "tickvals": list(range(len(labels))),
            "ticktext": labels,
            "tickfont": {"size": 13},
            "ticklabelstandoff": 5,
            "showticklabels": first or not same_rows(traces[index - 1], trace),
            "matches": axis("y", twin) if twin != index else None,
        },
    }


def same_rows(a: CausalTrace, b: CausalTrace) -> bool:
    """Whether the rows of two traces are the same tokens."""
    return a.positions == b.positions and row_labels(a) == row_labels(b)


def _heading(trace: CausalTrace, plan: Plan) -> str:
    lines = [f"<b>{TITLES.get(trace.kind, escape(trace.kind))}</b>"]
    if plan.headed:
        lines.append(small(headline_on(plan.step[0] - 10, trace.prompt, trace.answer, 12)))
    text, count = _remark(trace, plan.step[0])
    return "<br>".join([*lines, small(text)] if count else lines)


def _remark(trace: CausalTrace, width: int) -> tuple[str, int]:
    return wrapped(remark(trace).split(" · "), width - 10, 12)
