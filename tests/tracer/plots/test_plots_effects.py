"""Effects of acting on neurons: the bars are the relative changes, and no bar hides another."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from drawn import HOSTILE, axis, check_no_markup, check_places, drawn, headings, layout, plain
from synthetic import synthetic_effects

from tracer.errors import TracerError
from tracer.neurons.effects import summarise_effects
from tracer.plots import plot_effects
from tracer.plots.effect_bars import percentage

NAMES = ("knowledge neurons", "random neurons, same layers", "another fact's neurons")


def bars(figure: go.Figure, panel: int = 0) -> dict[str, list[float]]:
    """Heights by name: of the fact, then of its neighbours."""
    name = "x" if panel == 0 else f"x{panel + 1}"
    return {each.name: [float(y) for y in each.y] for each in drawn(figure, "bar", xaxis=name)}


def dots(figure: go.Figure, group: str) -> Any:
    (found,) = drawn(figure, "scatter", legendgroup=group)
    return found


def numbers(figure: go.Figure) -> list[str]:
    """What is written on the bars."""
    return [each.text for each in layout(figure).annotations if each.xref != "paper"]


def test_one_result_has_bars_and_dots() -> None:
    figure = plot_effects(synthetic_effects())
    found = bars(figure)
    assert tuple(found) == NAMES
    np.testing.assert_allclose(found[NAMES[0]], [-0.75, -0.1])
    np.testing.assert_allclose(found[NAMES[1]], [0.025, 0.025])
    np.testing.assert_allclose(found[NAMES[2]], [-0.05, -0.05])
    random = dots(figure, "random")
    np.testing.assert_allclose(random.y, [-0.05, 0, 0, 0.15] * 2, atol=1e-12)
    assert list(random.customdata[3]) == ["+15 %", "draw 4 of 4"]
    neighbours = dots(figure, "neurons")
    np.testing.assert_allclose(neighbours.y, [-0.1] * 3)
    assert plain(neighbours.customdata[1][1]) == "Neighbour 1 is in →  Seattle  before 0.8000"
    assert sorted(numbers(figure)) == sorted(["−75 %", "+2.5 %", "−5.0 %", "−10 %", "+2.5 %", "−5.0 %"])
    assert list(axis(figure, "x", 0).ticktext) == ["the fact itself", "3 neighbours"]
    assert axis(figure, "y", 0).tickformat == ",.0%"
    assert "p(Seattle) from 0.800 to 0.200" in headings(figure)[0]
    assert "Space Needle" in layout(figure).title.text
    subtitle = layout(figure).title.subtitle.text
    for part in ("2 neurons of factworld", "where the answer is read", "dots: single draws and neighbours"):
        assert part in subtitle


@pytest.mark.parametrize(("size", "form"), [(0.5, ",.0%"), (0.05, ",.1%"), (0.005, ",.2%")])
def test_ticks_of_small_changes_differ(size: float, form: str) -> None:
    after = np.full(4, 0.8 * (1 - size))
    figure = plot_effects(synthetic_effects(after=after, random=after[:, None], other=after))
    assert axis(figure, "y", 0).tickformat == form


def test_without_neighbours_and_another_fact() -> None:
    figure = plot_effects(synthetic_effects(neighbours=0, other=None))
    assert tuple(bars(figure)) == NAMES[:2]
    assert list(axis(figure, "x", 0).ticktext) == ["the fact itself"]
    assert drawn(figure, "scatter", legendgroup="neurons") == []
    assert layout(figure).title.subtitle.text.endswith("dots: single draws")
    check_places(figure)


def several(action: str = "suppress") -> list[Any]:
    after = np.linspace(0.1, 0.7, 7)
    return [synthetic_effects(action, subject=f"s{i}", after=np.array([a, 0.7, 0.7, 0.7])) for i, a in enumerate(after)]


def test_several_results_are_means_with_intervals() -> None:
    effects = several()
    figure = plot_effects(effects)
    table = summarise_effects(effects).set_index(["condition", "role"])
    for name, condition in zip(NAMES, ("neurons", "random", "other"), strict=True):
        (bar,) = drawn(figure, "bar", name=name)
        rows = table.loc[condition].loc[["fact", "neighbour"]]
        np.testing.assert_allclose(bar.y, rows["change"])
        np.testing.assert_allclose(bar.y + bar.error_y.array, rows["change_high"])
        np.testing.assert_allclose(bar.y - bar.error_y.arrayminus, rows["change_low"])
        assert bar.error_y.visible
    (bar,) = drawn(figure, "bar", name=NAMES[0])
    np.testing.assert_allclose(bar.y[0], np.mean(np.linspace(0.1, 0.7, 7) / 0.8 - 1))
    assert "7 prompts about 7 subjects" in bar.customdata[0][1]
    assert "95 % interval" in bar.customdata[0][1]
    assert drawn(figure, "scatter") == []
    assert list(axis(figure, "x", 0).ticktext) == ["7 facts", "21 neighbours"]
    assert "correct answer" in layout(figure).title.text
    assert "95 % intervals over subjects" in layout(figure).title.subtitle.text


def test_two_actions_are_two_panels_and_one_legend() -> None:
    figure = plot_effects([*several(), *several("amplify"), synthetic_effects("set_to", value=3.0)])
    check_places(figure)
    assert [each.split()[0] for each in headings(figure)] == ["Suppressed", "Amplified", "Set"]
    assert [each.name for each in drawn(figure, "bar") if each.showlegend] == list(NAMES)
    np.testing.assert_allclose(bars(figure, 2)[NAMES[0]], [-0.75, -0.1])
    factors = plot_effects([synthetic_effects("amplify", factor=f) for f in (2, 3, 4, 5)])
    assert [each.split("p(")[0].strip() for each in headings(factors)] == [f"Amplified × {f}" for f in (2, 3, 4, 5)]
    check_places(factors)


def test_a_large_change_does_not_hide_the_others() -> None:
    before = np.array([0.01, 0.5, 0.5, 0.5])
    random = np.tile(before[:, None], (1, 4)) * [0.9, 1.0, 1.1, 1.0]
    random[0, 3] = 0.3
    figure = plot_effects(
        synthetic_effects("amplify", before=before, after=before * [60, 1.1, 1.1, 1.1], random=random, other=before)
    )
    top = axis(figure, "y", 0).range[1]
    assert 2 < top < 3
    found = drawn(figure, "bar", name=NAMES[0])[0]
    assert found.y[0] == 2.0
    assert found.customdata[0][0] == "+5,900 %"
    assert "▲ +5,900 %" in numbers(figure)
    random_dots = dots(figure, "random")
    assert max(random_dots.y) == 2.0
    assert [s == "triangle-up" for s in random_dots.marker.symbol] == [False, False, False, True] + [False] * 4
    assert random_dots.customdata[3][0] == "+2,900 %"


def test_changes_that_are_all_large_are_drawn_to_scale() -> None:
    before = np.full(4, 0.01)
    random = np.full((4, 2), 0.06)
    figure = plot_effects(
        synthetic_effects("amplify", before=before, after=before * 8, random=random, other=before * 5)
    )
    np.testing.assert_allclose(bars(figure)[NAMES[0]], [7, 7])
    assert axis(figure, "y", 0).range[1] > 7


def test_a_probability_of_zero_has_no_relative_change() -> None:
    figure = plot_effects(synthetic_effects(before=np.array([0.0, 0.8, 0.8, 0.0])))
    assert numbers(figure).count("undefined") == 3
    np.testing.assert_allclose(bars(figure)[NAMES[0]][1], -0.1)  # of the two neighbours that have one
    assert np.isfinite(axis(figure, "y", 0).range).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (0.5, "+50 %"),
        (-0.034, "−3.4 %"),
        (0.0, "0 %"),
        (-0.0001, "−0.01 %"),
        (0.00094, "+0.09 %"),
        (0.00096, "+0.1 %"),
        (-0.00001, "0 %"),
        (0.0996, "+10 %"),
        (59, "+5,900 %"),
        (-1.0, "−100 %"),
        (float("nan"), "undefined"),
    ],
)
def test_percentages(change: float, text: str) -> None:
    assert percentage(change) == text


def test_different_prompts_of_one_action_each() -> None:
    paris = synthetic_effects("amplify", facts=("Paris is in", "a", "b", "c"), answers=(" France",) * 4)
    figure = plot_effects([synthetic_effects(), paris])
    assert "Seattle" in headings(figure)[0]
    assert "Paris is in →  France" in headings(figure)[1]
    assert "correct answer" in layout(figure).title.text


@pytest.mark.parametrize("neighbours", [0, 1, 30])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_nothing_overlaps(neighbours: int, count: int) -> None:
    figure = plot_effects([synthetic_effects("amplify", neighbours, factor=float(f)) for f in range(count)])
    check_places(figure)
    edges = [x + side * each.width for each in drawn(figure, "bar", xaxis="x") for x in each.x for side in (-0.5, 0.5)]
    edges = [edge for pair in sorted(zip(edges[::2], edges[1::2], strict=True)) for edge in pair]
    assert (np.diff([-0.5, *edges, axis(figure, "x", 0).range[1]]) > 0).all()  # bars stand beside each other


@pytest.mark.parametrize("wrong", [[], "text", 3, [None]])
def test_what_is_no_effect_is_refused(wrong: Any) -> None:
    with pytest.raises(TracerError, match="NeuronEffects"):
        plot_effects(wrong)


def test_no_text_of_the_user_is_markup() -> None:
    hostile = synthetic_effects(facts=(HOSTILE,) * 4, answers=(HOSTILE,) * 4, model=HOSTILE, note=HOSTILE)
    check_no_markup(plot_effects(hostile))
    check_no_markup(plot_effects([hostile, synthetic_effects("amplify")]))
