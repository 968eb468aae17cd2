"""Effects of a state without the MLPs, or without attention: Meng et al. 2022 (ROME), figure 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import OutOfRange, SeveredFigureError
from tracer.tracing.metrics import trace_metric

from .average_plan import counted, percent
from .fit import Arrangement, arrange, headline_on, tick_room, widths
from .labels import estimate, measure, model_label, token_label
from .style import AXIS, EDGE, LINE, SMALL, VALUES, Canvas, layer_ticks, legend_height, wrapped

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tracer.tracing.average_trace import AverageTrace
    from tracer.tracing.trace import CausalTrace

    Result = CausalTrace | AverageTrace

# in the order of the bars; violet for the whole effect, the colours of the modules for effects without them
BARS = {
    None: ("effect of the single state", "#6a51a3"),
    "mlp": ("with MLP severed", "#4aa564"),
    "attn": ("with attention severed", "#dd5a48"),
}
LAST_SUBJECT = "last subject token"
LEFT, PANEL, BOTTOM, RIGHT = 78, 250, 60, 26
NARROWEST = 560  # for the title


def plot_severed(
    results: Sequence[CausalTrace] | Sequence[AverageTrace],
    token: int | str | None = None,
    width: int | None = None,
) -> go.Figure:
    """Effects of restoring a hidden state per layer, whole and with the MLPs or the attentions severed, as bars.

    Args:
        results: the ordinary trace and one or both severed ones, in any order: of one prompt, or averages over the same
            facts (then with whiskers, the intervals).
        token: whose state is restored; by default the subject's last token. Of averages, the name of a class; of traces
            of one prompt an index of a token, negative from the end, or the name of a class with one token ("first
            subject token", "last subject token", "first subsequent token", "last token").
        width: pixels the figure may take, as for [`tracer.plot_trace`][].

    Raises:
        TracerError: results that do not belong together (other prompts, models, metrics, layers), the ordinary or any
            severed one missing or one given twice, or a token that was not traced.
    """
    import plotly.graph_objects as go

    by_sever = _sorted(results)
    first = by_sever[None]
    average = hasattr(first, "classes")
    rows = {sever: _row(each, token) for sever, each in by_sever.items()}
    figure = go.Figure()
    for sever, (effect, low, high) in rows.items():
        name, color = BARS[sever]
        notes = [""] * len(effect)
        if average:
            interval = f"<br>{percent(first.confidence)} interval"
            notes = [f"{interval} {a:+.4f} to {b:+.4f}" for a, b in zip(low, high, strict=True)]
        figure.add_trace(
            go.Bar(
                x=first.layers,
                y=effect,
                error_y={
                    "array": high - effect,
                    "arrayminus": effect - low,
                    "visible": average,
                    "color": "#4a4a55",
                    "thickness": 1,
                    "width": 2,
                },
                customdata=notes,
                hovertemplate=f"<b>layer %{{x}}</b>, {name}<br>effect %{{y:+.4f}}%{{customdata}}<extra></extra>",
                marker={"color": color, "line": {"width": 0}},
                name=name,
            )
        )
    n_layers = max(first.layers) - min(first.layers) + 1
    best = LEFT + min(max(n_layers * (10 * len(rows) + 8), 600), 1080) + RIGHT
    fitting = dict.fromkeys(max(min(each, best), NARROWEST) for each in widths(width))
    return arrange(figure, [_arrangement(by_sever, token, each) for each in fitting])


def _arrangement(by_sever: dict[str | None, Any], token: int | str | None, width: int) -> Arrangement:
    """Titles, legend and axes of a figure `width` wide."""
    first = by_sever[None]
    average = hasattr(first, "classes")
    layers = list(range(min(first.layers), max(first.layers) + 1))
    panel = width - LEFT - RIGHT
    if average:
        title = f"What severed paths leave of the effect, over {counted(first)}"
    else:
        title = headline_on(width - 2 * EDGE, first.prompt, first.answer)
    subtitle, lines = wrapped(_subtitle(by_sever, token), width - 2 * EDGE)
    entries = [BARS[sever][0] for sever in by_sever]
    legend_top = 76 + LINE * (lines - 1)
    top = legend_top + legend_height(entries, width) + 12
    canvas = Canvas(width, top + PANEL + BOTTOM)
    x_domain, y_domain = canvas.domain(LEFT, top, panel, PANEL)
    bars = {"barmode": "group", "bargap": 0.28, "bargroupgap": 0.0}
    x_axis = {
        **AXIS,
        "domain": x_domain,
        "range": [layers[0] - 0.6, layers[-1] + 0.6],
        "tickvals": layer_ticks(layers, min(tick_room(layers, panel), 26)),
        "tickfont": SMALL,
        "title": {
            "text": f"layer of {model_label(first.model)} at which the single hidden state is restored",
            "font": {"size": 12.5},
            "standoff": 8,
        },
    }
    y_axis = {
        **VALUES,
        "domain": y_domain,
        "nticks": 7,
        "tickfont": SMALL,
        "title": {"text": "average indirect effect" if average else "indirect effect", "font": {"size": 12.5}},
    }
    legend = {"showlegend": True, "legend": canvas.legend(entries, legend_top)}
    return Arrangement(canvas.layout(title, subtitle, xaxis=x_axis, yaxis=y_axis, **bars, **legend))


def _sorted(results: Any) -> dict[str | None, Any]:
    """The results by what was severed, in the order of the bars; checked to belong together."""
    listed: list[Any] = list(results) if isinstance(results, Sequence) else [results]
    for each in listed:
        if not hasattr(each, "sever") or not hasattr(each, "effect"):
            raise SeveredFigureError(f"plot_severed expected CausalTraces or AverageTraces, got {type(each).__name__}")
        if each.sever not in BARS:
            raise SeveredFigureError(f"a result has sever={each.sever!r}; expected None, 'mlp' or 'attn'")
    severed = [each.sever for each in listed]
    if len(set(severed)) < len(severed):
        twice = next(s for s in BARS if severed.count(s) > 1)
        raise SeveredFigureError(f"plot_severed got two results with sever={twice!r}; pass one of each")
    if None not in severed or len(severed) < 2:
        raise SeveredFigureError(
            "plot_severed compares an ordinary result (sever=None) with severed ones (sever='mlp', 'attn'); got "
            f"{', '.join(map(repr, severed)) or 'nothing'}; trace once more with what is missing"
        )
    same = ("kind", "metric", "method", "model", "fingerprint", "layers", "prompt", "subject", "answer", "foil")
    same += ("facts", "subjects", "corruption")
    for name in same:
        found = [getattr(each, name, None) for each in listed]
        if any(value != found[0] for value in found):
            shown = " and ".join(dict.fromkeys(repr(value) for value in found))
            raise SeveredFigureError(
                f"plot_severed compares results that differ in sever alone; their {name} are {shown}"
            )
    if len({hasattr(each, "classes") for each in listed}) > 1:
        raise SeveredFigureError("plot_severed got traces of one prompt together with averages; pass either")
    return {sever: listed[severed.index(sever)] for sever in BARS if sever in severed}


def _row(result: Any, token: int | str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effect, low and high of one row, [layers] each; of a single trace all three are the effect."""
    if hasattr(result, "classes"):
        name = LAST_SUBJECT if token is None else token
        if name not in result.classes:
            raise SeveredFigureError(
                f"token={name!r} is no class of tokens; expected one of {', '.join(result.classes)}"
            )
        row = result.classes.index(name)
        effect, low, high = (np.asarray(each, float)[row] for each in (result.effect, result.low, result.high))
        if not np.isfinite(effect).any():
            raise SeveredFigureError(f"no token belongs to the class {name!r} in these averages; choose another token")
        return effect, low, high
    position = _position(result, token)
    if position not in result.positions:
        raise OutOfRange(f"token {position} was not traced; expected one of {list(result.positions)}")
    effect = np.asarray(result.effect, float)[result.positions.index(position)]
    return effect, effect, effect


def _position(trace: CausalTrace, token: int | str | None) -> int:
    """The index of the token whose state is restored."""
    start, end = trace.subject_range
    if isinstance(token, int) and not isinstance(token, bool):
        return token + len(trace.tokens) if token < 0 else token
    known = {"first subject token": start, LAST_SUBJECT: end - 1, "first subsequent token": end}
    known["last token"] = len(trace.tokens) - 1
    if token is not None and token not in known:
        raise SeveredFigureError(
            f"token={token!r} is no token of one prompt; expected an index or one of {', '.join(known)}"
        )
    return known[LAST_SUBJECT if token is None else token]


def _subtitle(by_sever: dict[str | None, Any], token: int | str | None) -> list[str]:
    first = by_sever[None]
    parts = [] if first.method == "exact" else [estimate(first.method)]
    if hasattr(first, "classes"):
        name = LAST_SUBJECT if token is None else str(token)
        whiskers = f"whiskers: {percent(first.confidence)} intervals"
        return [f"{token_label(trace_metric(first.metric).label)}, state of the {name}", *parts, whiskers]
    position = _position(first, token)
    runs = f"{measure(first)} is {first.clean:.3f} in the clean run, {first.corrupted:.3f} in the corrupted one"
    return [f"state of “{token_label(first.tokens[position])}” (token {position})", runs, *parts]
