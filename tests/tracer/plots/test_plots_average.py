"""Averages over facts: lines, bands and heat maps hold the numbers of the result, at their class and layer."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from drawn import HOSTILE, axis, check_no_markup, check_places, drawn, headings, layout, panels
from synthetic import synthetic_average

from tracer.errors import TracerError
from tracer.plots import plot_average
from tracer.plots.average_plan import LINES
from tracer.tracing.average_trace import CLASSES

KINDS = ("hidden", "mlp", "attn")


def lines(figure: go.Figure) -> dict[str, Any]:
    """The lines of the first column by their names."""
    return {each.name: each for each in drawn(figure, "scatter", xaxis="x") if each.hovertemplate}


def bands(figure: go.Figure) -> dict[str, Any]:
    return {each.legendgroup: each for each in drawn(figure, "scatter", xaxis="x", fill="toself")}


def test_lines_and_bands_are_effects_and_intervals() -> None:
    average = synthetic_average()
    figure = plot_average(average)
    assert list(LINES) == list(CLASSES)
    for row, name in enumerate(CLASSES):
        line, band = lines(figure)[name], bands(figure)[name]
        np.testing.assert_array_equal(line.x, average.layers)
        np.testing.assert_array_equal(line.y, average.effect[row])
        np.testing.assert_array_equal(line.customdata, np.stack([average.low[row], average.high[row]], -1))
        np.testing.assert_array_equal(band.y[:8], average.high[row])
        np.testing.assert_array_equal(band.y[8:], average.low[row, ::-1])
        np.testing.assert_array_equal(band.x, [*average.layers, *average.layers[::-1]])
        assert list(line.meta) == [name, average.tokens[row], "95 %"]
    bottom, top = axis(figure, "y", 0).range
    assert bottom < average.low.min() < 0  # what lies below zero is seen
    assert top > average.high.max()


def test_heat_map_begins_at_zero() -> None:
    average = synthetic_average("mlp")
    (heat,) = drawn(plot_average(average), "heatmap")
    np.testing.assert_array_equal(heat.z, average.effect)
    assert (heat.zmin, heat.zmax, heat.reversescale) == (0, average.effect.max(), False)
    assert heat.colorscale[-1][1] == "rgb(0,68,27)"
    name, text = heat.customdata[2][3]
    assert name == "last subject token"
    assert text == "95 % interval +0.3600 to +0.4400<br>97 tokens pooled"
    figure = layout(plot_average(average))
    assert figure.yaxis2.range == (5.5, -0.5)  # the first class on top
    assert [label.replace("<b>", "").replace("</b>", "") for label in figure.yaxis2.ticktext] == list(CLASSES)
    assert figure.xaxis2.title.text == "centre of interval of 3 restored MLP layers"


def test_title_and_subtitle_tell_what_was_averaged() -> None:
    title = layout(plot_average(synthetic_average())).title
    assert title.text == "Average indirect effect over 97 facts about 80 subjects"
    for part in ("probability of the answer", "0.700 [0.650, 0.740]", "3 prompts skipped as unknown", "95 % intervals"):
        assert part in title.subtitle.text.replace("<br>", " ")
    one = layout(plot_average(synthetic_average(facts=1, subjects=1, unknown=()))).title
    assert one.text.endswith("over 1 fact about 1 subject")
    assert "skipped" not in one.subtitle.text


def test_three_kinds_share_scales_and_one_legend() -> None:
    effect = synthetic_average().effect
    averages = [synthetic_average(kind, effect=effect * f) for kind, f in zip(KINDS, (1, 2, 0.5), strict=True)]
    figure = plot_average(averages)
    check_places(figure)
    heats = drawn(figure, "heatmap")
    assert {(heat.zmin, heat.zmax) for heat in heats} == {(0, 1.0)}
    assert len({heat.colorscale[-1][1] for heat in heats}) == 3
    assert {axis(figure, "y", i).range for i in (0, 2, 4)} == {axis(figure, "y", 0).range}
    assert [axis(figure, "y", i).matches for i in (0, 2, 4)] == [None, "y", "y"]
    shown = [each.name for each in drawn(figure, "scatter") if each.showlegend]
    assert sorted(shown) == sorted(CLASSES)
    tops = {top for _, _, top, _ in panels(figure)}
    assert len(tops) == 2  # lines above, heat maps below
    assert headings(figure)[0].strip() == "Restoring the hidden state"


def test_a_class_has_its_own_colour_everywhere() -> None:
    figure = plot_average([synthetic_average(kind) for kind in KINDS])
    colors: dict[str, set[str]] = {}
    for each in drawn(figure, "scatter"):
        if each.hovertemplate:
            colors.setdefault(each.name, set()).add(each.line.color)
    assert all(len(found) == 1 for found in colors.values())
    assert len(set.union(*colors.values())) == 6
    widths = {name: line.line.width for name, line in lines(figure).items()}
    strong = {"last subject token", "last token"}
    assert min(widths[name] for name in strong) > max(w for name, w in widths.items() if name not in strong)


# how the linear RGB of a screen is seen without one kind of cones (Viénot, Brettel and Mollon 1999)
BLIND = {
    "red": [[0.1124, 0.8876, 0.0], [0.1124, 0.8876, 0.0], [0.004, -0.004, 1.0]],
    "green": [[0.2927, 0.7073, 0.0], [0.2927, 0.7073, 0.0], [-0.0223, 0.0223, 1.0]],
    "none": np.eye(3).tolist(),
}


@pytest.mark.parametrize("kind", BLIND)
def test_colours_can_be_told_apart(kind: str) -> None:
    seen = {}
    for name, line in LINES.items():
        screen = np.array([int(line.color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.clip(np.array(BLIND[kind]) @ screen**2.2, 0, 1)
        x, y, z = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
        a, b, c = np.cbrt([x / 0.9505, y, z / 1.089])
        seen[name] = np.array([116 * b - 16, 500 * (a - b), 200 * (b - c)])  # CIE L*a*b*
    for one, other in combinations(LINES, 2):
        distance = np.linalg.norm(seen[one] - seen[other])
        same_dash = LINES[one].dash == LINES[other].dash
        assert distance > (18 if same_dash else 8), (one, other, distance)


def test_a_class_without_tokens_is_blank_and_not_in_the_legend() -> None:
    effect = synthetic_average().effect.copy()
    effect[1] = np.nan
    figure = plot_average(synthetic_average(effect=effect))
    assert "middle subject tokens" not in lines(figure)
    assert "middle subject tokens" not in bands(figure)
    (heat,) = drawn(figure, "heatmap")
    assert np.isnan(np.asarray(heat.z)[1]).all()
    assert np.isfinite(axis(figure, "y", 0).range).all()
    empty = plot_average(synthetic_average(effect=np.full((6, 8), np.nan)))
    assert not layout(empty).showlegend
    check_places(empty)


def test_without_intervals_there_are_no_bands() -> None:
    missing = np.full((6, 8), np.nan)
    figure = plot_average(synthetic_average(low=missing, high=missing))
    assert bands(figure) == {}
    assert len(lines(figure)) == 6


def test_a_distance_falls_where_restoring_helps() -> None:
    effect = -5 * synthetic_average().effect
    average = synthetic_average(effect=effect, metric="kl", total_effect=-3.0, total_low=-3.4, total_high=-2.8)
    figure = plot_average([average, synthetic_average()])
    heat, other = drawn(figure, "heatmap")
    assert (heat.zmin, heat.zmax, heat.reversescale) == (effect.min(), 0, True)
    assert (other.zmin, other.reversescale) == (0, False)
    assert axis(figure, "y", 2).matches is None  # another metric, another scale
    assert axis(figure, "y", 2).showticklabels
    assert "KL divergence" in headings(figure)[0]
    assert "probability of the answer" in headings(figure)[1]


def test_selected_layers_leave_gaps_and_one_layer_has_whiskers() -> None:
    figure = plot_average(synthetic_average(layers=(1, 3, 4)))
    (heat,) = drawn(figure, "heatmap")
    assert list(heat.x) == [1, 2, 3, 4]
    assert np.isnan(np.asarray(heat.z)[:, 1]).all()
    single = lines(plot_average(synthetic_average(layers=(3,))))["last token"]
    assert single.error_y.visible
    np.testing.assert_allclose([single.error_y.array[0], single.error_y.arrayminus[0]], 0.04)


def test_different_samples_and_severed_paths_are_named() -> None:
    several = [
        synthetic_average(),
        synthetic_average(facts=12, subjects=1, sever="mlp"),
        synthetic_average("mlp", method="attribution", model="some/other"),
        synthetic_average("attn", layers=tuple(range(48)), method="integrated", sever="attn"),
    ]
    figure = plot_average(several)
    check_places(figure)
    texts = headings(figure)
    assert "97 facts about 80 subjects" in texts[0]
    assert "12 facts about 1 subject" in texts[1]
    assert "with MLP severed" in texts[1]
    assert "other" in texts[2]
    assert "gradient estimate" in texts[2]
    assert "with attention severed · gradient estimate, integrated" in texts[3]


@pytest.mark.parametrize("n_layers", [1, 2, 12, 48, 100])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_nothing_overlaps(n_layers: int, count: int) -> None:
    check_places(plot_average([synthetic_average(layers=tuple(range(n_layers))) for _ in range(count)]))


def test_no_text_of_the_user_is_markup() -> None:
    names = (HOSTILE, *CLASSES[1:])
    check_no_markup(plot_average(synthetic_average(model=HOSTILE, classes=names)))
    check_no_markup(plot_average([synthetic_average(model=HOSTILE), synthetic_average(metric=HOSTILE)]))


@pytest.mark.parametrize("wrong", [[], "text", 3, [None]])
def test_what_is_no_average_is_refused(wrong: Any) -> None:
    with pytest.raises(TracerError, match="AverageTrace"):
        plot_average(wrong)
