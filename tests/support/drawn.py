"""Reading figures: what is drawn, and where."""

from __future__ import annotations

import html
import re
from itertools import combinations
from typing import Any

import plotly.graph_objects as go

HOSTILE = "<script>window.hacked=1</script> <img src=x onerror=alert(1)> %{z} $x$"


def drawn(figure: go.Figure, kind: str, **fields: Any) -> list[Any]:
    """The figure's traces of one type ("heatmap", "bar", "scatter") with these values of fields."""
    data: Any = figure.data
    return [each for each in data if each.type == kind and all(each[name] == v for name, v in fields.items())]


def layout(figure: go.Figure) -> Any:
    return figure.layout


def axis(figure: go.Figure, letter: str, index: int) -> Any:
    return layout(figure)[f"{letter}axis" + (str(index + 1) if index else "")]


def plain(text: str) -> str:
    """A text of a figure as it is read."""
    return html.unescape(re.sub(r"<[^>]*>", " ", text))


def headings(figure: go.Figure) -> list[str]:
    """The titles of panels."""
    return [plain(each.text) for each in layout(figure).annotations if each.xref == "paper"]


def panels(figure: go.Figure) -> list[tuple[float, float, float, float]]:
    """Left, right, top and bottom of every panel, in pixels from the figure's upper left corner."""
    found = []
    names = [name for name in layout(figure) if name.startswith("xaxis")]
    for index in range(len(names)):
        x, y = axis(figure, "x", index), axis(figure, "y", index)
        left, right = (each * layout(figure).width for each in x.domain)
        bottom, top = ((1 - each) * layout(figure).height for each in y.domain)
        found.append((left, right, top, bottom))
    return found


def check_places(figure: go.Figure) -> None:
    """Panels and colour bars lie inside the figure and apart from each other; titles above them; the legend between."""
    wide, high = layout(figure).width, layout(figure).height
    boxes = panels(figure)
    assert boxes
    bars = [
        each.colorbar for each in drawn(figure, "heatmap") if each.coloraxis is None and each.showscale is not False
    ]
    bars += [layout(figure).coloraxis.colorbar] if layout(figure).coloraxis.colorbar.len else []
    for bar in bars:
        middle = (1 - bar.y) * high
        boxes.append((bar.x * wide, bar.x * wide + bar.thickness + 30, middle - bar.len / 2, middle + bar.len / 2))
    for left, right, top, bottom in boxes:
        assert 0 < left < right < wide
        assert 0 < top < bottom < high - 20  # room for the labels below
    for a, b in combinations(boxes, 2):
        apart = a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2]
        assert apart, (a, b)
    first = min(top for _, _, top, _ in boxes)
    lines = (layout(figure).title.subtitle.text or "").count("<br>")
    assert first > 60 + 17 * lines
    if layout(figure).showlegend:
        assert 60 + 17 * lines < (1 - layout(figure).legend.y) * high < first


def check_no_markup(figure: go.Figure) -> None:
    """Nothing of ``HOSTILE`` is markup, a template or a formula anywhere in the figure."""
    text = str(figure.to_dict())
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;" in text  # it is shown
    assert "$x" not in text
    for each in figure.data:
        assert "hacked" not in str(getattr(each, "hovertemplate", ""))
