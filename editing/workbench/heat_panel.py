"""The heat maps, live: a click on a cell, or two drop-downs, gives its numbers and the layers it suggests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracer.facts.inspection import visible
from tracer.plots import plot_trace
from tracer.tracing.trace import CausalTrace

from . import parts, texts
from .cells import Cell, Suggestion
from .session import Session

ALL = "side by side"
MARK = "#e8710a"


class HeatPanel:
    """Heat maps of a session's traces.

    Args:
        session: with the traces.
        suggest: called with layers to edit: those of the whole trace, or those around a cell that was chosen.
    """

    def __init__(self, session: Session, suggest: Callable[[Suggestion], None]) -> None:
        self.session, self._suggest = session, suggest
        self.traces: tuple[CausalTrace, ...] = ()
        self.figure: Any = None
        self.chosen: tuple[CausalTrace, Cell] | None = None
        self.view = parts.toggle("view", [("", "")])
        self.trace = parts.choice("cell-trace", [("", None)])
        self.token = parts.choice("cell-token", [("", None)])
        self.layer = parts.choice("cell-layer", [("", None)])
        self.whole = parts.button("whole", "Take the whole trace's layers", self._whole)
        self.whole.layout.align_self = "flex-start"
        self.place = parts.column(classes=("tw-figure",))
        self.numbers, self.layers, self.note = parts.markup(), parts.markup(), parts.markup()
        side = parts.column(
            parts.markup('<div class="tw-quiet">Click a cell, or choose one:</div>'),
            parts.row(
                parts.labelled("restored", self.trace, "130px", 1),
                parts.labelled("token", self.token, "130px", 1),
                parts.labelled("layer", self.layer, "64px"),
            ),
            self.numbers,
            self.layers,
            self.whole,
        )
        side.layout.flex = "1 1 215px"
        self.place.layout.flex = "0 1 auto"
        self.place.layout.min_width = "0"
        body = parts.row(self.place, side)
        body.layout.align_items = "flex-start"
        self.box = parts.panel("Trace", self.view, body, self.note)
        self.box.layout.display = "none"  # until there is a trace
        self._quiet = False  # whether choices are being set from here
        self.view.observe(lambda _: self._draw(), "value")
        for control in (self.trace, self.token, self.layer):
            control.observe(self._picked, "value")

    @property
    def controls(self) -> list[Any]:
        """Widgets that are disabled while something is at work."""
        return [self.view, self.trace, self.token, self.layer, self.whole]

    def show(self, traces: Sequence[CausalTrace]) -> None:
        """Draw new traces, choose the strongest cell (of MLPs, if there), and suggest the layers of the whole trace.

        Args:
            traces: to draw.
        """
        self.traces = tuple(traces)
        names = [(texts.KINDS[each.kind], place) for place, each in enumerate(self.traces)]
        several = [(ALL, ALL)] if len(names) > 1 else []
        places = [place for place, each in enumerate(self.traces) if each.kind == "mlp"] or [0]
        self._quiet = True
        try:
            self.view.options = [*names, *several]
            self.view.value = places[0]
            self.trace.options = names
        finally:
            self._quiet = False
        self.box.layout.display = ""
        self._draw()
        self.choose(places[0], *self.traces[places[0]].peak(), suggest=False)
        self._whole()

    def choose(self, place: int, token: int, layer: int, suggest: bool = True) -> None:
        """Show the numbers of a cell, mark it, and suggest the layers around it.

        Args:
            place: of the trace.
            token: of the cell.
            layer: of the cell.
            suggest: pass on the layers.

        Raises:
            TracerError: a cell that was not traced.
        """
        trace = self.traces[place]
        found = self.session.cell(trace, token, layer)
        self.chosen = trace, found
        self._quiet = True
        try:
            self.trace.value = place
            self.token.options = [(f"{i} {visible(trace.tokens[i])}", i) for i in trace.positions]
            self.token.value = token
            self.layer.options = list(trace.layers)
            self.layer.value = layer
        finally:
            self._quiet = False
        self.numbers.value = texts.cell(found, trace)
        self._mark()
        self.refresh()
        if suggest and found.around.best is not None:
            self._suggest(found.around)

    def refresh(self) -> None:
        """Update the suggestion, which depends on the model's weights."""
        if self.chosen is None:
            return
        trace, found = self.chosen
        whole = texts.suggested("whole trace", self.session.suggestion(trace))
        self.layers.value = texts.suggested("around this cell", found.around) + whole
        other = trace.fingerprint != self.session.fingerprint
        text = "This trace is of other weights than the model has now; trace again to see it as it is."
        self.note.value = texts.message(text, "warning") if other else ""

    # --- inside ------------------------------------------------------------------------------------------------------
    def _whole(self) -> None:
        """Suggest the layers of the trace that is shown, or of the first that names any."""
        own = [self.chosen[0]] if self.chosen else []
        found = [self.session.suggestion(trace) for trace in (*own, *self.traces)]
        named = next((each for each in found if each.best is not None), None)
        if named is not None:
            self._suggest(named)

    def _shown(self) -> list[int]:
        """Places of the traces that are drawn."""
        return list(range(len(self.traces))) if self.view.value == ALL else [int(self.view.value)]

    def _draw(self) -> None:
        if self._quiet or not self.traces:
            return
        import plotly.graph_objects as go

        places = self._shown()
        drawn = plot_trace([self.traces[place] for place in places])
        old, self.figure = self.figure, go.FigureWidget(drawn)
        # a click chooses and never zooms; no buttons over the title, one of which would send the figure away
        self.figure.layout.dragmode = False
        self.figure._config = {**self.figure._config, "displayModeBar": False}
        self._rings = tuple(self.figure.layout.shapes)
        for place, heat in zip(places, self.figure.data, strict=True):
            heat.on_click(lambda _, points, state, place=place: self._clicked(place, points))
        self.place.children = (self.figure,)
        if old is not None:
            old.close()
        self._mark()

    def _clicked(self, place: int, points: Any) -> None:
        if points.xs and not self.trace.disabled:
            trace = self.traces[place]
            self.choose(place, trace.positions[int(points.ys[0])], int(points.xs[0]))

    def _picked(self, _: Any) -> None:
        if self._quiet or self.trace.value is None:
            return
        place = int(self.trace.value)
        trace = self.traces[place]
        token = self.token.value if self.token.value in trace.positions else trace.positions[0]
        layer = self.layer.value if self.layer.value in trace.layers else trace.layers[0]
        self.choose(place, int(token), int(layer))

    def _mark(self) -> None:
        """A frame around the chosen cell, where its trace is drawn."""
        if self.figure is None:
            return
        frame = ()
        if self.chosen is not None:
            trace, cell = self.chosen
            for heat, place in zip(self.figure.data, self._shown(), strict=True):
                if self.traces[place] is trace:
                    frame = (_frame(trace.positions.index(cell.token), cell.layer, heat.xaxis, heat.yaxis),)
        self.figure.layout.shapes = (*self._rings, *frame)


def _frame(row: int, layer: int, x_axis: str | None, y_axis: str | None) -> dict[str, Any]:
    sides = {"x0": layer - 0.5, "x1": layer + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    return {"type": "rect", "xref": x_axis or "x", "yref": y_axis or "y", **sides, "line": {"color": MARK, "width": 2}}
