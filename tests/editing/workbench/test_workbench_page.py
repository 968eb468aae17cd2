"""The page of the workbench, without a browser: what it shows, what its buttons do, and what it does with mishaps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edit_command import RECORDS
from handmade import own
from prepared_toy import register

import editing
import editing.workbench.page as page_module
from editing.workbench import texts
from editing.workbench.cells import cell_of
from editing.workbench.edit_panel import as_layers
from editing.workbench.page import Workbench
from tracer import workbench
from tracer.errors import TracerError
from tracer.model import Model
from tracer.progress import track

Tiny = Callable[[str], Model]
SUBJECT = "The Space Needle"
NASTY = "<img src=x onerror=alert(1)>"
WAIT = 60


@pytest.fixture
def bench(tiny: Tiny) -> Workbench:
    made = workbench(own(tiny("gpt2")))
    made.fact.samples.value, made.fact.sigma.value = 2, 1.0
    made.edit_panel.method.value = "ft_m"
    return made


def done(bench: Workbench) -> str:
    """The message after the job at work."""
    assert bench.job is not None
    bench.job.wait(WAIT)
    assert bench.job.state == "done", bench.status.message.value
    return bench.status.message.value


def test_files_that_were_prepared_are_offered(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACER_CACHE", str(tmp_path / "cache"))
    model = own(tiny("gpt2"))
    file = editing.prepare(model, "taught", RECORDS, cache=False).save("taught.safetensors")
    bench = workbench(model)
    panel = bench.edit_panel
    assert panel.prepared.options == ()
    panel.method.value = "mend"  # of which there is none here
    assert panel.prepared.options == () and "tracer prepare mend" in panel.prepared.placeholder
    panel.method.value = "taught"
    assert panel.prepared.options == (str(file),) and "1" in panel.prepared.placeholder
    panel.target.value = "Paris"
    bench.edit()
    assert bench.job is not None
    bench.job.wait(WAIT)
    assert "tracer prepare taught" in bench.status.message.value
    panel.prepared.value = str(file)
    bench.edit()
    assert "Edit 1 is made: taught" in done(bench)
    panel.method.value = "ft_m"
    assert panel.prepared.value == "" and "prepared" not in panel.settings()


def test_trace_click_edit_undo_and_export(bench: Workbench, tmp_path: Path) -> None:
    from plotly.callbacks import Points

    before = bench.session.model.fingerprint()
    assert "tw-subject" in bench.fact.tokens.value
    assert bench.history.undo.disabled and bench.history.go.disabled
    bench.trace()
    assert "Traced" in done(bench)
    assert [trace.kind for trace in bench.heat.traces] == ["hidden", "mlp", "attn"]
    assert bench.edit_panel.layers.value == str(bench.session.suggestion(bench.heat.traces[1]).best)
    bench.heat.view.value = "side by side"
    for place, trace in enumerate(bench.heat.traces):
        heat = bench.heat.figure.data[place]
        row, layer = 2, 3
        heat._dispatch_on_click(Points(point_inds=[[row, layer]], xs=[layer], ys=[row]), None)
        assert bench.heat.chosen is not None
        clicked, cell = bench.heat.chosen
        assert (clicked, cell) == (trace, cell_of(trace, trace.positions[row], layer))
        assert bench.heat.numbers.value == texts.cell(cell, trace)
        assert (bench.heat.trace.value, bench.heat.token.value, bench.heat.layer.value) == (place, 2, 3)
        assert bench.heat.figure.layout.shapes[-1].x0 == layer - 0.5
    bench.heat.trace.value = 1
    assert bench.edit_panel.layers.value == "3"
    bench.heat.layer.value = 0  # the keyboard's way
    assert bench.heat.chosen is not None and bench.heat.chosen[1].layer == 0
    assert bench.edit_panel.layers.value == "0"
    bench.edit_panel.method.value = "lora"  # writes at several
    window = bench.heat.chosen[1].around.window
    assert bench.edit_panel.layers.value == ", ".join(map(str, window))
    for method in ("grace", "wise", "serac"):  # which keep edits at layers of their own, or at none
        bench.edit_panel.method.value = method
        assert bench.edit_panel.layers.value == ""
        bench.edit_panel.method.value = "lora"
        assert bench.edit_panel.layers.value == ", ".join(map(str, window))
    bench.edit_panel.layers.value = "2"
    bench.edit_panel.method.value = "ft_m"
    assert bench.edit_panel.layers.value == "2"  # typed by hand
    bench.edit_panel.target.value = "Paris"
    bench.edit_panel.paraphrases.value = "{} stands in\n"
    bench.edit()
    assert "Edit 1 is made: ft_m, layer 2: The Space Needle is in downtown → Paris." in done(bench)
    outcome = bench.session.outcome()
    assert outcome is not None and len(outcome.probes.group("paraphrase")) == 1
    assert "The Space Needle stands in" in bench.outcome.table.value
    assert "other weights" in bench.heat.note.value
    assert not bench.history.undo.disabled
    bench.export_panel.folder.value = str(tmp_path / "out")
    for name in ("figures", "adapters", "ledger"):
        bench.export_panel.parts[name].value = False
    bench.export()
    assert "edit_1_ft_m.safetensors" in done(bench)
    bench.undo()
    assert "exact bits" in done(bench)
    assert bench.session.model.fingerprint() == before
    assert (bench.outcome.table.value, bench.heat.note.value) == ("", "")
    assert bench.history.state.value == 0
    bench.history.state.value = 1
    bench.checkout()
    done(bench)
    assert bench.session.position == 1


def test_while_something_is_at_work_only_cancel_can_be_pressed(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[tuple] = []
    before = bench.session.model.fingerprint(), bench.box.children[1].children[2].value

    def tell(title: str, job: Any) -> None:
        if job.cancelling:
            return
        states.append(({control.disabled for control in bench._controls}, bench.status.cancel.disabled, bench.busy))
        bench.status.__class__.tell(bench.status, title, job)
        bench.trace()  # a second one
        states.append((bench.status.message.value, bench.status.bar.value, bench.status.bar.max))
        bench.cancel()

    monkeypatch.setattr(bench.status, "tell", tell)
    bench.edit_panel.target.value = "Paris"
    bench.edit()
    assert bench.job is not None
    bench.job.wait(WAIT)
    assert states[0] == ({True}, False, True)
    assert "there is work going on" in states[1][0]
    assert states[1][2] > 1
    assert bench.job.state == "cancelled"
    assert "Cancelled; everything is as it was before." in bench.status.message.value
    assert bench.status.cancel.disabled and bench.status.work.layout.display == "none"
    assert {control.disabled for control in bench._controls} == {False, True}
    assert [control for control in bench._controls if control.disabled] == [bench.history.go, bench.history.undo]
    assert (bench.session.model.fingerprint(), bench.box.children[1].children[2].value) == before
    assert bench.session.history == ()


def test_what_goes_wrong_is_said_on_the_page(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bench.session.model.fingerprint()
    bench.edit()
    assert "there is no new target" in bench.status.message.value
    assert bench.edit_panel.slot.children == (bench.status.box,)
    bench.edit_panel.target.value, bench.edit_panel.layers.value = "Paris", "9"
    bench.edit()
    assert bench.job is not None
    bench.job.wait(WAIT)
    assert "tw-error" in bench.status.message.value and "needs a layer from 0 to 3" in bench.status.message.value
    bench.fact.subject.value = f"{NASTY}"
    assert (
        "&lt;img src=x onerror=alert(1)&gt;" in bench.status.message.value and "<img" not in bench.status.message.value
    )
    assert bench.fact.slot.children == (bench.status.box,) and bench.edit_panel.slot.children == ()
    bench.fact.subject.value = SUBJECT
    assert bench.status.message.value == ""

    def broken(*_: Any, **__: Any) -> None:
        list(track(range(2), "breaking"))
        raise RuntimeError(f"out of {NASTY}")

    monkeypatch.setattr(bench.session, "traced", broken)
    bench.trace()
    bench.job.wait(WAIT)
    told = bench.status.message.value
    assert "RuntimeError: out of &lt;img" in told and "<img" not in told and "test_workbench_page.py" in told
    assert not bench.fact.button.disabled
    assert (bench.session.model.fingerprint(), bench.session.history) == (before, ())
    monkeypatch.setattr(page_module.Workbench, "_states_changed", broken)
    bench.history.state.options = [*bench.history.state.options, ("9", 9)]
    bench.history.state.value = 9
    bench.checkout()
    bench.job.wait(WAIT)
    assert "there is no state 9" in bench.status.message.value


@pytest.mark.parametrize(
    ("text", "layers"),
    [("", None), ("3", (3,)), (" 2, 4;6 ", (2, 4, 6)), ("2-4, 3", (2, 3, 4)), ("2 to 3", (2, 3)), ("1–2", (1, 2))],
)
def test_layers_are_read(text: str, layers: tuple[int, ...] | None) -> None:
    assert as_layers(text) == layers


@pytest.mark.parametrize("text", ["x", "4-2", "1.5", "-1", "1 2", "0-99999999"])
def test_layers_that_are_none(text: str) -> None:
    with pytest.raises(TracerError, match=r"layers are .*; expected"):
        as_layers(text)


@pytest.mark.parametrize("missing", ["ipywidgets", "anywidget"])
def test_without_widgets(missing: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(TracerError, match=r'pip install "tracer-workbench\[lab\]"'):
        workbench(tiny("gpt2"))
