"""Progress bars appear for slow work on a terminal, and only there."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from tracer import progress


@pytest.mark.parametrize(
    ("terminal", "patience", "drawn"), [(True, 0.0, True), (True, 60.0, False), (False, 0.0, False)]
)
def test_draws_only_for_slow_work_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, patience: float, drawn: bool
) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, force_jupyter=False, width=80)
    monkeypatch.setattr(progress, "_console", lambda: console)
    monkeypatch.setattr(progress._Patient, "patience", patience)
    assert list(progress.track(range(3), "counting")) == [0, 1, 2]
    assert ("counting" in written.getvalue()) == drawn


def test_an_exception_passes_and_the_bar_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, force_jupyter=False)
    monkeypatch.setattr(progress, "_console", lambda: console)
    monkeypatch.setattr(progress._Patient, "patience", 0.0)
    with pytest.raises(KeyError, match="inside"), progress.bar("working", 2) as shown:
        shown.advance(shown.task_ids[0])
        assert shown.live.is_started
        raise KeyError("inside")
    assert not shown.live.is_started


@pytest.mark.parametrize(("setting", "drawn"), [(None, True), ("0", False)])
def test_only_the_outer_bar_draws_and_none_if_so_set(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, drawn: bool
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(
        progress, "_console", lambda: Console(file=written, force_terminal=True, force_jupyter=False, width=80)
    )
    monkeypatch.setattr(progress._Patient, "patience", 0.0)
    monkeypatch.delenv("TRACER_PROGRESS", raising=False)
    if setting is not None:
        monkeypatch.setenv("TRACER_PROGRESS", setting)
    for _ in progress.track(range(2), "outer"):
        assert list(progress.track(range(2), "inner")) == [0, 1]
    assert ("outer" in written.getvalue()) == drawn
    assert "inner" not in written.getvalue()
    written.truncate(0)
    assert list(progress.track(range(2), "after")) == [0, 1]
    assert ("after" in written.getvalue()) == drawn


# --- a listener ------------------------------------------------------------------------------------------------------
@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What an impatient terminal shows."""
    shown = io.StringIO()
    monkeypatch.setattr(
        progress, "_console", lambda: Console(file=shown, force_terminal=True, force_jupyter=False, width=80)
    )
    monkeypatch.setattr(progress._Patient, "patience", 0.0)
    monkeypatch.delenv("TRACER_PROGRESS", raising=False)
    return shown


def test_a_listener_hears_the_outer_bar_and_nothing_is_drawn(written: io.StringIO) -> None:
    heard: list[tuple] = []
    with progress.heard(lambda *report: heard.append(report)):
        for _ in progress.track(range(2), "outer"):
            assert list(progress.track(range(3), "inner")) == [0, 1, 2]
        with progress.bar("open", None) as shown:
            shown.update(shown.task_ids[0], total=9, advance=4, description="closed")
    assert heard == [("outer", 0, 2), ("outer", 1, 2), ("outer", 2, 2), ("open", 0, None), ("closed", 4, 9)]
    assert written.getvalue() == ""
    assert list(progress.track(range(2), "after")) == [0, 1]
    assert len(heard) == 5
    assert "after" in written.getvalue()


def test_a_single_step_is_passed_over_for_what_is_inside(written: io.StringIO) -> None:
    heard: list[tuple] = []
    with progress.heard(lambda *report: heard.append(report)):
        for _ in progress.track([0], "single"):
            for _ in progress.track(range(2), "inner"):
                assert list(progress.track(range(2), "innermost")) == [0, 1]
    assert heard == [("inner", 0, 2), ("inner", 1, 2), ("inner", 2, 2)]
    assert written.getvalue() == ""


def test_a_listener_inside_a_bar_hears_its_own_work_and_the_bar_goes_on(written: io.StringIO) -> None:
    heard: list[tuple] = []
    for _ in progress.track(range(2), "drawn"):
        with progress.heard(lambda *report: heard.append(report)):
            list(progress.track(range(2), "own"))
        list(progress.track(range(2), "quiet"))
    assert [report[1] for report in heard] == [0, 1, 2] * 2
    assert "quiet" not in written.getvalue()


def test_what_a_listener_raises_ends_the_work(written: io.StringIO) -> None:
    class Stop(BaseException):
        pass

    def listener(description: str, done: float, total: float | None) -> None:
        if done == 2:
            raise Stop

    seen = []
    with pytest.raises(Stop), progress.heard(listener):
        for number in progress.track(range(5), "counting"):
            seen.append(number)
    assert seen == [0, 1]
    list(progress.track(range(2), "after"))
    assert "after" in written.getvalue()


def test_other_threads_do_not_hear(written: io.StringIO) -> None:
    heard: list[tuple] = []
    with progress.heard(lambda *report: heard.append(report)):
        thread = threading.Thread(target=lambda: list(progress.track(range(2), "elsewhere")))
        thread.start()
        thread.join()
    assert heard == []
    assert "elsewhere" in written.getvalue()
