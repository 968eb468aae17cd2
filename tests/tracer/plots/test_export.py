"""Files: each format holds what it should, whole or not at all, and an exported page does nothing but draw."""

from __future__ import annotations

import base64
import csv
import html
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest
from browsers import Browser, found_browser
from synthetic import (
    SPACE_NEEDLE,
    synthetic_attribution,
    synthetic_average,
    synthetic_effects,
    synthetic_trace,
)

from tracer.errors import TracerError
from tracer.plots import plot_average, plot_effects, plot_layers, plot_neurons, plot_trace
from tracer.plots.export import FORMATS, PAGE, export
from tracer.tracing.trace import CausalTrace

KINDS = ("hidden", "mlp", "attn")
MARK = "document.documentElement.setAttribute('data-hacked','1')"
SCRIPT, IMAGE, CLOSING = f"<script>{MARK}</script>", f'<img src=x onerror="{MARK}">', f"</script><script>{MARK}//"


@pytest.fixture
def shown(tmp_path: Path, browser: Browser) -> Callable[[str], str]:
    """The document a browser without any network makes of a page, half a second after it has loaded."""

    def dump(text: str) -> str:
        file = tmp_path / "page.html"
        file.write_text(text, encoding="utf-8")
        with browser.opened(file) as page:
            page.pause(0.5)
            return page.ask("document.documentElement.outerHTML")

    return dump


