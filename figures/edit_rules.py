"""What edits reach by the last layer they write, from what ``benchmarks/edit_rules.py`` keeps."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

SHOWN = {
    "said": ("new answer said", "#1b6ca8"),
    "paraphrase success": ("paraphrases", "#7a5195"),
    "kept": ("neighbours, of before", "#d1495b"),
}


def edit_rules(found: pd.DataFrame) -> go.Figure:
    """One panel per method and model; of several settings of a layer the last counts."""
    options = found["settings"].map(json.loads)
    found = found.assign(
        last=options.map(lambda each: each["layers"][-1]),
        plain=options.map(lambda each: each.keys().isdisjoint(("stride", "reach"))),
        kept=found["neighbour success"] / found["neighbour success before"],
        panel=found["method"] + ", " + found["model"],
    )
    titles = list(dict.fromkeys(found["panel"]))
    figure = make_subplots(1, len(titles), subplot_titles=titles, shared_yaxes=True)
    for place, title in enumerate(titles, 1):
        own: Any = found[found["plain"] & (found["panel"] == title)]
        own = own.drop_duplicates("last", keep="last").sort_values("last")
        for column, (name, color) in SHOWN.items():
            look: dict[str, Any] = {"mode": "lines+markers", "line": {"color": color}, "legendgroup": column}
            line = go.Scatter(x=own["last"], y=own[column], name=name, showlegend=place == 1, **look)
            figure.add_trace(line, 1, place)
    figure.update_xaxes(title="last layer written", dtick=1)
    figure.update_yaxes(range=[0.5, 1.03], tickformat=".0%")
    figure.update_layout(template="plotly_white", width=1200, height=380, margin={"t": 50})
    figure.update_layout(legend={"orientation": "h", "y": -0.3})
    return figure
