"""Texts and layout of a figure of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from editing.layers.located import USING, Located
from tracer.plots.labels import escape, headline, model_label
from tracer.plots.style import EDGE, LINE, Canvas, legend_height, small, wrapped
from tracer.tracing.metrics import trace_metric

LEFT, PANEL, HEADING, BETWEEN, BOTTOM, RIGHT = 78, 180, 44, 24, 58, 26
CAPTION = (
    "Shaded: the layers suggested; dotted: the best of them.",
    "Where a fact is recalled and where an edit of it works best are known to disagree (Hase et al. 2023, “Does "
    "Localization Inform Editing?”); rank correlations are as measured here.",
)


@dataclass(frozen=True)
class Plan:
    """Texts and layout, in pixels from the top left corner."""

    title: str
    subtitle: str
    headings: list[str]
    entries: list[str]
    caption: str
    layers: range
    legend_top: int
    top: int
    canvas: Canvas

    @classmethod
    def of(cls, several: Sequence[Located]) -> Plan:
        """The plan of some results."""
        layers = range(several[0].n_layers)
        width = LEFT + min(max(26 * len(layers), 620), 1080) + RIGHT
        room = width - 2 * EDGE
        subtitle, lines = wrapped(_correlations(several), room)
        caption, caption_lines = wrapped(CAPTION, room, 12)
        entries = [*USING["sweep"], "unedited"] if any(each.using == "sweep" for each in several) else []
        legend_top = 76 + LINE * (lines - 1)
        top = legend_top + (legend_height(entries, width) + 10 if entries else 0) + HEADING
        height = top + len(several) * PANEL + (len(several) - 1) * (BETWEEN + HEADING) + BOTTOM
        return cls(
            _title(several),
            subtitle,
            [_heading(each) for each in several],
            entries,
            caption,
            layers,
            legend_top,
            top,
            Canvas(width, height + caption_lines * LINE + 14),
        )

    def y(self, index: int) -> int:
        """The top of a panel."""
        return self.top + index * (PANEL + BETWEEN + HEADING)


# --- texts -----------------------------------------------------------------------------------------------------------
def _title(several: Sequence[Located]) -> str:
    first = several[0]
    if {each.prompts for each in several} == {first.prompts[:1]}:
        return headline(first.prompts[0], first.answers[0], 62)
    most = max(len(each.prompts) for each in several)
    facts, are = (f"{most:,} facts", "are") if most > 1 else ("one fact", "is")
    kinds = {each.using in ("sweep", "change") for each in several}
    if len(kinds) > 1:
        return f"Where {facts} {are} recalled, and where edits work"
    return f"Where edits of {facts} work" if kinds == {True} else f"Where {facts} {are} recalled"


def _correlations(several: Sequence[Located]) -> list[str]:
    pairs = [(a, b, a.rank_correlation(b)) for a, b in combinations(several, 2)]
    shown = [
        f"{_name(a)} and {_name(b)} "
        + ("not defined: one is flat" if np.isnan(value) else f"{value:+.2f}".replace("-", "−"))
        for a, b, value in pairs
    ]
    if not shown:
        return [f"model {model_label(several[0].model)}"]
    return [f"rank correlation over layers: {shown[0]}", *shown[1:]]


def _name(each: Located) -> str:
    return f"sweep of {escape(str(each.settings.get('method', 'edits')))}" if each.using == "sweep" else each.using


def _heading(each: Located) -> str:
    settings = each.settings
    if each.using == "trace":
        window = settings.get("window", 1)
        restored = "one MLP" if window == 1 else f"{window} MLPs around the layer"
        what, how = "Trace", f"{restored} restored at the subject's last token"
        if settings.get("metric", "prob") != "prob":
            how += f", {escape(trace_metric(str(settings['metric'])).label)}"
    elif each.using == "neurons":
        what, how = "Neurons", "attribution at the subject's last token, summed over the layer"
    elif each.using == "change":
        what, how = "Change", "the weight's norm over that of ROME's change, where the edit works"
    else:
        by = {"preferred": "new against true target", "greedy": "greedy decoding"}.get(settings.get("by", ""), "")
        what, how = "Edits", f"{escape(str(settings.get('method', '')))} at one layer, scored by {by}"
    low, high = each.window[0], each.window[-1]
    window = (
        f"<b>{what}: layers {low} to {high}</b>, best {each.layers[0]}" if high > low else f"<b>{what}: layer {low}</b>"
    )
    facts = f"{len(each.prompts):,} {'fact' if len(each.prompts) == 1 else 'facts'}"
    return f"{window}<br>{small(f'{how} · {facts}')}"