def listed(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


# --- the page ------------------------------------------------------------------------------------------------------
def test_hostile_texts_are_shown_and_not_run(tmp_path: Path, shown: Callable[[str], str]) -> None:
    tokens = (SCRIPT, IMAGE, CLOSING, *SPACE_NEEDLE)
    trace = synthetic_trace(tokens=tokens, subject_range=(0, 3), answer=SCRIPT, model=SCRIPT, prompt=SCRIPT + IMAGE)
    page = export(trace, tmp_path / "x.html").read_text(encoding="utf-8")
    # point at a cell as well: hover texts are made later than the rest
    hover = "setTimeout(() => Plotly.Fx.hover('figure', {xval: 2, yval: 1}, 'xy'), 200)"
    document = shown(page.replace("</body>", f"<script>{hover}</script></body>"))
    assert "data-hacked" not in re.findall(r"<html[^>]*>", document)[0]
    texts = re.findall(r"<text[^>]*>(.*?)</text>", document, re.DOTALL)
    labels = [html.unescape(re.sub(r"<[^>]*>", "", text)) for text in texts]
    for token in (SCRIPT, IMAGE, CLOSING):
        assert token[:25] + "…*" in labels
    assert any(label.startswith(IMAGE[:40]) and "(token 1)" in label for label in labels), labels
    assert re.search(r'<g class="hm">.*?<image', document, re.DOTALL)  # the heat map itself
    buttons = re.findall(r'<[^>]*class="modebar-btn[^>]*>', document)
    assert any("Download" in button for button in buttons), buttons
    assert not any("Share" in button for button in buttons), buttons  # nothing that would upload the figure
    title = re.findall(r"<title>(.*?)</title>", document, re.DOTALL)[0]
    assert html.unescape(title).startswith("<script>document")


def test_the_browser_would_notice(shown: Callable[[str], str]) -> None:
    for payload in (SCRIPT, IMAGE):
        document = shown(PAGE.format(title="", figure=payload))
        assert "data-hacked" in re.findall(r"<html[^>]*>", document)[0]


def test_a_page_is_complete_in_itself(tmp_path: Path) -> None:
    first = export([synthetic_trace(kind) for kind in KINDS], tmp_path / "a.html").read_bytes()
    page = first.decode()
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=", page[:2000] + page[-60_000:])
    assert "default-src 'none'" in page
    assert "<title>The Space Needle is in downtown → Seattle</title>" in page
    assert page.count("Plotly.newPlot(") >= 1
    again = export([synthetic_trace(kind) for kind in KINDS], tmp_path / "b.html").read_bytes()
    assert first == again


# --- pictures ------------------------------------------------------------------------------------------------------
def test_pictures(tmp_path: Path) -> None:
    found_browser()
    trace = synthetic_trace(tokens=(SCRIPT, " $a$", *SPACE_NEEDLE), subject_range=(0, 1))
    png = export(trace, tmp_path / "x.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    layout: Any = plot_trace(trace).layout
    assert (width, height) == (2 * layout.width, 2 * layout.height)
    svg = export(plot_trace(trace), tmp_path / "x.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "<script" not in svg
    shown = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    assert SCRIPT[:25] + "…*" in shown
    assert "$a$" in shown
    assert export(trace, tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    assert listed(tmp_path) == ["x.pdf", "x.png", "x.svg"]


def test_without_a_browser_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(TracerError, match="apt install chromium"):
        export(synthetic_trace(), tmp_path / "x.png")
    assert listed(tmp_path) == []


def test_without_kaleido_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(TracerError, match=r'pip install "tracer-workbench\[figures\]"; html'):
        export(synthetic_trace(), tmp_path / "x.svg")


# --- numbers -------------------------------------------------------------------------------------------------------
def test_figure_as_json_is_the_figure(tmp_path: Path) -> None:
    figure = plot_trace(synthetic_trace())
    text = export(figure, tmp_path / "x.json").read_text(encoding="utf-8")
    assert plotly.io.from_json(text).to_dict()["layout"]["title"] == figure.to_dict()["layout"]["title"]
    z = json.loads(text)["data"][0]["z"]  # as Plotly writes arrays
    numbers = np.frombuffer(base64.b64decode(z["bdata"])).reshape([int(n) for n in z["shape"].split(",")])
    np.testing.assert_array_equal(numbers, synthetic_trace().scores)


def test_result_as_json_is_its_fields(tmp_path: Path) -> None:
    trace = synthetic_trace("mlp", tokens=("東京", " is"), subject_range=(0, 1))
    content = json.loads(export(trace, tmp_path / "x.json").read_text(encoding="utf-8"))
    assert content["scores"] == trace.scores.tolist()
    assert content["tokens"] == ["東京", " is"]
    assert content["corruption"] == trace.corruption
    several = json.loads(export([trace, trace], tmp_path / "y.json").read_text(encoding="utf-8"))
    assert several == [content, content]


def test_not_a_number_is_null_in_json(tmp_path: Path) -> None:
    trace = synthetic_trace(clean=float("nan"))
    assert json.loads(export(trace, tmp_path / "x.json").read_text())["clean"] is None


def test_result_as_csv_is_its_frame(tmp_path: Path) -> None:
    trace = synthetic_trace(tokens=('a "b", c', " d\n"), subject_range=(0, 1))
    with export(trace, tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["token"] for row in rows] == ['a "b", c'] * 8 + [" d\n"] * 8
    np.testing.assert_array_equal([float(row["score"]) for row in rows], trace.scores.ravel())
    with export([trace, synthetic_trace("mlp")], tmp_path / "y.csv").open(encoding="utf-8", newline="") as file:
        kinds = [row["kind"] for row in csv.DictReader(file)]
    assert kinds == ["hidden"] * 16 + ["mlp"] * 56


def test_result_as_npz_is_read_again(tmp_path: Path) -> None:
    trace = synthetic_trace()
    again = CausalTrace.load(export(trace, tmp_path / "x.npz"))
    np.testing.assert_array_equal(again.scores, trace.scores)
    assert (again.tokens, again.clean, again.corruption) == (trace.tokens, trace.clean, trace.corruption)


# --- every kind of result ------------------------------------------------------------------------------------------
RESULTS = [
    (synthetic_average(), plot_average),
    ([synthetic_average(), synthetic_average("mlp")], plot_average),
    (synthetic_attribution(width=30), plot_neurons),
    ([synthetic_attribution(width=30)], plot_layers),
    (synthetic_effects(), plot_effects),
    ([synthetic_effects(), synthetic_effects("amplify")], plot_effects),
]


@pytest.mark.parametrize(("item", "plot"), RESULTS)
def test_a_result_is_drawn_by_the_function_of_its_kind(tmp_path: Path, item: Any, plot: Callable[..., Any]) -> None:
    page = export(item, tmp_path / "x.html").read_bytes()
    assert page == export(plot(item), tmp_path / "y.html").read_bytes()


@pytest.mark.parametrize("result", [item for item, _ in RESULTS[::2]])
def test_every_result_as_csv_json_and_npz(tmp_path: Path, result: Any) -> None:
    with export(result, tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(result.to_frame())
    content = json.loads(export(result, tmp_path / "x.json").read_text(encoding="utf-8"))
    assert content["model"] == "factworld"
    again = type(result).load(export(result, tmp_path / "x.npz"))
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())


def test_a_table_of_several_results_tells_them_apart(tmp_path: Path) -> None:
    severed = [synthetic_average(), synthetic_average(sever="mlp"), synthetic_average(metric="kl")]
    table = pd.read_csv(export(severed, tmp_path / "x.csv"), keep_default_na=False)
    assert table.groupby(["sever", "metric"]).size().to_dict() == {
        ("", "prob"): 48,
        ("mlp", "prob"): 48,
        ("", "kl"): 48,
    }
    effects = [synthetic_effects(), synthetic_effects("amplify", factor=3.0)]
    table = pd.read_csv(export(effects, tmp_path / "y.csv"))
    assert sorted(set(zip(table["action"], table["factor"], strict=True))) == [("amplify", 3.0), ("suppress", 2.0)]
    assert set(table["prompt"]) == set(effects[0].facts)  # a column of its own is kept


def test_hover_texts_of_numbers_arrive_in_the_browser(tmp_path: Path, shown: Callable[[str], str]) -> None:
    figure = plot_neurons(synthetic_attribution(answer=SCRIPT, prompt=IMAGE), n=0)
    page = export(figure, tmp_path / "x.html").read_text(encoding="utf-8")
    # the column of neurons 8 to 11
    hover = "setTimeout(() => Plotly.Fx.hover('figure', {xval: 9.5, yval: 5}, 'xy'), 200)"
    document = shown(page.replace("</body>", f"<script>{hover}</script></body>"))
    assert "data-hacked" not in re.findall(r"<html[^>]*>", document)[0]
    texts = [html.unescape(re.sub(r"<[^>]*>", " ", t)) for t in re.findall(r"<text[^>]*>(.*?)</text>", document, re.S)]
    assert any("layer 5, neuron 10" in text and "score 0.5" in text for text in texts), texts


# --- refusals ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["x", "x.gif", "html", "x.html.", "x.tar.gz"])
def test_unknown_suffix_lists_what_can_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(TracerError) as caught:
        export(synthetic_trace(), tmp_path / name)
    assert all("." + known in str(caught.value) for known in FORMATS)
    assert listed(tmp_path) == []


@pytest.mark.parametrize(
    ("item", "name", "message"),
    [
        (go.Figure(), "x.csv", "not a figure"),
        (go.Figure(), "x.npz", "not a figure"),
        ([go.Figure()], "x.json", "not a figure"),
        ({"a": 1}, "x.csv", "not a dict"),
        ("text", "x.json", "not a str"),
        ([], "x.csv", "empty"),
        ([], "x.html", "empty"),
        (3, "x.html", "CausalTrace"),
        ("text", "x.html", "no figure is known for str"),
        ([synthetic_trace(), synthetic_average()], "x.html", "results of one kind, not AverageTrace and CausalTrace"),
        ([synthetic_trace()], "x.npz", "one result"),
    ],
)
def test_what_does_not_fit_the_format_is_refused(tmp_path: Path, item: Any, name: str, message: str) -> None:
    with pytest.raises(TracerError, match=message):
        export(item, tmp_path / name)
    assert listed(tmp_path) == []


@pytest.mark.parametrize("name", ["file/x.html", "file/deeper/x.csv", "folder.npz", "folder.json"])
def test_where_nothing_can_be_written_nothing_is_left(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in ("folder.npz", "folder.json"):
        (tmp_path / folder).mkdir()
    before = listed(tmp_path)
    with pytest.raises(TracerError, match="cannot write"):
        export(synthetic_trace(), tmp_path / name)
    assert listed(tmp_path) == before


@pytest.mark.parametrize("name", ["x.html", "x.csv", "x.npz"])
def test_a_write_that_fails_half_way_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for path in (tmp_path / name, tmp_path / "new" / "newer" / name):
        with pytest.raises(TracerError, match="No space left"):
            export(synthetic_trace(), path)
    assert listed(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "old"


def test_an_old_file_is_replaced_and_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.csv"
    assert export(synthetic_trace(), str(path)) == path
    first = path.read_text()
    export(synthetic_trace(corrupted=0.1), path)
    assert path.read_text() != first
    assert listed(path.parent) == ["x.csv"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
