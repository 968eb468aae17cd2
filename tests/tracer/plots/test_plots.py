"""Heat maps: every number of the trace is in the figure, at its place, and no text is more than text."""

from __future__ import annotations

import html
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from drawn import axis, check_places, headings, layout
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import SPACE_NEEDLE, synthetic_trace

from tracer.errors import TracerError
from tracer.plots import plot_trace, strongest_sites
from tracer.plots.labels import escape, token_label
from tracer.text import printable

KINDS = ("hidden", "mlp", "attn")


def heat_maps(figure: go.Figure) -> list[Any]:
    drawn: Any = figure.data
    return [each for each in drawn if each.type == "heatmap"]


@pytest.mark.parametrize(
    ("kind", "scale", "x_title"),
    [
        ("hidden", "rgb(63,0,125)", "single restored layer within factworld"),
        ("mlp", "rgb(0,68,27)", "centre of interval of 3 restored MLP layers"),
        ("attn", "rgb(103,0,13)", "centre of interval of 3 restored attention layers"),
    ],
)
def test_one_trace_is_drawn_as_in_the_paper(kind: str, scale: str, x_title: str) -> None:
    trace = synthetic_trace(kind)
    figure = plot_trace(trace)
    (heat,) = heat_maps(figure)
    np.testing.assert_array_equal(heat.z, trace.scores)
    assert list(heat.x) == list(trace.layers)
    assert heat.colorscale[-1][1] == scale
    assert (heat.zmin, heat.zmax) == (trace.corrupted, trace.scores.max())
    assert heat.colorbar.title.text == "p(Seattle)"
    assert layout(figure).xaxis.title.text == x_title
    assert list(layout(figure).yaxis.ticktext) == ["The*", "Space*", "Need*", "le*", "is", "in", "downtown"]
    assert layout(figure).yaxis.range == (6.5, -0.5)  # the first token on top
    assert "Seattle" in layout(figure).title.text
    assert "The Space Needle is in downtown" in layout(figure).title.text
    assert "0.900" in layout(figure).title.subtitle.text
    assert "0.200" in layout(figure).title.subtitle.text


def test_window_of_one_layer_is_no_interval() -> None:
    assert layout(plot_trace(synthetic_trace("mlp", window=1))).xaxis.title.text == "single restored MLP layer"


def test_hover_names_token_layer_score_and_effect() -> None:
    trace = synthetic_trace("mlp", window=10, n_layers=8)
    (heat,) = heat_maps(plot_trace(trace))
    token, position, where, effect = heat.customdata[3][2]
    assert (token, position, effect) == ("le", 3, "+0.5000")
    assert where == "centre layer 2, restored 0 to 6"
    for part in ("customdata[0]", "customdata[1]", "customdata[2]", "customdata[3]", "%{z"):
        assert part in heat.hovertemplate
    assert list(heat.meta) == ["p(Seattle)", ""]


def test_three_traces_are_three_panels_with_one_y_axis() -> None:
    figure = plot_trace([synthetic_trace(kind) for kind in KINDS])
    assert len(heat_maps(figure)) == 3
    domains = [axis(figure, "x", i).domain for i in range(3)]
    assert all(a[1] < b[0] for a, b in pairwise(domains))
    assert len({axis(figure, "y", i).domain for i in range(3)}) == 1
    assert [axis(figure, "y", i).matches for i in range(3)] == [None, "y", "y"]
    assert [axis(figure, "y", i).showticklabels for i in range(3)] == [True, False, False]
    bars = [heat.colorbar.x for heat in heat_maps(figure)]
    assert all(domain[1] < bar for domain, bar in zip(domains, bars, strict=True))
    assert all(bar < domain[0] for domain, bar in zip(domains[1:], bars, strict=False))


def test_traces_of_different_prompts_keep_their_own_labels_and_wrap_after_three() -> None:
    paris = synthetic_trace(tokens=("Paris", " is", " the", " capital", " of"), subject_range=(0, 1), answer=" France")
    figure = plot_trace([synthetic_trace(), paris, paris, paris])
    # a panel goes without only beside one of the same tokens
    assert [axis(figure, "y", i).showticklabels for i in range(4)] == [True, True, False, True]
    assert list(axis(figure, "y", 1).ticktext) == ["Paris*", "is", "the", "capital", "of"]
    assert axis(figure, "y", 3).domain[1] < axis(figure, "y", 0).domain[0]
    assert axis(figure, "x", 3).domain == axis(figure, "x", 0).domain
    headings = " ".join(each.text for each in layout(figure).annotations)
    assert "<b>France</b>" in headings
    assert "<b>Seattle</b>" in headings


def test_equal_tokens_are_different_rows() -> None:
    trace = synthetic_trace(tokens=(" a", " a", " a", " b"), subject_range=(0, 2))
    figure = plot_trace(trace)
    (heat,) = heat_maps(figure)
    assert list(heat.y) == [0, 1, 2, 3]
    assert list(layout(figure).yaxis.tickvals) == [0, 1, 2, 3]
    assert list(layout(figure).yaxis.ticktext) == ["a*", "a*", "a", "b"]


def test_a_selection_of_layers_and_tokens_leaves_the_rest_blank() -> None:
    trace = synthetic_trace(layers=(1, 3, 4), positions=(3, 6))
    figure = plot_trace(trace)
    (heat,) = heat_maps(figure)
    assert list(heat.x) == [1, 2, 3, 4]
    z = np.asarray(heat.z, dtype=float)
    np.testing.assert_array_equal(z[:, [0, 2, 3]], trace.scores)
    assert np.isnan(z[:, 1]).all()
    assert list(layout(figure).yaxis.ticktext) == ["le*", "downtown"]
    assert heat.customdata[1][3][1] == 6


