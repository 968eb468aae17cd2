"""Neurons: the strongest are where they are, whatever the size of the model; counts are those of the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from drawn import HOSTILE, axis, check_no_markup, check_places, drawn, layout
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs
from synthetic import synthetic_attribution

from tracer.errors import TracerError
from tracer.plots import plot_layers, plot_neurons
from tracer.plots.export import export
from tracer.plots.neurons import pooled

SIZES = [(1, 1), (6, 768), (8, 1024), (24, 4096), (48, 6400), (100, 20000)]


def parts(figure: go.Figure) -> tuple[Any, Any, Any, Any]:
    """Overview, rings, highest of each layer, counts."""
    overview, ranked = drawn(figure, "heatmap")
    (rings,), (bars,) = drawn(figure, "scatter"), drawn(figure, "bar")
    return overview, rings, ranked, bars


def test_the_overview_holds_the_strongest_of_each_group() -> None:
    overview, *_ = parts(plot_neurons(synthetic_attribution()))
    assert np.shape(overview.z) == (8, 250)  # four neurons to a column
    assert (overview.x0, overview.dx) == (1.5, 4)
    scores = synthetic_attribution().scores
    np.testing.assert_allclose(overview.z, scores.reshape(8, 250, 4).max(-1), rtol=1e-6)
    assert (overview.z[5][2], overview.customdata[5][2]) == (np.float32(0.5), 10)
    assert (overview.z[5][249], overview.customdata[5][249]) == (np.float32(0.2), 999)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 9), st.integers(0, 9))
def test_pooling_keeps_the_largest_magnitude(layers: int, neurons: int, size: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(layers, neurons))
    strongest, index = pooled(scores, size)
    assert strongest.shape == index.shape == (layers, -(-neurons // size))
    np.testing.assert_array_equal(np.take_along_axis(scores, index, 1), strongest)
    for column in range(strongest.shape[1]):
        group = scores[:, column * size : (column + 1) * size]
        np.testing.assert_array_equal(np.abs(strongest[:, column]), np.abs(group).max(1))
        assert ((index[:, column] // size) == column).all()


def test_rings_mark_the_highest() -> None:
    attribution = synthetic_attribution()
    _, rings, *_ = parts(plot_neurons(attribution, n=3))
    assert list(zip(rings.y, rings.x, strict=True)) == attribution.top(3) == [(5, 10), (5, 11), (5, 999)]
    for neuron, score, activation, rank in rings.customdata:
        assert score == attribution.scores[5, neuron]
        assert activation == attribution.activations[5, neuron]
        assert attribution.top(3)[rank - 1] == (5, neuron)
    for name in ("%{y}", "customdata[0]", "customdata[1]", "customdata[2]", "customdata[3]"):
        assert name in rings.hovertemplate
    assert len(parts(plot_neurons(attribution, n=0))[1].x) == 0


def test_the_highest_of_each_layer_are_in_falling_order() -> None:
    attribution = synthetic_attribution()
    *_, ranked, _ = parts(plot_neurons(attribution))
    np.testing.assert_array_equal(ranked.z, -np.sort(-attribution.scores)[:, :8])
    assert list(ranked.text[5][:3]) == ["10", "11", "999"]
    data = np.asarray(ranked.customdata)
    np.testing.assert_array_equal(np.take_along_axis(attribution.scores, data[..., 0].astype(int), 1), ranked.z)
    np.testing.assert_array_equal(data[5, 0], [10, attribution.activations[5, 10]])
    assert "%{text}" in ranked.hovertemplate


def test_counts_and_their_share_of_the_scores() -> None:
    attribution = synthetic_attribution()
    *_, bars = parts(plot_neurons(attribution))
    np.testing.assert_array_equal(bars.x, attribution.per_layer(0.2))
    assert list(bars.x) == [0, 0, 0, 0, 0, 3, 0, 0]
    total = attribution.scores.sum()
    np.testing.assert_allclose(bars.customdata[5], [1.0, 1.0 / total])
    np.testing.assert_array_equal(parts(plot_neurons(attribution, threshold=0.5))[3].x[5], 2)
    subtitle = layout(plot_neurons(attribution)).title.subtitle.text.replace("<br>", " ")
    for part in ("p(Seattle) = 0.900", "integrated gradients, 20 steps", "“downtown” (6)", "after the non-linearity"):
        assert part in subtitle
    assert "3 neurons above 20 % of the highest score" in subtitle
    assert "1 neuron above 80 %" in layout(plot_neurons(attribution, threshold=0.8)).title.subtitle.text


@pytest.mark.parametrize(("share", "scale"), [(-0.04, "rgb(0,68,27)"), (-0.06, "rgb(0,68,27)")])
def test_negative_scores_get_colours_where_they_matter(share: float, scale: str) -> None:
    scores = synthetic_attribution().scores.copy()
    scores[2, 7] = share * 0.5
    figure = plot_neurons(synthetic_attribution(scores=scores))
    colors = layout(figure).coloraxis
    assert colors.colorscale[-1][1] == scale
    assert colors.cmax == 0.5
    assert colors.cmin == (0 if share > -0.05 else -0.5)
    overview, *_ = parts(figure)
    assert overview.customdata[2][1] == 7  # seen although it is negative
    assert overview.z[2][1] == np.float32(share * 0.5)


def test_a_contrast_counts_standard_deviations() -> None:
    scores = np.zeros((8, 100))
    scores[5, :3] = 5.0, 3.5, 2.5
    contrast = synthetic_attribution(
        8, 100, scores=scores, method="activation_contrast", steps=0, rule="", site="pre", zero=np.full(8, np.nan)
    )
    figure = plot_neurons(contrast)
    assert parts(figure)[3].x[5] == 2
    subtitle = layout(figure).title.subtitle.text.replace("<br>", " ")
    assert "2 neurons above 3 standard deviations" in subtitle
    assert "activation contrast, neurons before the non-linearity" in subtitle
    assert layout(figure).coloraxis.colorbar.title.text == "standard deviations"


@pytest.mark.parametrize(("n_layers", "width"), SIZES)
def test_any_size_is_readable(n_layers: int, width: int) -> None:
    figure = plot_neurons(synthetic_attribution(n_layers, width))
    check_places(figure)
    overview, _, ranked, bars = parts(figure)
    assert np.shape(overview.z)[1] <= 256
    assert np.shape(ranked.z) == (n_layers, min(8, width))
    assert [axis(figure, "y", i).matches for i in range(3)] == [None, "y", "y"]
    assert axis(figure, "x", 0).range == (-0.5, width - 0.5)
    assert len(axis(figure, "y", 0).tickvals) <= 12
    assert axis(figure, "x", 2).range[1] > max(bars.x)
    assert layout(figure).width < 1300


def test_the_page_of_a_large_model_stays_small(tmp_path: Path) -> None:
    page = export(synthetic_attribution(48, 6400), tmp_path / "x.html").stat().st_size
    assert page - len(get_plotlyjs().encode()) < 400_000


def test_scores_that_are_all_zero() -> None:
    figure = plot_neurons(synthetic_attribution(scores=np.zeros((8, 1000))))
    assert (layout(figure).coloraxis.cmin, layout(figure).coloraxis.cmax) == (0, 1)
    assert np.isfinite(np.asarray(parts(figure)[3].customdata)).all()


# --- many facts ----------------------------------------------------------------------------------------------------
def test_layers_are_means_over_facts() -> None:
    several = [synthetic_attribution(seed=seed) for seed in range(4)]
    scores = several[0].scores.copy()
    scores[2, :5] = 0.4
    several[0] = synthetic_attribution(scores=scores, prompt="another")
    figure = plot_layers(several)
    (bars,) = drawn(figure, "bar")
    counts = np.array([each.per_layer(0.2) for each in several])
    np.testing.assert_allclose(bars.y, counts.mean(0))
    np.testing.assert_allclose(bars.error_y.array, counts.std(0, ddof=1))
    assert (np.asarray(bars.error_y.arrayminus) <= bars.y).all()
    np.testing.assert_allclose(bars.customdata[2], [1.25 / 4.25, 2.5, 0, 5])
    subtitle = layout(figure).title.subtitle.text.replace("<br>", " ")
    assert "4.2 neurons per fact (3 to 8) above 20 % of the highest score" in subtitle
    assert "4 facts" in layout(figure).title.text
    check_places(figure)


@pytest.mark.parametrize("n_layers", [1, 8, 48, 100])
def test_layers_of_any_number(n_layers: int) -> None:
    figure = plot_layers([synthetic_attribution(n_layers, 20)])
    check_places(figure)
    assert not drawn(figure, "bar")[0].error_y.visible
    assert "1 fact" in layout(figure).title.text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (synthetic_attribution(model="another"), "one model, got 'factworld' and 'another'"),
        (synthetic_attribution(site="pre"), "one site"),
        (synthetic_attribution(method="activation_contrast"), "one method"),
        (synthetic_attribution(width=999), r"one shape, got \(8, 1000\) and \(8, 999\)"),
        (3, "got int"),
    ],
)
def test_different_attributions_are_not_averaged(other: Any, message: str) -> None:
    with pytest.raises(TracerError, match=message):
        plot_layers([synthetic_attribution(), other])


@pytest.mark.parametrize("wrong", [[], "text"])
def test_no_attributions(wrong: Any) -> None:
    with pytest.raises(TracerError, match="NeuronAttribution"):
        plot_layers(wrong)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"n": -1}, "n is -1"), ({"n": 1.5}, "n is 1.5"), ({"threshold": 2}, "threshold is 2")],
)
def test_settings_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        plot_neurons(synthetic_attribution(), **fields)
    with pytest.raises(TracerError, match="got str"):
        plot_neurons("text")  # type: ignore[arg-type]


def test_no_text_of_the_user_is_markup() -> None:
    fields: dict[str, Any] = {"prompt": HOSTILE, "answer": HOSTILE, "model": HOSTILE, "note": HOSTILE}
    attribution = synthetic_attribution(**fields, tokens=(HOSTILE,) * 7)
    check_no_markup(plot_neurons(attribution))
    check_no_markup(plot_layers([attribution]))
