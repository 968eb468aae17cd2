"""The report: what is on the page, that it runs offline and does what it should, and that texts on it are inert."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import Browser, Page
from commands import assert_one_line, done, run
from handmade_evaluation import CASES, HOSTILE, MARK, evaluation, labels, row

import editing.cli.report  # noqa: F401 (adds its command)
from editing.evaluation.result.evaluation import Evaluation
from editing.report import render, write
from editing.report.cases import packed
from tracer import TracerError


@pytest.fixture(scope="module")
def text() -> str:
    """The page of an evaluation full of hostile texts, method names among them."""
    made = evaluation()
    for name in ("metrics", "answers", "edits", "health"):
        getattr(made, name).replace({"method": {"memit": HOSTILE[1]}}, inplace=True)
    return render(made, title=HOSTILE[0])


@pytest.fixture(scope="module")
def page(text: str, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """That page in a browser. What a test does to it, it undoes."""
    file = tmp_path_factory.mktemp("report") / "page.html"
    file.write_text(text, encoding="utf-8", newline="")
    with browser.opened(file) as page:
        yield page


@pytest.fixture
def small() -> Evaluation:
    """One that has no figures, and is quickly drawn."""
    made = evaluation(cases=4)
    metrics = made.metrics[(made.metrics["metric"] == "fluency") & (made.metrics["mode"] == "single")]
    return Evaluation.of(made.settings, metrics=metrics, answers=made.answers)


def data(text: str, name: str) -> Any:
    """What travels on the page as JSON."""
    start = f'<script type="application/json" id="data-{name}">'
    return json.loads(text.partition(start)[2].partition("</script>")[0])


# --- the file --------------------------------------------------------------------------------------------------------
def test_the_page_is_complete_in_itself_and_names_its_scripts(text: str) -> None:
    policy = html.unescape(re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)[0])
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 2
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}';")
    assert "unsafe-eval" not in policy
    around = text
    for script in scripts:
        around = around.replace(script, "")
    assert not re.search(r"<(?:script|link|img|iframe|object|form)[^>]*\b(?:src|href|data|action)=", around)
    assert not re.search(r"\son\w+=", re.sub(r">[^<]*<", "><", around))
    assert "http" not in re.sub(r'http-equiv="', "", re.sub(r"<script.*?</script>", "", around, flags=re.DOTALL))


def test_the_same_evaluation_is_the_same_page(small: Evaluation, tmp_path: Path) -> None:
    first, second = (write(small, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_tables_are_the_summary(text: str) -> None:
    made, tables = evaluation(), data(text, "tables")
    summary, score = made.summary(), made.score()
    columns = [each["title"] for each in tables["methods"]["columns"]]
    rome = next(cells for cells in tables["methods"]["rows"] if cells[0] == "rome · random layer · single")
    own = summary[summary["control"] == "random layer"].set_index("metric")
    said = own.loc["locality (generated)"]
    ends = f"[{100 * said['low']:.1f}, {100 * said['high']:.1f}]"
    assert rome[columns.index("locality, generated")] == [said["mean"], f"{100 * said['mean']:.1f} %", ends]
    assert rome[columns.index("S")][0] == score.loc[score["control"] == "random layer", "mean"].item()
    assert len(tables["everything"]["rows"]) == len(summary)
    costs = {cells[0]: cells for cells in tables["costs"]["rows"]}
    seconds = made.edits[(made.edits["method"] == "rome") & (made.edits["mode"] == "single")]["seconds"]
    assert costs["rome · single"][3][0] == pytest.approx(seconds.mean())
    assert [cell[1] for cell in costs["rome · single"][4:]] == ["0.155", "100.0 MB", "1.5", "1"]
    assert [cell[1] for cell in costs[f"{HOSTILE[1]} · sequential"][1:3]] == ["11", "1"]
    assert tables["failures"]["rows"] == [[f"{HOSTILE[1]} · sequential", "11", f"cannot be made {HOSTILE[0]}"]]


def test_answers_are_all_there() -> None:
    made = evaluation()
    content = packed(made)
    texts, found = content["texts"], []
    assert len(texts) == len(set(texts))
    for series in content["series"]:
        for number, answers in series["answers"].items():
            case, _, questions = content["cases"][number]
            for place, nll, _, _, _, said, generated, _ in answers:
                kind, prompt, *_ = questions[place]
                found.append((series["name"], case, texts[kind], texts[prompt], nll, said, texts[generated]))
    names = {"": "", "random layer": " · random layer", "random direction": " · random direction"}
    asked = [
        (
            each["method"] + names[each["control"]] + (" · single" if each["method"] != "unedited" else ""),
            *(each[name] for name in ("case_id", "kind", "prompt")),
            *(None if np.isnan(each[name]) else each[name] for name in ("nll", "match")),
            each["generated"],
        )
        for each in made.answers.to_dict("records")
    ]
    assert sorted(found, key=str) == sorted(asked, key=str)
    before = [content["series"][each["before"]]["name"] for each in content["series"] if each["before"] >= 0]
    assert before == ["unedited"] * 4
    assert len(packed(made, 5)["cases"]) == 5
    assert packed(made, 0)["cases"] == []


def test_what_was_asked_before_and_asked_twice() -> None:
    rome = labels("rome", mode="batch")
    shared = {"kind": "rewrite", "prompt": "p", "answer": "a", "against": None, "generated": None}
    shared |= dict.fromkeys(("nll_against", "accuracy", "exact", "match"), np.nan)
    answers = [
        {**rome, "case_id": "0", "after": after, "nll": after + k, **shared} for after in (0, 3) for k in (0, 10)
    ]
    metrics = [row(rome, 0, "fluency", 1.0, position=2, after=3)]
    content = packed(Evaluation.of(metrics=metrics, answers=answers))
    assert [(each["shown"], each["before"]) for each in content["series"]] == [(True, 1), (False, -1)]
    assert len(content["cases"][0][2]) == 2  # the same question twice is two questions
    assert [each[:2] for each in content["series"][0]["answers"][0]] == [[0, 3], [1, 13]]
    assert [each[:2] for each in content["series"][1]["answers"][0]] == [[0, 0], [1, 10]]


def test_what_was_not_measured_is_left_out_and_said(small: Evaluation) -> None:
    least = Evaluation.of({"records": list(range(5000))}, metrics=[row(labels("rome"), 0, "fluency", 1.0)])
    text = render(least)
    assert data(text, "figures") == {}
    assert "The unedited model was not measured" in text
    assert "5,000 entries" in text
    assert 'id="cases-section"' not in text
    uneven = [row(labels(name), i, "fluency", 1.0) for name, n in (("rome", 2), ("memit", 3)) for i in range(n)]
    assert "was measured on the same cases (2 to 3)" in render(Evaluation.of(metrics=uneven))
    first = render(small, cases=3)
    assert "The first 3 of 4 cases are here" in first
    assert len(data(first, "cases")["cases"]) == 3
    for item, cases, message in (
        (Evaluation.of(), None, "no metrics yet"),
        (least.metrics, None, "not DataFrame"),
        (least, -1, "cases is -1"),
    ):
        with pytest.raises(TracerError, match=message):
            render(item, cases=cases)


# --- in the browser --------------------------------------------------------------------------------------------------
def test_it_opens_offline_and_complains_about_nothing(page: Page) -> None:
    assert [each for each in page.requests if not each.startswith("data:")] == [page.ask("location.href")]
    assert page.requests[0].startswith("file:///")
    assert (
        page.ask("[...document.querySelectorAll('figure')].map((f) => f.querySelectorAll('.main-svg').length)")
        == [3] * 5
    )
    assert page.complaints == []


def test_texts_are_inert(page: Page) -> None:
    assert page.ask("document.documentElement.hasAttribute('data-hacked')") is False
    assert page.ask("document.title") == HOSTILE[0]
    assert page.ask("document.querySelector('h1').textContent") == HOSTILE[0]
    assert page.ask("document.querySelectorAll('img').length") == 0
    assert (
        page.ask("[...document.querySelectorAll('script')].map((s) => s.type)") == ["application/json"] * 3 + [""] * 2
    )
    options = page.ask("[...document.querySelectorAll('#series option')].map((o) => o.textContent)")
    assert f"{HOSTILE[1]} · single" in options
    for number, nasty in enumerate(HOSTILE):
        page.ask(f"document.querySelectorAll('#cases tbody button')[{number}].click()")
        cells = page.ask("[...document.querySelectorAll('#case td')].map((cell) => cell.textContent)")
        assert f"Subject {number} rewrite prompt {nasty}" in cells
        assert f" Paris rome {nasty}" in cells
        assert page.ask("[...document.querySelectorAll('#case td[dir]')].every((c) => c.childElementCount === 0)")
    for figure in ("bars", "retention", "health", "radar-generated"):  # hover texts are made later than the rest
        page.ask(f"Plotly.Fx.hover('figure-{figure}', [{{curveNumber: 1, pointNumber: 1}}])")
    assert page.ask("document.documentElement.hasAttribute('data-hacked')") is False
    # a mark that turns the direction of a text turns nothing beside it
    turned = "getComputedStyle(document.querySelector('#case td[dir]')).unicodeBidi"
    assert page.ask(turned) == "isolate"
    assert page.complaints == []


def test_the_policy_forbids_foreign_scripts_and_requests(page: Page) -> None:
    page.ask(f"document.body.append(Object.assign(document.createElement('script'), {{textContent: `{MARK}`}}))")
    page.ask(f"document.body.insertAdjacentHTML('beforeend', `<img id=added src=x onerror=\"{MARK}\">`)")
    assert page.ask("fetch('http://127.0.0.1:9/x').then(() => 'sent', () => 'refused')") == "refused"
    assert page.ask("document.documentElement.hasAttribute('data-hacked')") is False
    assert sum("Content Security Policy" in each for each in page.complaints) >= 3
    page.ask("document.body.querySelectorAll('#added, script:last-of-type').forEach((each) => each.remove())")
    page.complaints.clear()


def test_the_browser_would_notice(tmp_path: Path, browser: Browser) -> None:
    file = tmp_path / "page.html"
    file.write_text(f"<p><script>{MARK}</script><img src='http://127.0.0.1:9/x.png'><script>undefined.x</script></p>")
    with browser.opened(file) as page:
        assert page.ask("document.documentElement.hasAttribute('data-hacked')") is True
        assert "http://127.0.0.1:9/x.png" in page.requests
        assert any("undefined" in each for each in page.complaints)


def column(page: Page, grid: str, place: int) -> list[str]:
    cells = f"[...document.querySelectorAll('#{grid} tbody tr')].map((line) => line.children[{place}])"
    return page.ask(f"{cells}.map((cell) => cell.firstChild ? cell.firstChild.textContent : '')")


def click(page: Page, selector: str, place: int = 0) -> None:
    page.ask(f"document.querySelectorAll('{selector}')[{place}].click()")


def write_in(page: Page, grid: str, words: str) -> str:
    """Filter a table; returns what its status says."""
    box = f"document.querySelector('#{grid} input')"
    page.ask(f"{box}.value = {json.dumps(words)}; {box}.dispatchEvent(new Event('input'))")
    return page.ask(f"document.querySelector('#{grid} [role=status]').textContent")


def test_sorting(page: Page) -> None:
    heads = page.ask("[...document.querySelectorAll('#methods thead button')].map((button) => button.textContent)")
    place = heads.index("reliability, generated")
    first = column(page, "methods", place)
    state = f"document.querySelectorAll('#methods thead th')[{place}].getAttribute('aria-sort')"
    assert page.ask(state) == "none"
    click(page, "#methods thead button", place)
    assert page.ask(state) == "descending"
    found = column(page, "methods", place)
    assert found == sorted(first, key=lambda each: -float(each.removesuffix(" %")))
    assert found != first
    click(page, "#methods thead button", place)
    assert page.ask(state) == "ascending"
    assert column(page, "methods", place) == sorted(first, key=lambda each: float(each.removesuffix(" %")))
    click(page, "#methods thead button", heads.index("S"))  # missing at the end, both ways
    for _ in range(2):
        scores = column(page, "methods", heads.index("S"))
        assert [each == "–" for each in scores] == [False] * 5 + [True] * 4
        click(page, "#methods thead button", heads.index("S"))
    click(page, "#cases thead button")  # numbers as texts: 2 before 10
    assert column(page, "cases", 0) == [str(case) for case in range(CASES)]


def test_filtering_and_turning_pages(page: Page) -> None:
    rows = page.ask("JSON.parse(document.getElementById('data-tables').textContent).everything.rows")
    assert write_in(page, "everything", "") == f"rows 1 to 25 of {len(rows)}"
    click(page, "#everything .bar button", 1)
    assert column(page, "everything", 1) == [cells[1] for cells in rows[25:50]]
    status = write_in(page, "everything", "RELIABILITY unedited")
    wanted = [cells for cells in rows if "reliability" in cells[1] and cells[0] == "unedited"]
    assert status == f"{len(wanted)} of {len(rows)} rows"
    assert column(page, "everything", 1) == [cells[1] for cells in wanted]
    assert page.ask("document.querySelectorAll('#everything .bar button')[1].hidden") is True
    assert write_in(page, "everything", "no such words") == "nothing found"
    write_in(page, "everything", "")


def test_one_case(page: Page) -> None:
    assert write_in(page, "cases", "subject 3") == f"1 of {CASES} rows"
    click(page, "#cases tbody button")
    assert page.ask("document.querySelector('#case h3').textContent") == "Case 3: Subject 3, rome · single"
    assert page.ask("document.activeElement.id") == "case"
    lines = "[...document.querySelectorAll('#case table')].map((table) => [...table.tBodies[0].rows].map("
    questions, texts = page.ask(f"{lines}(line) => [...line.cells].map((cell) => cell.textContent)))")
    kinds = ["rewrite", "paraphrase", "neighbour", "one_hop"]
    assert [line[0] for line in questions] == kinds
    changed = ["no → yes"] * 3
    assert questions[0][3:10] == [" Rome", "3.250 → 0.500", "2.000", *changed, " Rome"]
    assert questions[2][4:9] == ["0.500", "2.000", "yes", "yes", "yes"]
    assert texts[0][2:] == [f"Subject 3 is {HOSTILE[3]}, by {method}." for method in ("unedited", "rome")]
    page.ask("const s = document.querySelector('#series'); s.value = '0'; s.dispatchEvent(new Event('change'))")
    assert page.ask("document.querySelector('#case h3').textContent") == "Case 3: Subject 3, unedited"
    assert page.ask(f"{lines}(line) => line.cells[4]?.textContent))")[0][0] == "3.250"
    page.ask("document.querySelector('#series').value = '1'")
    page.ask("document.querySelector('#series').dispatchEvent(new Event('change'))")
    write_in(page, "cases", "")


def test_with_the_keyboard_and_without_a_mouse(page: Page) -> None:
    unnamed = (
        "[...document.querySelectorAll('input, select, button')].filter((each) => !(each.textContent "
        "|| each.ariaLabel || each.labels?.length) && !each.closest('figure')).length"
    )
    assert page.ask(unnamed) == 0
    page.ask("document.querySelector('#costs thead button').focus()")
    page.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)
    page.send("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)
    assert page.ask("document.querySelector('#costs thead th').getAttribute('aria-sort')") == "ascending"


def contrast(page: Page, selector: str) -> float:
    """WCAG's ratio of a text to the page behind it."""
    light = []
    for expression in (
        f"getComputedStyle(document.querySelector('{selector}')).color",
        "getComputedStyle(document.body).backgroundColor",
    ):
        values = np.array([int(n) / 255 for n in re.findall(r"\d+", page.ask(expression))[:3]])
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(light) / min(light)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark_and_on_paper(page: Page, scheme: str) -> None:
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    for selector in ("body", ".counts span", "#methods small", "nav a", "#methods .bar", "#cases tbody button"):
        assert contrast(page, selector) > 4.5, selector
    page.send("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": scheme}])
    assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.ask("getComputedStyle(document.querySelector('#methods .bar')).display") == "none"
    assert page.ask("getComputedStyle(document.querySelector('figure')).filter") == "none"
    page.send("Emulation.setEmulatedMedia", media="", features=[])


# --- the command -----------------------------------------------------------------------------------------------------
def test_command(small: Evaluation, tmp_path: Path) -> None:
    file = small.save(tmp_path / "run.sqlite")
    out = tmp_path / "new" / "page.html"
    assert done("report", str(file), "--out", str(out), "--title", "Edits").split() == ["wrote", str(out)]
    assert "<title>Edits</title>" in out.read_text(encoding="utf-8")
    printed = done("report", str(file), "--cases", "2", "--table")
    assert "rome · random layer" in printed
    assert len(data((tmp_path / "run.html").read_text(encoding="utf-8"), "cases")["cases"]) == 2
    assert_one_line(run("report", str(tmp_path / "none.sqlite")), "cannot read")
    assert_one_line(run("report", str(out)), "is no SQLite file")
    assert_one_line(run("report", str(file), "--cases", "-1"), "'--cases'")
