"""Progress bars appear for slow work on a terminal, and only there."""

from __future__ import annotations

import io

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
