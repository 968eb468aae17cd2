"""Figures fit the window: panels move and shrink, never overlap, and a page rearranges them while it is open."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from browsers import Browser, Page
from drawn import axis, check_places, drawn, layout, panels
from synthetic import SPACE_NEEDLE, synthetic_average, synthetic_trace

from tracer.plots import plot_average, plot_severed, plot_trace
from tracer.plots.export import export
from tracer.plots.fit import KEY, OVERHANG, WIDTH, WIDTHS, adaptive, headline_on, in_line, panel_widths
from tracer.plots.labels import row_labels
from tracer.plots.style import text_width

KINDS = ("hidden", "mlp", "attn")
LAYERS, TOKENS = (8, 12, 18, 26, 32, 48, 80), (6, 12, 30, 60)


def traces(n_layers: int, n_tokens: int, **fields: Any) -> list[Any]:
    words = (*SPACE_NEEDLE, *(f" {'transformation'[: 2 + i % 13]}" for i in range(n_tokens)))[:n_tokens]
    fields = {"tokens": words, "layers": tuple(range(n_layers)), "window": 10, "model": "gemma-3-1b-it"} | fields
    return [synthetic_trace(kind, **fields) for kind in KINDS]


def averages(n_layers: int) -> list[Any]:
    return [synthetic_average(kind, layers=tuple(range(n_layers)), window=10) for kind in KINDS]


def severed(n_layers: int) -> list[Any]:
    return [synthetic_trace(layers=tuple(range(n_layers)), sever=sever) for sever in (None, "mlp", "attn")]


def in_first_line(figure: go.Figure) -> int:
    tops = [round(top) for _, _, top, _ in panels(figure)]
    return tops.count(tops[0])


def check_readable(figure: go.Figure, tokens: int, cell: float) -> None:
    """Cells, labels and titles of heat maps have the pixels they need."""
    for index, (left, right, top, bottom) in enumerate(panels(figure)):
        x, y = axis(figure, "x", index), axis(figure, "y", index)
        n_layers = x.range[1] - x.range[0]
        assert (right - left) / n_layers > cell - 0.01
        assert (bottom - top) / tokens > 16.99  # a line of the labels' size
        assert len(y.ticktext) == len(y.tickvals) == tokens
        widest = max(text_width(str(layer), 12) for layer in x.tickvals)
        gaps = [(b - a) * (right - left) / n_layers for a, b in pairwise(x.tickvals)]
        assert min(gaps, default=99) >= widest + 5
        assert text_width(x.title.text, 12.5) <= right - left + 2 * OVERHANG
        if y.showticklabels:
            beside = [r for _, r, t, _ in panels(figure) if t == top and r < left]
            assert left - max(beside, default=0) >= max(map(text_width, y.ticktext)) + 5


@pytest.mark.parametrize("width", WIDTHS[1:])
@pytest.mark.parametrize("n_tokens", TOKENS)
@pytest.mark.parametrize("n_layers", LAYERS)
def test_traces_fit_every_width(n_layers: int, n_tokens: int, width: int) -> None:
    results = traces(n_layers, n_tokens)
    figure = plot_trace(results, width=width)
    assert layout(figure).width <= width
    check_places(figure)
    check_readable(figure, n_tokens, cell=5)
    columns = in_first_line(figure)
    # 80 layers need 400 pixels, so that three panels only fit the widest; up to 48 need no more than 240
    assert columns == {900: 1 if n_layers == 80 else 2, 1240: 2 if n_layers == 80 else 3, 1840: 3}[width]
    labelled = [axis(figure, "y", i).showticklabels for i in range(3)]
    assert labelled == [i % columns == 0 for i in range(3)]  # every line of panels has its tokens
    assert list(axis(figure, "y", 0).ticktext) == row_labels(results[0])


def test_the_embedded_model_keeps_three_panels_with_cells_of_34_pixels() -> None:
    facts = synthetic_trace(tokens=("The", " Space", " Needle", " is", " in", " downtown"), subject_range=(0, 3))
    figure = plot_trace([facts] * 3)
    assert in_first_line(figure) == 3
    assert {round(right - left, 6) for left, right, _, _ in panels(figure)} == {8 * 34}
    assert layout(figure).width <= WIDTH


@pytest.mark.parametrize(("n_layers", "pixels"), [(1, 250), (8, 272), (18, 340), (48, 340), (80, 560), (100, 700)])
def test_one_panel_grows_with_its_layers(n_layers: int, pixels: int) -> None:
    figure = plot_trace(traces(n_layers, 12)[0])
    ((left, right, _, _),) = panels(figure)
    assert right - left == pytest.approx(pixels)
    check_places(figure)
    check_readable(figure, 12, cell=5)


def test_panels_of_different_tokens_have_room_for_their_labels() -> None:
    paris = synthetic_trace(tokens=("Paris", " is", " the", " capital", " of"), subject_range=(0, 1))
    for width in WIDTHS:
        figure = plot_trace([synthetic_trace(), paris] * 2, width=width)
        check_places(figure)
        assert all(axis(figure, "y", i).showticklabels for i in range(4))
        lefts = sorted({left for left, _, _, _ in panels(figure)})
        bars = sorted({each.colorbar.x * layout(figure).width for each in drawn(figure, "heatmap")})
        assert all(left - bar > 60 + text_width("downtown") for left, bar in zip(lefts[1:], bars, strict=False))
        assert layout(figure).width <= width


def test_rows_zoom_together_in_every_line() -> None:
    figure = plot_trace(traces(80, 12))
    assert in_first_line(figure) == 2
    assert [axis(figure, "y", i).matches for i in range(3)] == [None, "y", "y"]


@pytest.mark.parametrize("width", WIDTHS[1:])
@pytest.mark.parametrize("n_layers", LAYERS)
def test_averages_and_severed_effects_fit_every_width(n_layers: int, width: int) -> None:
    average, bars = plot_average(averages(n_layers), width=width), plot_severed(severed(n_layers), width=width)
    for figure in (average, bars):
        check_places(figure)
        assert layout(figure).width <= width
    figure = average
    assert in_first_line(figure) == {900: 1 if n_layers == 80 else 2, 1240: 2 if n_layers == 80 else 3, 1840: 3}[width]
    assert all(right - left >= 230 for left, right, _, _ in panels(figure))


@pytest.mark.parametrize(
    ("width", "count", "panel", "expected"),
    [
        (1000, 3, (200, 300), (3, 280)),  # (1000 - 3 * 50 - 10) / 3
        (2000, 3, (200, 300), (3, 300)),
        (2000, 9, (200, 300), (3, 300)),
        (700, 3, (200, 300), (2, 295)),
        (459, 3, (200, 300), (1, 300)),
        (240, 3, (200, 300), (1, 200)),
        (0, 1, (200, 300), (1, 200)),
    ],
)
def test_panels_in_a_line(width: int, count: int, panel: tuple[int, int], expected: tuple[int, int]) -> None:
    assert in_line(width, count, panel, lambda columns: 10 + 50 * columns) == expected


@pytest.mark.parametrize(
    ("n_layers", "expected"), [(1, (220, 250)), (8, (220, 272)), (12, (220, 340)), (48, (240, 340)), (80, (400, 560))]
)
def test_least_and_best_width_of_a_panel(n_layers: int, expected: tuple[int, int]) -> None:
    assert panel_widths(n_layers, 220, 250, 340) == expected


@pytest.mark.parametrize("prompt", ["The Space Needle is in", "WWWW " * 40, "東京タワーは" * 40, "iiii " * 60])
@pytest.mark.parametrize("size", [12, 19])
def test_a_headline_ends_within_its_line(prompt: str, size: int) -> None:
    text = headline_on(500, prompt, " Seattle", size)
    assert text_width(text, size) <= 500
    assert text.endswith("→ <b>Seattle</b>")
    assert ("…" in text) == (len(prompt) > 30)


# --- the arrangements a figure brings along --------------------------------------------------------------------------
def ways(figure: go.Figure) -> list[dict[str, Any]]:
    return (layout(figure).meta or {}).get(KEY, [])


def rearranged(figure: go.Figure, way: dict[str, Any]) -> go.Figure:
    """What `Plotly.update` makes of a figure."""
    figure = go.Figure(figure)
    for key, value in way["layout"].items():
        layout(figure)[key] = value
    for place, index in enumerate(way["traces"]):
        for key, values in way["data"].items():
            figure.data[index][key] = values[place]
    return figure


@pytest.mark.parametrize(
    ("plot", "results"),
    [
        (plot_trace, traces(80, 30, sever="mlp", method="integrated")),
        (plot_trace, [synthetic_trace(), synthetic_trace(prompt="Another"), synthetic_trace(tokens=(" a", " b"))]),
        (plot_average, averages(18)),
        (plot_average, [synthetic_average(), synthetic_average(metric="kl"), synthetic_average(facts=3)]),
        (plot_severed, severed(48)),
    ],
)
def test_a_rearranged_figure_is_the_one_of_that_width(plot: Any, results: list[Any]) -> None:
    figure = plot(results)
    assert layout(figure).width <= WIDTH
    expected = {layout(other).width: other for other in (plot(results, width=width) for width in WIDTHS)}
    assert len(expected) > 2
    assert sorted(way["size"][0] for way in ways(figure)) == sorted(expected)
    for way in ways(figure):
        other = rearranged(figure, way)
        layout(other).meta = None
        assert other == expected[way["size"][0]]
        assert way["size"] == [layout(other).width, layout(other).height]


def test_a_width_that_was_asked_for_is_kept() -> None:
    assert ways(plot_trace(traces(18, 12), width=900)) == []
    assert ways(plot_trace(traces(8, 12)[0])) == []  # fits all of them as it is


def test_what_was_changed_by_hand_stays() -> None:
    figure = plot_trace(traces(18, 60))
    assert all("title.text" in way["layout"] for way in ways(figure))  # cut to fit
    assert ways(adaptive(figure)) == ways(figure)
    figure.update_layout(title_text="My own")
    assert all("title.text" not in way["layout"] for way in ways(adaptive(figure)))
    assert all("xaxis.domain" in way["layout"] for way in ways(adaptive(figure)))
    layout(figure).annotations = ()
    assert not any("annotations" in key for way in ways(adaptive(figure)) for key in way["layout"])
    figure.update_traces(colorbar_x=0.5)
    assert all(set(way["data"]) == {"colorbar.y"} for way in ways(adaptive(figure)))
    figure.update_layout(width=500)
    assert ways(adaptive(figure)) == []
    assert ways(figure)  # a figure is not changed by being exported
    fewer = plot_trace(traces(18, 60))
    fewer.data = fewer.data[:2]
    assert ways(adaptive(fewer)) == []
    plain = go.Figure(layout={"meta": "mine"})
    assert adaptive(plain) is plain


# --- in a browser ----------------------------------------------------------------------------------------------------
TEXTS = """[...document.querySelectorAll('#figure text')].filter(text => text.textContent.trim()).map(text => {
  const {left, top, right, bottom} = text.getBoundingClientRect();
  return [text.textContent, left, top, right, bottom]; })"""
FIGURE = "document.getElementById('figure')"


def resize(page: Page, width: int) -> None:
    page.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)


def check_page(page: Page) -> None:
    """Nothing is wider than the window, no text leaves it, and no text lies on another."""
    room = page.ask("document.documentElement.clientWidth")
    assert page.ask("document.documentElement.scrollWidth") <= room
    texts = page.ask(TEXTS)
    assert len(texts) > 20
    for text, left, _, right, _ in texts:
        assert left >= 0 and right <= room, text
    for one, other in combinations(texts, 2):
        across = min(one[3], other[3]) - max(one[1], other[1])
        down = min(one[4], other[4]) - max(one[2], other[2])
        assert across <= 1 or down <= 3, (one, other)  # boxes of lines are higher than their letters


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (traces(18, 12), {1300: 3, 1000: 2, 1900: 3}),
        (traces(80, 30), {1300: 2, 1000: 1, 1900: 3}),
        (traces(12, 60), {1300: 3, 1000: 2, 1900: 3}),
        (averages(26), {1300: 3, 1000: 2, 1900: 3}),
    ],
    ids=["18 x 12", "80 x 30", "12 x 60", "average"],
)
def test_a_page_fits_the_window_also_while_it_changes(
    tmp_path: Path, browser: Browser, results: list[Any], expected: dict[int, int]
) -> None:
    with browser.opened(export(results, tmp_path / "x.html"), 1000) as page:
        for width, columns in [*expected.items(), (1000, expected[1000])]:
            resize(page, width)
            tops = f"[0, 1, 2].map(i => {FIGURE}._fullLayout.annotations[i].y)"
            page.wait(f"(y => y.filter(each => each === y[0]).length === {columns})({tops})")
            page.wait(f"{FIGURE}.querySelector('.main-svg').getBoundingClientRect().width === {FIGURE}.layout.width")
            check_page(page)
        assert page.complaints == []


def test_cells_answer_the_mouse_where_they_have_moved_to(tmp_path: Path, browser: Browser) -> None:
    with browser.opened(export(traces(18, 12), tmp_path / "x.html"), 1300) as page:
        page.wait(f"{FIGURE}.layout.width > 1200")
        resize(page, 1000)
        page.wait(f"{FIGURE}.querySelector('.main-svg').getBoundingClientRect().width === 900")
        axes, box = f"{FIGURE}._fullLayout", f"{FIGURE}.getBoundingClientRect()"
        # layer 3 and token 2 of the third panel, which now is below the first
        place = f"[{box}.x + {axes}.xaxis3._offset + {axes}.xaxis3.c2p(3), {box}.y + {axes}.yaxis3._offset"
        x, y = page.ask(f"{place} + {axes}.yaxis3.c2p(2)]")
        page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        page.wait(f"/Need \\(token 2\\).*centre layer 3/.test({FIGURE}.querySelector('.hoverlayer').textContent)")


def test_a_figure_changed_by_hand_is_shown_as_it_is(tmp_path: Path, browser: Browser) -> None:
    figure = plot_trace(traces(18, 12)).update_layout(title_text="My own")
    with browser.opened(export(figure, tmp_path / "x.html"), 1000) as page:
        page.wait(f"{FIGURE}.layout.width === 900")
        assert page.ask(f"{FIGURE}.querySelector('.gtitle').textContent") == "My own"
        check_page(page)
    figure.update_layout(width=1500)
    with browser.opened(export(figure, tmp_path / "x.html"), 1000) as page:
        page.pause(0.3)
        assert page.ask(f"{FIGURE}.layout.width") == 1500
