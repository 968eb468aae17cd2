"""Fitting figures of several panels to the window: panels in a line, and one figure arranged for several widths.

A figure is measured in pixels and so has one width. Every arrangement is therefore planned in full, for each of
`WIDTHS`; the figure holds one of them, and what the others have otherwise goes along as its layout's `meta`. An
exported page takes the widest that fits the window. Notebooks and pictures show the one the figure holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from .labels import headline
from .style import text_width, wrapped

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLUMNS = 3
# a figure's width in windows of about 680, 960, 1300 and 1900 pixels, less a page's margins and scrollbar
WIDTHS = (620, 900, 1240, 1840)
WIDTH = 1240
OVERHANG = 22  # how far an axis's title may reach beyond its panel, at each side
KEY = "arrangements"


@dataclass(frozen=True)
class Arrangement:
    """The layout of a figure of one width.

    Attributes:
        layout: the figure's layout.
        bars: the colour bars of its heat maps, in their order.
    """

    layout: dict[str, Any]
    bars: tuple[dict[str, Any], ...] = ()


def widths(width: int | None) -> tuple[int, ...]:
    """The widths to plan for, first the one the figure has: `width` alone, or `WIDTH` and what pages may need."""
    return (WIDTH, *(each for each in WIDTHS if each != WIDTH)) if width is None else (width,)


def panel_widths(n_layers: int, least: int, usual: int, most: int) -> tuple[int, int]:
    """The least and the best width of a panel of so many layers: cells of 5 pixels at least and 34 at best.

    The best is between `usual` and `most`, but leaves every cell 7 pixels; the least is never below `least`.
    """
    best = max(min(max(34 * n_layers, usual), most), 7 * n_layers)
    return min(max(5 * n_layers, least), best), best


def in_line(width: int, count: int, panel: tuple[int, int], beside: Callable[[int], int]) -> tuple[int, int]:
    """Number of panels in a line, and the width of each of them.

    As many as `COLUMNS` and their least width allow, one in any case.

    Args:
        width: pixels of the line.
        count: how many panels there are.
        panel: least and best width of one.
        beside: what a line of so many panels needs beside them: labels, colour bars, gaps.
    """
    least, best = panel
    for columns in range(min(count, COLUMNS), 1, -1):
        room = (width - beside(columns)) // columns
        if room >= least:
            return columns, min(room, best)
    return 1, max(min(width - beside(1), best), least)


def tick_room(layers: Iterable[int], width: float) -> int:
    """Number of layers that can be labelled on `width` pixels."""
    return max(int(width // (text_width(str(max(layers)), 12) + 8)), 1)


def axis_title(text: str, width: float) -> tuple[dict[str, Any], int]:
    """The title of a panel's horizontal axis, the panel `width` wide, and its number of lines."""
    text, lines = wrapped([text], width + 2 * OVERHANG, 12.5)
    return {"text": text, "font": {"size": 12.5}, "standoff": 8}, lines


def headline_on(width: float, prompt: str, answer: str, size: float = 19) -> str:
    """A prompt and its answer in one line of at most `width` pixels, the prompt cut where it is longer."""
    limit = int(width / (0.52 * size))
    while limit > 1 and text_width(headline(prompt, answer, limit), size) > width:
        limit -= 1
    return headline(prompt, answer, limit)


def arrange(figure: go.Figure, arrangements: Sequence[Arrangement]) -> go.Figure:
    """Give `figure` the first of the arrangements, and the others to take with it."""
    first, *others = arrangements
    data: Any = figure.data
    maps = [place for place, trace in enumerate(data) if trace.type == "heatmap"]
    for place, bar in zip(maps, first.bars, strict=True):
        data[place].colorbar = bar
    layout = dict(first.layout)
    if others:
        layouts = _differences([_flat(each.layout) for each in arrangements])
        bars = _differences([_listed(each.bars) for each in arrangements])
        layout["meta"] = {
            KEY: [
                {"size": [each.layout["width"], each.layout["height"]], "layout": way, "data": bar, "traces": maps}
                for each, way, bar in zip(arrangements, layouts, bars, strict=True)
            ]
        }
    figure.layout = layout  # as a whole: an update would compare it entry by entry
    return figure


def adaptive(figure: go.Figure) -> go.Figure:
    """Add to `figure` the arrangements a page may choose from; changes since it was made stay as they are.

    A figure that was given another size, or has lost a heat map, gets no arrangements.
    """
    import plotly.graph_objects as go

    layout, data = cast(Any, figure.layout), cast(Any, figure.data)
    ways = layout.meta.get(KEY, []) if isinstance(layout.meta, Mapping) else []
    if not ways:
        return figure
    own = next((way for way in ways if way["size"] == [layout.width, layout.height]), None)
    kept = []
    if own is not None and len(data) > max(own["traces"], default=-1):
        now = {
            "layout": {key: _value(layout, key) for key in own["layout"]},
            "data": {key: [_value(data[place], key) for place in own["traces"]] for key in own["data"]},
        }
        same = {part: [key for key in now[part] if now[part][key] == _plain(own[part][key])] for part in now}
        kept = [way | {part: {key: way[part][key] for key in keys} for part, keys in same.items()} for way in ways]
    return go.Figure(figure).update_layout(meta={**layout.meta, KEY: kept})


# --- layouts as flat tables, keyed as Plotly's updates are -----------------------------------------------------------
def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}, "c": [{"d": 2}]} -> {"a.b": 1, "c[0].d": 2}; lists of numbers and texts stay whole."""
    if isinstance(value, Mapping):
        parts = [(f"{key}.{name}" if key else name, each) for name, each in value.items()]
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        parts = [(f"{key}[{place}]", each) for place, each in enumerate(value)]
    else:
        return {key: value}
    return {name: each for part, inner in parts for name, each in _flat(inner, part).items()}


def _listed(bars: Sequence[Any]) -> dict[str, Any]:
    """Colour bars as what Plotly takes to update several traces: a list of their values for each key."""
    flat = [_flat({"colorbar": bar}) for bar in bars]
    return {key: [each.get(key) for each in flat] for key in dict.fromkeys(key for each in flat for key in each)}


def _differences(tables: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of each table that are not the same in all; those it lacks are None."""
    keys = [
        key
        for key in dict.fromkeys(key for table in tables for key in table)
        if any(table.get(key) != tables[0].get(key) for table in tables)
    ]
    return [{key: table.get(key) for key in keys} for table in tables]


def _value(node: Any, key: str) -> Any:
    """The value of a figure at a key; None without one."""
    try:
        return _plain(node[key])
    except (LookupError, ValueError):
        return None


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
