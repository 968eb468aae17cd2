"""The workbench in a real JupyterLab: start, cancel, trace, click, edit, undo, with the mouse and the keyboard."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browsers import Browser, Page
from lab import evaluated, notebook, run_all

pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")

CELL = """
import threading, tracer
bench = tracer.workbench()
before = bench.session.model.fingerprint()
bench.fact.samples.value = 3
gate = threading.Event()  # holds the first forward, so that there is time to look at the page meanwhile
hold = bench.session.model.module("hidden", 0).register_forward_pre_hook(lambda *_: [gate.wait(60), None][1])
bench
"""
PLOT = "document.querySelector('.tw-figure .js-plotly-plot')"
STATUS = "document.querySelector('.tw-status')?.textContent"


def place_of_cell(page: Page, row: int, layer: int) -> tuple[float, float]:
    """The middle of a cell of the heat map that is drawn, in pixels of the view."""
    page.ask(f"{PLOT}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    page.pause(0.2)
    box, axes = f"{PLOT}.getBoundingClientRect()", f"{PLOT}._fullLayout"
    return (
        page.ask(f"{box}.x + {axes}.xaxis._offset + {axes}.xaxis.c2p({layer})"),
        page.ask(f"{box}.y + {axes}.yaxis._offset + {axes}.yaxis.c2p({row})"),
    )


def choose(page: Page, selector: str, number: int) -> None:
    """Take an entry of a drop-down list, as the keyboard does."""
    page.ask(
        f"(() => {{ const list = document.querySelector({json.dumps(selector)}); list.selectedIndex = {number}; "
        "list.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )


def press_view(page: Page, number: int) -> None:
    """Show one of the heat maps."""
    page.click_on(f".tw-view button:nth-of-type({number + 1})")


def test_start_cancel_trace_click_edit_undo(tmp_path: Path, browser: Browser) -> None:
    with notebook(tmp_path, browser, [CELL]) as page:
        run_all(page)
        page.wait("!!document.querySelector('button.tw-trace:not([disabled])')", 120)

        # cancelled while it is at work; the kernel answers meanwhile
        page.click_on(".tw-trace")
        page.wait("!!document.querySelector('button.tw-cancel:not([disabled])')")
        page.wait("document.querySelector('button.tw-trace').disabled")
        page.wait("document.querySelector('.tw-prompt input').disabled")
        assert evaluated(page, "(bench.busy, bench.job.state, 6 * 7)") == "(True, 'running', 42)"
        page.click_on("button.tw-cancel")
        page.wait("document.querySelector('button.tw-cancel').disabled")
        evaluated(page, "(gate.set(), hold.remove())")
        page.wait(f"/Cancelled; everything is as it was/.test({STATUS})")
        assert evaluated(page, "(bench.session.traces, bench.busy)") == "((), False)"
        page.wait("!document.querySelector('button.tw-trace').disabled")

        # traced, and cells clicked with the mouse: of MLPs, which are shown first, and of attention
        page.click_on(".tw-trace")
        page.wait(f"!!{PLOT} && !!{PLOT}.querySelector('.hm image')", 120)
        page.wait(f"/Traced 'Seattle'/.test({STATUS})")
        for number, kind, row, layer in ((1, "mlp", 5, 2), (2, "attn", 8, 6)):
            press_view(page, number)
            page.wait(f"/{ {'mlp': 'MLP', 'attn': 'attention'}[kind] } outputs/.test({PLOT}.textContent)")
            page.wait(f"!!{PLOT}.querySelector('.hm image')")
            page.click(*place_of_cell(page, row, layer))
            page.wait(f"document.querySelector('.tw-cell-layer select').value === '{layer}'")
            chosen = "(lambda t, c: (t.kind, c.token, c.layer))(*bench.heat.chosen)"
            assert evaluated(page, chosen) == f"('{kind}', {row}, {layer})"
            score = evaluated(page, f"f'{{bench.heat.traces[{number}].scores[{row}, {layer}]:.4f}}'").strip("'")
            page.wait(f"document.querySelector('.tw-numbers').textContent.includes('{score}')")
        page.wait("document.querySelector('.tw-layers input').value === '2'")  # attention suggests none

        # edited
        page.type_into(".tw-target input", "Paris")
        methods = page.ask("[...document.querySelectorAll('.tw-method option')].map(each => each.textContent)")
        choose(page, ".tw-method select", next(i for i, each in enumerate(methods) if each.startswith("ft_m")))
        page.click_on(".tw-edit")
        page.wait("!!document.querySelector('.tw-outcome table')", 120)
        table = page.ask("document.querySelector('.tw-outcome').innerText")
        assert re.search(r"Edit 1: ft_m, layer 2: The Space Needle is in downtown → Paris", table)
        for words in ("Seattle → Paris", "paraphrases", "neighbours", "other facts of the subject", "written text"):
            assert words in table
        assert evaluated(page, "bench.session.model.fingerprint() == before") == "False"

        # undone
        page.click_on(".tw-undo")
        page.wait(f"/Undone: the model has the exact bits of before/.test({STATUS})")
        assert evaluated(page, "bench.session.model.fingerprint() == before") == "True"
        page.wait("document.querySelector('.tw-outcome').innerText.trim() === ''")
        page.wait("document.querySelector('.tw-history').innerText.includes('undone')")
        assert page.complaints == []
        assert [each for each in page.requests if not re.match(r"(https?|ws)://127\.0\.0\.1:|data:|blob:", each)] == []
