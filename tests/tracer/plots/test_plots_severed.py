"""Bars of severed effects: the right row of each result, and only results that belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn import HOSTILE, check_no_markup, check_places, drawn, layout
from synthetic import synthetic_average, synthetic_trace

from tracer.errors import TracerError
from tracer.plots import plot_severed

SHARES = {None: 1.0, "mlp": 0.25, "attn": 0.75}


def traces(**fields: Any) -> list[Any]:
    whole = synthetic_trace(**fields)
    scores = {sever: whole.corrupted + share * whole.effect for sever, share in SHARES.items()}
    return [synthetic_trace(**fields, scores=scores[sever], sever=sever) for sever in ("attn", None, "mlp")]


def averages(**fields: Any) -> list[Any]:
    effect = synthetic_average().effect
    return [synthetic_average(**fields, effect=share * effect, sever=sever) for sever, share in SHARES.items()]


def test_one_prompt_shows_the_last_token_of_the_subject() -> None:
    results = traces()
    figure = plot_severed(results)
    whole, mlp, attn = drawn(figure, "bar")
    assert [each.name for each in (whole, mlp, attn)] == [
        "effect of the single state",
        "with MLP severed",
        "with attention severed",
    ]
    for bar, share in zip((whole, mlp, attn), (1, 0.25, 0.75), strict=True):
        np.testing.assert_allclose(bar.y, share * synthetic_trace().effect[3], atol=1e-12)
        assert list(bar.x) == list(range(8))
        assert not bar.error_y.visible
    assert "“le” (token 3)" in layout(figure).title.subtitle.text
    assert "Space Needle" in layout(figure).title.text
    check_places(figure)


@pytest.mark.parametrize(
    ("token", "row"),
    [(6, 6), (-1, 6), ("last token", 6), ("first subject token", 0), ("first subsequent token", 4), (3, 3)],
)
def test_another_row(token: int | str, row: int) -> None:
    bar = drawn(plot_severed(traces(), token), "bar")[0]
    np.testing.assert_allclose(bar.y, synthetic_trace().effect[row], atol=1e-12)


def test_averages_have_whiskers() -> None:
    figure = plot_severed(averages())
    bars = drawn(figure, "bar")
    for bar, share in zip(bars, SHARES.values(), strict=True):
        np.testing.assert_allclose(bar.y, share * synthetic_average().effect[2])
        np.testing.assert_allclose(bar.error_y.array, 0.04)
        np.testing.assert_allclose(bar.error_y.arrayminus, 0.04)
        assert bar.error_y.visible
    assert bars[0].customdata[2] == "<br>95 % interval +0.4600 to +0.5400"
    assert "97 facts about 80 subjects" in layout(figure).title.text
    last = drawn(plot_severed(averages(), "last token"), "bar")[0]
    np.testing.assert_allclose(last.y, synthetic_average().effect[5])


@pytest.mark.parametrize("n_layers", [1, 6, 48, 120])
@pytest.mark.parametrize("count", [2, 3])
def test_nothing_overlaps(n_layers: int, count: int) -> None:
    figure = plot_severed(traces(layers=tuple(range(n_layers)))[:count])
    check_places(figure)
    assert layout(figure).xaxis.range[1] > n_layers - 1


def test_estimates_and_other_metrics_are_named() -> None:
    subtitle = layout(
        plot_severed(traces(metric="logit_diff", foil=" Paris", method="attribution"))
    ).title.subtitle.text
    assert "logit difference to Paris is 0.900" in subtitle
    assert "gradient estimate" in subtitle


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "Another prompt"}, "their prompt are"),
        ({"model": "another", "fingerprint": "1"}, "their model are"),
        ({"metric": "kl"}, "their metric are"),
        ({"layers": (0, 1), "scores": np.zeros((7, 2))}, "their layers are"),
        ({"kind": "mlp"}, "their kind are"),
        ({"sever": None}, "two results with sever=None"),
        ({"sever": "embedding"}, "sever='embedding'"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"sever": "mlp"} | change
    with pytest.raises(TracerError, match=message):
        plot_severed([synthetic_trace(), synthetic_trace(**fields)])


@pytest.mark.parametrize(
    ("results", "token", "message"),
    [
        ([], None, "nothing"),
        ([synthetic_trace()], None, "ordinary result"),
        (traces()[::2], None, "got 'attn', 'mlp'"),
        ([3, 4], None, "got int"),
        (traces(positions=(3, 6)), 0, "token 0 was not traced"),
        (traces(), "middle subject tokens", "no token of one prompt"),
        (averages(), "le", "no class of tokens"),
        (averages(), 3, "no class of tokens"),
        ([synthetic_trace(), synthetic_average(sever="mlp")], None, "their"),
    ],
)
def test_refusals(results: list[Any], token: Any, message: str) -> None:
    with pytest.raises(TracerError, match=message):
        plot_severed(results, token)


def test_a_class_without_tokens_is_refused() -> None:
    effect = np.full((6, 8), np.nan)
    results = [synthetic_average(effect=effect, sever=sever) for sever in (None, "mlp")]
    with pytest.raises(TracerError, match="no token belongs"):
        plot_severed(results)


def test_no_text_of_the_user_is_markup() -> None:
    check_no_markup(plot_severed(traces(tokens=(HOSTILE, " is"), subject_range=(0, 1), answer=HOSTILE, model=HOSTILE)))
