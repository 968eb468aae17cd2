"""A map of a memory: its keys with their radii, and the questions that were asked, seen from where they differ most."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from editing.memories.memory import Memory
from editing.questions.asked import Aligned, asked_in_tokens
from editing.questions.probes import Probes
from editing.questions.question import GROUPS, Question
from editing.questions.routing import routes_of
from tracer.engine.frame import evaluating
from tracer.engine.memories import resting
from tracer.errors import NothingToDraw
from tracer.plots.labels import escape
from tracer.plots.style import EDGE, INK, LINE, QUIET, SMALL, VALUES, Canvas, legend_height, wrapped

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tracer.model import Model

WIDTH, SIDE, LEFT, BOTTOM = 760, 560, 66, 54
KEYS = "keys"
COLOURS = ("#c4552d", "#e0a03a", "#3b6ea5", "#7a5ea8", "#3f8f5f", "#8a8a95")


def plot_memory(model: Model, name: str, questions: Probes | Iterable[Question] = ()) -> go.Figure:
    """Keys of a memory, circles of their radii, and questions by kind: filled where an entry acts.

    The plane is that of the two directions in which keys and questions differ most. A distance in it is never longer
    than the true one, so that a question may lie in a circle and be outside the radius; hovering tells the distance.

    Args:
        model: that has the memory.
        name: of the memory.
        questions: those shown beside the keys.

    Raises:
        TracerError: the model has no such memory, or one whose prompts are not compared as vectors; it is empty.
    """
    import plotly.graph_objects as go

    memory = next((each for each in model.memories if each.name == name), None)
    if not isinstance(memory, Memory):
        known = ", ".join(repr(each.name) for each in model.memories) or "none"
        raise NothingToDraw(f"{model.name} has no memory {name!r} to draw; it has {known}")
    keys = memory.acts.keys(memory)
    if keys is None or not len(keys):
        reason = "is empty" if keys is not None else f"is of the kind {memory.kind}, which compares no vectors"
        raise NothingToDraw(f"the memory {name!r} {reason}, so that there is no map of it")
    probes = questions if isinstance(questions, Probes) else Probes(tuple(questions))
    aligned = Aligned(model)
    prompts = [asked_in_tokens(aligned, one).prompt[0] for one in probes.questions]
    routes = [next(each for each in some if each.memory == name) for some in routes_of(model, prompts)]
    points = keys.float()
    if prompts:
        with resting(model), torch.no_grad(), evaluating(model):
            points = torch.cat([points, memory.acts.queries(memory, model, prompts).float().cpu()])
    flat = flattened(points.double().numpy())
    own, asked = flat[: len(keys)], flat[len(keys) :]
    entries = memory.acts.entries(memory)
    radii = [float(entry.get("radius", float("nan"))) for entry in entries]

    figure = go.Figure()
    for (x, y), radius in zip(own, radii, strict=True):
        if np.isfinite(radius) and radius > 0:
            place = {"x0": x - radius, "x1": x + radius, "y0": y - radius, "y1": y + radius}
            line = {"color": QUIET, "width": 1, "dash": "dot"}
            figure.add_shape({**place, "type": "circle", "line": line, "layer": "below", "opacity": 0.6})
    told = [_told(place, entry) for place, entry in enumerate(entries)]
    figure.add_trace(_points(go, own, KEYS, INK, ["diamond"] * len(own), told))
    kinds = {one.kind: None for one in probes.questions}
    for number, kind in enumerate(kinds):
        places = [place for place, one in enumerate(probes.questions) if one.kind == kind]
        hover = [f"{escape(probes.questions[place].prompt)}<br>{escape(str(routes[place]))}" for place in places]
        symbols = ["circle" if routes[place].hit else "circle-open" for place in places]
        colour = COLOURS[number % len(COLOURS)]
        figure.add_trace(_points(go, asked[places], GROUPS[kind], colour, symbols, hover))

    hits = sum(route.hit for route in routes)
    notes = [f"{len(keys)} entries, {memory.nbytes / 1e3:.3g} kB", "dotted: radius"]
    notes += [f"{hits} of {len(routes)} questions hit", "open: no entry acts"] if routes else []
    subtitle, lines = wrapped(notes, WIDTH - 2 * EDGE)
    names = [KEYS, *(GROUPS[kind] for kind in kinds)]
    legend_top = 58 + LINE * lines
    top = legend_top + legend_height(names, WIDTH) + 10
    canvas = Canvas(WIDTH, top + SIDE + BOTTOM)
    x_domain, y_domain = canvas.domain(LEFT, top, WIDTH - LEFT - 30, SIDE)
    common: dict[str, Any] = {**VALUES, "zeroline": False, "tickfont": SMALL}
    figure.update_xaxes({**common, "domain": x_domain})
    figure.update_yaxes({**common, "domain": y_domain, "scaleanchor": "x", "scaleratio": 1})
    more = {"showlegend": True, "legend": canvas.legend(names, legend_top)}
    title = f"Memory <b>{escape(name)}</b> of {escape(model.name)}"
    figure.update_layout(canvas.layout(title, subtitle, hovermode="closest", **more))
    return figure


def flattened(points: np.ndarray) -> np.ndarray:
    """Points [n, width] in the plane of their first two principal components, [n, 2]; distances never grow.

    Args:
        points: any number of them, from one on.
    """
    centred = points - points.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])  # whichever way a library turns them
    flat = centred @ (axes * signs[:, None]).T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))


def _points(go: Any, at: np.ndarray, name: str, colour: str, symbols: list[str], hover: list[str]) -> Any:
    return go.Scatter(
        x=at[:, 0],
        y=at[:, 1],
        mode="markers",
        name=name,
        marker={"color": colour, "symbol": symbols, "size": 9, "line": {"width": 1.5, "color": colour}},
        customdata=hover,
        hovertemplate="%{customdata}<extra>" + escape(name) + "</extra>",
    )


def _told(place: int, entry: dict[str, Any]) -> str:
    lines = [f"<b>entry {place}</b>", *(f"{escape(str(key))}: {escape(str(value))}" for key, value in entry.items())]
    return "<br>".join(lines)
