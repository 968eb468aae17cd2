"""Figures of layers to edit: the numbers of every panel, what is marked, and nothing on top of anything else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from drawn import HOSTILE, axis, check_no_markup, check_places, drawn, headings, layout, panels, plain
from handmade_located import located
from synthetic import synthetic_trace

from editing.plots import plot_locate
from editing.questions.measures import SCORED
from tracer import TracerError


def test_effects_and_attributions_are_bars() -> None:
    results = [located("trace"), located("neurons"), located("change")]
    figure = plot_locate(results)
    for bar, each, name in zip(drawn(figure, "bar"), results, ("effect", "mass", "ease"), strict=True):
        mean, low, high = each.mean(name)
        np.testing.assert_allclose(bar.y, mean)
        assert list(bar.x) == list(range(8))
        np.testing.assert_allclose(bar.error_y.array, high - mean)
        np.testing.assert_allclose(bar.error_y.arrayminus, mean - low)
        assert bar.error_y.visible
        inside = [layer in each.window for layer in range(8)]
        assert len(set(bar.marker.color)) == 2
        assert [color == bar.marker.color[each.layers[0]] for color in bar.marker.color] == inside
        assert f"95 % interval {low[2]:+.4f} to {high[2]:+.4f}" in bar.customdata[2]
    assert "neurons per fact above 20 % of the highest" in drawn(figure, "bar")[1].customdata[0]
    assert "ROME changes the weight by" in drawn(figure, "bar")[2].customdata[0]
    assert not layout(figure).showlegend
    check_places(figure)


def test_success_of_edits_is_three_lines_beside_the_unedited() -> None:
    found = located("sweep", generalisation=[[1, 0.5, 0, 0, 0, 0, 0, 0]] * 3)
    figure = plot_locate(found)
    lines = {each.name: each for each in drawn(figure, "scatter") if each.customdata is not None}
    assert list(lines) == list(SCORED.values())
    for name, line in lines.items():
        np.testing.assert_allclose(line.y, found.mean(name)[0])
        before = [each for each in drawn(figure, "scatter", name="unedited") if each.line.color.startswith("rgba")]
        assert sorted(each.y[0] for each in before) == pytest.approx([0, 0.05, 0.98])
    assert "unedited 5.0%" in lines["generalisation"].customdata[0]
    named = [each.name for each in figure.data if each.showlegend]  # type: ignore[attr-defined]
    assert sorted(named) == sorted([*SCORED.values(), "unedited"])  # each once
    ranks = {each.name: each.legendrank for each in drawn(figure, "scatter") if each.showlegend}
    assert sorted(ranks, key=ranks.__getitem__) == [*SCORED.values(), "unedited"]
    check_places(figure)
    nothing = np.full((4, 8), np.nan)
    several = [located("sweep", reliability=nothing, generalisation=np.eye(4, 8), unedited={}), found, found]
    named = [each.name for each in plot_locate(several).data if each.showlegend]  # type: ignore[attr-defined]
    assert sorted(named) == sorted([*SCORED.values(), "unedited"])  # each once, wherever it comes first


def test_what_was_not_measured_is_left_out() -> None:
    nothing = np.full((4, 8), np.nan)
    figure = plot_locate(
        located("sweep", reliability=np.eye(4, 8), generalisation=nothing, locality=nothing, unedited={})
    )
    assert [each.name for each in drawn(figure, "scatter") if each.customdata is not None] == ["reliability"]
    effect = np.array([[np.nan, 0.1, np.nan, 0.2]])
    bar = drawn(plot_locate(located("trace", n_layers=4, effect=effect)), "bar")[0]
    assert (list(bar.x), list(bar.y)) == ([1, 3], [0.1, 0.2])


def test_the_window_and_the_best_layer_are_marked() -> None:
    found = located("trace", effect=[[0, 0, 0.1, 0.45, 0.5, 0.48, 0, 0]])
    figure = plot_locate([located("neurons"), found])
    shade, line = layout(figure).shapes[2:]
    assert (shade.x0, shade.x1, shade.xref, shade.yref) == (2.5, 5.5, "x2", "y2 domain")
    assert (line.x0, line.x1, line.line.dash) == (4, 4, "dot")
    assert "Trace: layers 3 to 5 , best 4" in headings(figure)[1]
    assert "Neurons: layer 2" in headings(figure)[0]


def test_rank_correlations_and_the_caption_are_shown() -> None:
    rising, falling = np.arange(8.0)[None], np.arange(8.0)[None, ::-1] / 8
    several = [
        located("trace", effect=rising),
        located("sweep", reliability=falling),
        located("neurons", mass=rising * 0),
    ]
    subtitle = plain(layout(plot_locate(several)).title.subtitle.text)
    assert "trace and sweep of rome −1.00" in subtitle
    assert "trace and neurons not defined: one is flat" in subtitle
    assert "Hase et al. 2023" in headings(plot_locate(several[0]))[-1]
    assert "rank correlation" not in plain(layout(plot_locate(several[0])).title.subtitle.text)


def test_one_fact_is_named_and_several_are_counted() -> None:
    figure = plot_locate([located("trace", facts=1), located("sweep", facts=1)])
    assert "Landmark 0 is in" in layout(figure).title.text
    assert "Seattle" in layout(figure).title.text
    assert not drawn(figure, "bar")[0].error_y.visible
    assert "interval" not in str(drawn(figure, "bar")[0].customdata)
    figure = plot_locate([located("trace", facts=3), located("sweep", facts=5)])
    assert "5 facts" in layout(figure).title.text
    assert "3 facts" in headings(figure)[0]


@pytest.mark.parametrize("n_layers", [1, 4, 8, 24, 48, 96])
@pytest.mark.parametrize("kinds", [["sweep"], ["trace", "neurons", "change", "sweep"], ["trace", "sweep", "sweep"]])
def test_nothing_overlaps(n_layers: int, kinds: list[str]) -> None:
    figure = plot_locate([located(using, n_layers) for using in kinds])
    check_places(figure)
    for index in range(len(kinds)):
        low, high = axis(figure, "x", index).range
        assert low <= -0.5
        assert high >= n_layers - 0.5
        assert axis(figure, "x", index).showticklabels == (index == len(kinds) - 1)
    places = panels(figure)
    for above, below in pairwise(places):
        assert below[2] - above[3] > 50  # two lines of heading between
    texts = layout(figure).annotations
    bottom = min(axis(figure, "y", index).domain[0] for index in range(len(kinds)))
    assert texts[-1].y < bottom  # the caption is below the panels


def test_no_text_of_the_user_is_markup() -> None:
    settings = {"method": HOSTILE, "by": HOSTILE, "metric": HOSTILE}
    own = {"model": HOSTILE, "prompts": (HOSTILE,), "answers": (HOSTILE,), "settings": settings}
    check_no_markup(plot_locate([located("trace", facts=1, **own), located("sweep", facts=1, **own)]))


def test_refusals() -> None:
    with pytest.raises(TracerError, match="empty list"):
        plot_locate([])
    with pytest.raises(TracerError, match="got CausalTrace"):
        plot_locate([located("trace"), synthetic_trace()])  # type: ignore[list-item]
    with pytest.raises(TracerError, match="different models"):
        plot_locate([located("trace"), located("sweep", fingerprint="1" * 64)])
