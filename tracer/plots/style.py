"""Common style of all figures: ink, colours, and a canvas measured in pixels.

All sizes are pixels until the very end, so that panels, labels, legends and colour bars never overlap, whatever the
number of tokens, layers and panels.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

FONT = '"Source Sans 3", "Helvetica Neue", Arial, "Liberation Sans", "DejaVu Sans", sans-serif'
INK, QUIET, FRAME = "#26262b", "#6b6b76", "#d9d9e0"
COLORS = {"hidden": "Purples", "mlp": "Greens", "attn": "Reds", "cross": "Oranges"}
TITLES = {
    "hidden": "Restoring the hidden state",
    "mlp": "Restoring MLP outputs",
    "attn": "Restoring attention outputs",
    "cross": "Restoring cross-attention outputs",
}

BAR, BAR_ROOM = 11, 84  # colour bar: thickness, and width together with its numbers and title
EDGE = 22  # from the figure's edge to its texts
LINE = 18  # height of a line of small text
AXIS = {"showgrid": False, "zeroline": False, "ticks": "", "showline": True, "mirror": True, "linecolor": FRAME}
VALUES = AXIS | {
    "showgrid": True,
    "gridcolor": "#f0f0f4",
    "zeroline": True,
    "zerolinecolor": "#a9a9b5",
    "zerolinewidth": 1,
}
SMALL = {"size": 12, "color": QUIET}


@dataclass(frozen=True)
class Canvas:
    """A figure's size in pixels; places are counted from its top left corner.

    Attributes:
        width: pixels from left to right.
        height: pixels from top to bottom.
    """

    width: int
    height: int

    def domain(self, x: float, y: float, width: float, height: float) -> tuple[list[float], list[float]]:
        """A panel's place as Plotly takes it: fractions of the figure, x from the left, y from the bottom."""
        return (
            [x / self.width, (x + width) / self.width],
            [1 - (y + height) / self.height, 1 - y / self.height],
        )

    def layout(self, title: str, subtitle: str, **more: Any) -> dict[str, Any]:
        """The layout all figures have: paper, font, title with its quiet second line, hover box."""
        return {
            "template": "plotly_white",
            "width": self.width,
            "height": self.height,
            "margin": {"l": 0, "r": 0, "t": 0, "b": 0, "pad": 0, "autoexpand": False},
            "font": {"family": FONT, "size": 13, "color": INK},
            "title": {
                "text": title,
                "font": {"size": 19},
                "subtitle": {"text": subtitle, "font": {"size": 13, "color": QUIET}},
                "x": EDGE / self.width,
                "y": 1 - 30 / self.height,
                "yanchor": "middle",
            },
            "hoverlabel": {
                "font": {"size": 13, "color": INK},
                "bgcolor": "white",
                "bordercolor": QUIET,
                "align": "left",
            },
            "showlegend": False,
            **more,
        }

    def heading(self, x: float, y: float, text: str) -> dict[str, Any]:
        """An annotation on the line `y`, from `x` on: the title of a panel."""
        return {
            "text": text,
            "x": x / self.width,
            "y": 1 - y / self.height,
            "xref": "paper",
            "yref": "paper",
            "xanchor": "left",
            "yanchor": "bottom",
            "yshift": 6,
            "showarrow": False,
            "align": "left",
            "font": {"size": 14},
        }

    def color_bar(self, x: float, y: float, height: float, title: str) -> dict[str, Any]:
        """A colour bar of the given height at the right of a panel whose right upper corner is (x, y)."""
        return {
            "x": (x + 9) / self.width,
            "xanchor": "left",
            "xpad": 0,
            "y": 1 - (y + height / 2) / self.height,
            "yanchor": "middle",
            "ypad": 0,
            "lenmode": "pixels",
            "len": height,
            "thickness": BAR,
            "outlinewidth": 0,
            "nticks": 6,
            "tickfont": {"size": 11, "color": QUIET},
            "title": {"text": title, "side": "right", "font": {"size": 12}},
        }

    def legend(self, entries: Sequence[str], y: float) -> dict[str, Any]:
        """A legend in lines from the left edge, its top at `y`; `legend_height` gives its height."""
        width, _ = _legend(entries, self.width)
        return {
            "orientation": "h",
            "x": (EDGE - 4) / self.width,
            "xanchor": "left",
            "y": 1 - y / self.height,
            "yanchor": "top",
            "entrywidth": width - SYMBOL,
            "entrywidthmode": "pixels",
            "font": {"size": 12.5},
            "tracegroupgap": 0,
        }


SYMBOL = 45  # pixels that Plotly takes in a legend for a symbol and the space around it


def legend_height(entries: Sequence[str], width: float) -> int:
    """Pixels a `Canvas.legend` of these entries takes on a figure `width` wide."""
    _, in_line = _legend(entries, width)
    return 8 + 19 * -(-len(entries) // in_line)


def _legend(entries: Sequence[str], width: float) -> tuple[int, int]:
    """Width of an entry with its symbol, and number of entries in a line."""
    needed = max((text_width(entry, 12.5) for entry in entries), default=0) + 8 + SYMBOL
    in_line = max(int((width - 2 * EDGE) // needed), 1)
    # Plotly breaks lines where one more entry would leave the figure, not counting the edge: no further entry must fit
    return max(int(needed), int(width // (in_line + 1)) + 1), in_line


def text_width(text: str, size: float = 13) -> float:
    """Pixels a text takes, about (of several lines the longest); a little more rather than less."""
    lines = [html.unescape(re.sub(r"<[^>]*>", "", line)) for line in text.split("<br>")]
    return max(sum(map(_em, line)) for line in lines) * size * 1.05


def _em(character: str) -> float:
    """Width of a character in a sans-serif face like ours, in units of the font's size."""
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in "ijltfrI .,:;!|'()[]·":
        return 0.3
    return 0.88 if character in "mwMW%@—…→□○" else 0.7 if character.isupper() else 0.56


def wrapped(parts: Iterable[str], width: float, size: float = 13) -> tuple[str, int]:
    """The parts in as many lines as they need on `width` pixels, dots between them, and the number of lines.

    A part moves to the next line as a whole; one that is longer than a line is broken between words.
    """
    lines: list[str] = []
    for part in filter(None, parts):
        longer = f"{lines[-1]} · {part}" if lines else part
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for word in part.split(" "):
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if lines[-1] and text_width(longer, size) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return "<br>".join(lines), len(lines)


def axis(letter: str, index: int) -> str:
    """The name by which a trace refers to an axis: "x", "x2", ..."""
    return letter if index == 0 else f"{letter}{index + 1}"


def in_layout(name: str) -> str:
    """The name an axis has in the layout: "x2" -> "xaxis2"."""
    return f"{name[0]}axis{name[1:]}"


def layer_ticks(layers: Sequence[int], room: int = 12) -> list[int]:
    """The labelled ones of `layers`: every one, second, fifth, ..., about `room` of them at most."""
    every = next(s for s in (1, 2, 5, 10, 20) if len(layers) <= room * s or s == 20)
    return [layer for layer in layers if layer % every == 0] or [layers[0]]


def see_through(color: str, opacity: float) -> str:
    """A colour "#rrggbb" as the rgba that Plotly takes for areas."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def small(text: str) -> str:
    """A quiet line of a heading."""
    return f'<span style="color:{QUIET};font-size:12px">{text}</span>'
