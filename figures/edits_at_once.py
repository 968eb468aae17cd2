"""What is left of edits when many are made at once, from what ``benchmarks/meta_editors.py`` keeps."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from editing.plots.series import COLORS
from tracer.plots.style import see_through
from tracer.statistics import clustered_mean

SHOWN = {"rewrite exact": "rewrites", "paraphrase exact": "paraphrases", "neighbour exact": "neighbours unchanged"}
SHOWN_METHODS = ("rome", "memit", "alphaedit", "grace", "mend", "malmen")
SOLVING = ("rome", "memit", "alphaedit")  # dashed; those that were trained are drawn through


def edits_at_once(found: pd.DataFrame, methods: tuple[str, ...]) -> go.Figure:
    """One panel per kind of question: shares by the number of simultaneous edits, with bands over subjects."""
    figure = make_subplots(1, len(SHOWN), subplot_titles=list(SHOWN.values()), shared_yaxes=True)
    found = found.query("how == 'at once' and label == ''")
    for column, metric in enumerate(SHOWN, 1):
        for color, method in zip(COLORS, methods, strict=False):
            own: Any = found[(found["method"] == method) & (found["metric"] == metric)]
            numbers = sorted(own["edits"].unique())
            each = [clustered_mean(some["value"], some["subject"]) for _, some in own.groupby("edits", sort=True)]
            mean, low, high = ([float(one[i]) for one in each] for i in range(3))
            look: dict[str, Any] = {"legendgroup": method, "mode": "lines"}
            band = {"fill": "toself", "fillcolor": see_through(color, 0.1), "line": {"width": 0}, "hoverinfo": "skip"}
            edge = go.Scatter(x=[*numbers, *numbers[::-1]], y=[*high, *low[::-1]], showlegend=False, **look, **band)
            figure.add_trace(edge, 1, column)
            look |= {
                "mode": "lines+markers",
                "line": {"color": color, "dash": "dash" if method in SOLVING else "solid"},
            }
            figure.add_trace(go.Scatter(x=numbers, y=mean, name=method, showlegend=column == 1, **look), 1, column)
    figure.update_xaxes(title="edits at once", type="log", tickvals=sorted(found["edits"].unique()))
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%")
    figure.update_layout(template="plotly_white", width=1200, height=400, margin={"t": 50})
    figure.update_layout(legend={"orientation": "h", "y": -0.3})
    return figure