def test_without_any_effect_rounding_noise_does_not_fill_the_scale() -> None:
    scores = 0.9 + 1e-9 * np.arange(56.0).reshape(7, 8)
    (heat,) = heat_maps(plot_trace(synthetic_trace(scores=scores, corrupted=0.9)))
    assert heat.zmax - heat.zmin > 1e-4


def test_a_distance_grows_darker_as_it_falls() -> None:
    scores = np.full((7, 8), 5.0)
    scores[3, 2] = 1.0
    (heat,) = heat_maps(plot_trace(synthetic_trace(scores=scores, clean=0.0, corrupted=5.0, metric="kl")))
    assert heat.reversescale
    assert (heat.zmin, heat.zmax) == (1.0, 5.0)
    assert heat.colorbar.title.text == "KL divergence"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("hidden", [(6, 7), (3, 2)]), ("mlp", [(3, 2)]), ("attn", [(6, 7)])],
)
def test_strongest_sites_are_marked(kind: str, expected: list[tuple[int, int]]) -> None:
    trace = synthetic_trace(kind)
    assert strongest_sites(trace) == expected
    rings = layout(plot_trace(trace)).shapes
    assert [(ring.yanchor, ring.xanchor) for ring in rings] == expected


def test_a_note_is_shown() -> None:
    assert "a remark" in layout(plot_trace(synthetic_trace(note="a remark"))).title.subtitle.text


@pytest.mark.parametrize(
    ("metric", "foil", "name", "short"),
    [
        ("logit_diff", " Paris", "logit difference to Paris", "logit difference to Paris"),
        (
            "normalised_logit_diff",
            " Philadelphia",
            "normalised logit difference to Philadelphia",
            "normalised logit difference",
        ),
        ("logit_diff", None, "logit difference", "logit difference"),
        ("log_prob_diff", " he", "log-probability difference to he", "log-probability difference to he"),
        ("kl", None, "KL divergence", "KL divergence"),
    ],
)
def test_other_metrics_are_named(metric: str, foil: str | None, name: str, short: str) -> None:
    figure = plot_trace(synthetic_trace(metric=metric, foil=foil))
    (heat,) = heat_maps(figure)
    assert heat.meta[0] == name
    assert heat.colorbar.title.text == short  # no longer than the bar
    assert layout(figure).title.subtitle.text.replace("<br>", " ").startswith(f"{name} is 0.900 in the clean run")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"sever": "mlp"}, "with MLP severed"),
        ({"sever": "attn"}, "with attention severed"),
        ({"method": "attribution"}, "gradient estimate"),
        ({"method": "integrated", "sever": "mlp"}, "with MLP severed · gradient estimate, integrated"),
    ],
)
def test_severed_paths_and_estimates_are_named(fields: dict[str, Any], text: str) -> None:
    figure = plot_trace([synthetic_trace(), synthetic_trace(**fields)])
    check_places(figure)
    assert text not in headings(figure)[0]
    assert text in headings(figure)[1]
    assert [heat.meta[1] for heat in heat_maps(figure)] == ["", f" ({text})"]
    assert "%{meta[1]}" in heat_maps(figure)[1].hovertemplate
    plain, marked = plot_trace(synthetic_trace()), plot_trace(synthetic_trace(**fields))
    assert layout(marked).height > layout(plain).height  # the title has room for one more line


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 7, 40])
@pytest.mark.parametrize("layers", [1, 48])
def test_nothing_overlaps(count: int, tokens: int, layers: int) -> None:
    words = tuple(f" word{i}" for i in range(tokens))
    note = "a long remark " * 30
    trace = synthetic_trace(tokens=words, subject_range=(0, 1), layers=tuple(range(layers)), note=note, sever="mlp")
    check_places(plot_trace([trace] * count))


@pytest.mark.parametrize("wrong", [[], "text", 3, [None]])
def test_what_is_no_trace_is_refused(wrong: Any) -> None:
    with pytest.raises(TracerError, match="CausalTrace"):
        plot_trace(wrong)


@pytest.mark.parametrize(
    ("token", "label"),
    [
        (" Space", "Space"),
        ("<b>", "&lt;b&gt;"),
        ("&amp;", "&amp;amp;"),
        ("$x$", "&#36;x&#36;"),
        (" ", "␣"),
        ("  ", "␣␣"),
        ("", "∅"),
        ("\n", "⏎"),
        ("a\tb", "a⇥b"),
        ("\x00\x1b[31m", "��[31m"),
        ("\u202eabc", "�abc"),
        ("\ud800", "�"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("東京", "東京"),
        ("x" * 40, "x" * 25 + "…"),
    ],
)
def test_labels(token: str, label: str) -> None:
    assert token_label(token) == label


@settings(deadline=None)
@given(st.text())
def test_escaped_text_reads_as_itself_and_holds_no_markup(text: str) -> None:
    shown = escape(text)
    assert html.unescape(shown) == printable(text)
    assert not set("<>$") & set(shown)


def test_no_text_of_the_user_is_markup() -> None:
    hostile = "<script>window.hacked=1</script>"
    tokens = (hostile, " <img src=x onerror=alert(1)>", *SPACE_NEEDLE)
    trace = synthetic_trace(
        tokens=tokens, subject_range=(0, 2), answer=f" {hostile}", model=hostile, note=hostile, subject=hostile
    )
    other = synthetic_trace(prompt=f"{hostile} %{{z}}")
    for figure in (plot_trace(trace), plot_trace([trace, other])):
        assert "<script" not in str(figure.to_dict())
        assert "<img" not in str(figure.to_dict())
        assert "hacked" not in heat_maps(figure)[0].hovertemplate
