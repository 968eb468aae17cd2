"""Figures of evaluations: their numbers, what is left out, and nothing on top of anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn import HOSTILE, axis, check_no_markup, check_places, drawn, headings, layout, plain
from handmade_evaluation import evaluation, labels, row

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.summary import HARMONIC
from editing.plots.evaluation import HOWS, plot_evaluation
from editing.plots.health import plot_health
from editing.plots.radar import plot_radar
from editing.plots.retention import plot_retention
from tracer import TracerError
from tracer.plots.style import QUIET

WHOLE = evaluation()
PLOTS = (plot_evaluation, plot_radar, plot_retention, plot_health)


def traces(figure: Any) -> list[Any]:
    return list(figure.data)


def names(figure: Any) -> list[str]:
    """Of the rows of bars, from above."""
    return [plain(each).strip() for each in axis(figure, "y", 0).ticktext]


# --- bars ------------------------------------------------------------------------------------------------------------
def test_bars_are_the_summary() -> None:
    figure = plot_evaluation(WHOLE)
    summary, scores = WHOLE.summary(), WHOLE.score()
    assert headings(figure) == [f" {each} " for each in ("score S", *dict.fromkeys(_measures(summary)))]
    rows = names(figure)
    assert rows[:2] == ["unedited", "rome · single"]
    by_panel = {bar.xaxis: [each for each in drawn(figure, "bar") if each.xaxis == bar.xaxis] for bar in traces(figure)}
    for (column, bars), heading in zip(by_panel.items(), headings(figure), strict=True):
        assert len(bars) == (1 if column == "x" else 2)
        for bar, how in zip(bars, HOWS, strict=False):
            table = scores if column == "x" else summary[summary["metric"] == f"{heading.strip()} ({how})"]
            assert len(bar.x) == len(table)
            np.testing.assert_allclose(sorted(bar.x), sorted(table["mean"]))
            np.testing.assert_allclose(sorted(bar.x + bar.error_x.array), sorted(table["high"]))
            np.testing.assert_allclose(sorted(bar.x - bar.error_x.arrayminus), sorted(table["low"]))
    said = drawn(figure, "bar", xaxis="x2")[1]
    at = [round(y - HOWS["generated"][2]) for y in said.y]
    own = summary[(summary["metric"] == "reliability (generated)") & (summary["control"] == "random layer")]
    place = at.index(rows.index("rome · random layer · single"))
    assert said.x[place] == own["mean"].item()
    assert f"{100 * own['mean'].item():.1f} %" in said.customdata[place]
    check_places(figure)


def _measures(summary: Any) -> list[str]:
    return [name.partition(" (")[0] for name in summary["metric"] if name.endswith("(generated)")]


def test_what_is_compared_with_is_paler() -> None:
    bar = drawn(plot_evaluation(WHOLE), "bar", xaxis="x2")[0]
    pale = [color.startswith("rgba") for color in bar.marker.color]
    compared = [name == "unedited" or "random" in name for name in names(plot_evaluation(WHOLE))]
    assert pale == compared


def test_what_was_not_measured_has_no_bar() -> None:
    rome = labels("rome")
    figure = plot_evaluation(Evaluation.of(metrics=[row(rome, 0, "locality (forced)", 0.5)]))
    assert [list(bar.x) for bar in drawn(figure, "bar")] == [[0.5], []]
    assert headings(figure) == [" locality "]
    only_scores = plot_evaluation(Evaluation.of(metrics=[row(rome, 0, name, 1.0) for name in HARMONIC]))
    assert [list(bar.x) for bar in drawn(only_scores, "bar")] == [[1.0]]
    assert not layout(only_scores).showlegend
    check_places(only_scores)


# --- disc ------------------------------------------------------------------------------------------------------------
def test_the_disc_has_means_and_relative_fluency() -> None:
    figure = plot_radar(WHOLE)
    summary = WHOLE.summary(resamples=1)
    lines = {each.name: each for each in traces(figure)}
    assert list(lines) == ["unedited", "rome · single", "memit · single"]  # of the others too little was measured
    own = summary[(summary["method"] == "rome") & (summary["mode"] == "single") & (summary["control"] == "")]
    own = own.set_index("metric")["mean"]
    unedited = summary[summary["method"] == "unedited"].set_index("metric")["mean"]
    expected = [own[f"{each} (generated)"] for each in ("reliability", "generalisation", "locality", "portability")]
    expected += [own["fluency"] / unedited["fluency"], own["consistency"]]
    np.testing.assert_allclose(lines["rome · single"].r, [*expected, expected[0]])
    titles = ["reliability", "generalisation", "locality", "portability", "fluency,<br>of the unedited"]
    assert list(lines["unedited"].theta) == [*titles, "consistency,<br>cosine", "reliability"]
    assert lines["unedited"].r[4] == 1
    assert tuple(layout(figure).polar.radialaxis.range) == (0, 1)
    assert len(traces(plot_radar(WHOLE, by="forced", controls=True))) == 5


def test_gaps_and_the_rim_of_the_disc() -> None:
    rome = labels("rome")
    measured = ["reliability (generated)", "locality (generated)", "portability (generated)"]
    rows = [row(rome, 0, name, 0.5) for name in measured]
    rows += [row(labels("memit"), 0, name, 0.5) for name in (*measured, "generalisation (generated)")]
    figure = plot_radar(Evaluation.of(metrics=rows))
    assert [list(each.r) for each in traces(figure)] == [[0.5, None, 0.5, 0.5, 0.5], [0.5] * 5]
    rows += [row(rome, 0, "fluency", 9.0), row(labels("unedited"), 0, "fluency", 6.0)]
    line = next(each for each in traces(plot_radar(Evaluation.of(metrics=rows))) if each.name == "rome")
    assert line.r[4] == 1  # cut
    assert "9, 150.0 % of the unedited model's 6" in line.customdata[4]  # and said


# --- retention -------------------------------------------------------------------------------------------------------
def test_curves_and_maps_of_retention() -> None:
    figure = plot_retention(WHOLE)
    found = WHOLE.retention()
    lines = [each for each in drawn(figure, "scatter") if each.customdata is not None]
    assert [each.name for each in lines] == ["rome", "memit"]
    for line in lines:
        own = found.curve[found.curve["method"] == line.name]
        np.testing.assert_allclose(line.x, own["after"])
        np.testing.assert_allclose(line.y, own["mean"])
    last = found.curve[found.curve["method"] == "rome"].iloc[-1]
    assert f"after 12 edits: {100 * last['mean']:.1f} % [{100 * last['low']:.1f} %" in lines[0].customdata[-1]
    band = drawn(figure, "scatter", fill="toself")[0]
    assert (band.x[0], band.x[-1]) == (4, 4)  # no interval where one edit was all
    maps = drawn(figure, "heatmap")
    assert len(maps) == 2
    columns, rows = list(maps[0].x), list(maps[0].y)
    cells = found.matrix[found.matrix["method"] == "rome"]
    for position, after, mean in zip(cells["position"], cells["after"], cells["mean"], strict=True):
        assert maps[0].z[rows.index(str(position + 1))][columns.index(str(after))] == mean
    assert np.isnan(maps[0].z).sum() == len(rows) * len(columns) - len(cells)
    assert (layout(figure).coloraxis.cmin, layout(figure).coloraxis.cmax) == (0, 1)
    check_places(figure)
    check_places(plot_retention(WHOLE, maps=False))
    assert not drawn(plot_retention(WHOLE, maps=False), "heatmap")


@pytest.mark.parametrize("methods", [1, 3, 4, 12])
def test_maps_of_many_methods_stand_apart(methods: int) -> None:
    rows = [
        row(labels(f"method {k}", mode="sequential"), i, "edit norm", 7.0 + k, position=i, after=after)
        for k in range(methods)
        for after in range(1, 4)
        for i in range(after)
    ]
    figure = plot_retention(Evaluation.of(metrics=rows), "edit norm")
    assert len(drawn(figure, "heatmap")) == methods
    assert layout(figure).yaxis.tickformat is None  # no share
    check_places(figure)
    lines = [(each.line.color, each.line.dash) for each in drawn(figure, "scatter") if each.customdata is not None]
    assert len(set(lines[:10])) == min(methods, 10)


# --- health ----------------------------------------------------------------------------------------------------------
def test_health_has_limits_and_alarms() -> None:
    figure = plot_health(WHOLE)
    health = WHOLE.health
    for index, measure in enumerate(("norm growth", "perplexity")):
        rows = health[health["measure"] == measure]
        for line in drawn(figure, "scatter", yaxis="y2" if index else "y"):
            own = rows[rows["method"] == line.name]
            np.testing.assert_allclose(line.y, own["value"])
            assert [symbol == "x" for symbol in line.marker.symbol] == own["alarm"].astype(bool).tolist()
    assert [shape.y0 for shape in layout(figure).shapes] == [2.0, 8.0]
    assert " ".join(headings(figure)[1].split()) == "perplexity limit 8, beyond it 2 times"
    check_places(figure)


# --- all -------------------------------------------------------------------------------------------------------------
def test_a_method_has_one_colour_in_every_figure() -> None:
    colors = set()
    for plot in PLOTS[1:]:
        lines = [each for each in traces(plot(WHOLE)) if each.type != "heatmap"]
        colors |= {each.line.color for each in lines if each.name and "memit" in each.name}
    assert len(colors) == 1
    assert QUIET not in colors


def test_texts_of_the_user_are_shown_as_they_are() -> None:
    tables = {name: getattr(WHOLE, name).replace({"rome": HOSTILE}) for name in ("metrics", "health")}
    tables["metrics"]["model"] = tables["health"]["model"] = HOSTILE
    for plot in PLOTS:
        check_no_markup(plot(Evaluation.of(**tables)))


@pytest.mark.parametrize("plot", PLOTS)
def test_what_cannot_be_drawn_is_refused(plot: Any) -> None:
    with pytest.raises(TracerError, match=f"{plot.__name__} expected an Evaluation, got DataFrame"):
        plot(WHOLE.metrics)
    with pytest.raises(TracerError, match=r"nothing|three things"):
        plot(Evaluation.of(metrics=[row(labels("rome"), 0, "fluency", 1.0)]))


def test_settings_of_figures() -> None:
    with pytest.raises(TracerError, match="by is 'heard'; expected one of forced, generated"):
        plot_radar(WHOLE, by="heard")
    with pytest.raises(TracerError, match="have no 'fluency'"):
        plot_retention(WHOLE, "fluency")
    narrow, wide = (drawn(plot_evaluation(WHOLE, level=level), "bar")[0].error_x for level in (0.5, 0.95))
    assert narrow.array.sum() < wide.array.sum()
