"""The figure of a training: every number of the history, at its step, in the panel it belongs to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from drawn import check_no_markup, check_places, drawn, headings

import editing
from editing.plots import plot_training
from tracer import TracerError

ROWS = [
    {"step": 0, "rewrite": 0.5, "neighbour": 0.9},
    {"step": 10, "rewrite": 0.7, "neighbour": 0.8, "loss": 2.0, "edit loss": 3.0},
    {"step": 20, "rewrite": 0.9, "neighbour": 0.85, "loss": 1.0, "edit loss": 1.5},
]


def prepared(**more: Any) -> editing.Prepared:
    given: dict[str, Any] = {"method": "mend", "settings": {}, "seed": 0, "fingerprint": "0" * 64, "model": "factworld"}
    given |= {"tokenizer": "0" * 64, "records": "", "tensors": {"x": torch.zeros(1)}, "history": ROWS, "seconds": 61.0}
    return editing.Prepared(**{**given, **more})


def test_losses_and_shares_have_a_panel_each() -> None:
    figure = plot_training(prepared())
    lines = {line.name: line for line in drawn(figure, "scatter")}
    assert list(lines) == ["loss", "edit loss", "rewrite", "neighbour"]
    for name, line in lines.items():
        own = [row for row in ROWS if name in row]
        assert list(line.x) == [row["step"] for row in own] and list(line.y) == [row[name] for row in own]
        assert line.yaxis == ("y" if "loss" in name else "y2")
    assert len({line.line.color for line in lines.values()}) == 4 and len(headings(figure)) == 2
    check_places(figure)


def test_trainings_one_after_the_other_are_not_joined() -> None:
    (line,) = [
        each for each in drawn(plot_training(prepared(history=[*ROWS, *ROWS])), "scatter") if each.name == "loss"
    ]
    assert list(line.x) == [10, 20, None, 10, 20]


def test_a_name_is_no_markup() -> None:
    figure = plot_training(
        prepared(model="<b>m</b>", note="<i>n</i>", history=[{"step": i, "<b>": 1.0} for i in (1, 2)])
    )
    check_no_markup(figure)
    check_places(figure)


def test_what_has_no_history_is_refused() -> None:
    for given, message in (
        (3, "draws what editing.prepare gave, not int"),
        (prepared(history=[]), "prepared for mend has no history"),
    ):
        with pytest.raises(TracerError, match=message):
            plot_training(given)  # type: ignore[arg-type]
