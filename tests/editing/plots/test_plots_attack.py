"""Figures of attacks: every layer and every budget at its place."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import HOSTILE, check_no_markup, check_places, drawn, headings

from editing.attack import AttackResult
from editing.plots import plot_attack
from tracer import TracerError

INF = float("inf")


def result(needed: list[float], layers: list[list[float]]) -> AttackResult:
    texts = tuple("abc")
    return AttackResult(
        texts, texts, texts, {"output": np.array(needed)}, np.array(layers), np.array([[0.5]] * 3), {}, 4, HOSTILE
    )


FOUND = {
    "unedited": result([1, 1, 1], [[9, 1], [2, 1], [4, 1]]),
    HOSTILE: result([3, INF, 2], [[9, 5], [2, 3], [4, 3]]),
}


def test_layers_and_budgets_are_drawn() -> None:
    figure = plot_attack(FOUND, "output")
    lines = drawn(figure, "scatter", mode="lines+markers")
    by_name = [(list(line.x), np.array(line.y, dtype=float).round(3).tolist()) for line in lines]
    assert by_name == [
        ([0, 1], [0.667, 1.0]),
        ([1, 2, 3, 4], [1.0] * 4),
        ([0, 1], [0.667, 0.667]),
        ([1, 2, 3, 4], [0.0, 0.333, 0.667, 0.667]),
    ]
    assert lines[0].line.dash == "dash" != lines[2].line.dash and lines[0].line.color != lines[2].line.color
    assert lines[3].customdata[1].startswith("33 % [0, ") and "each layer alone, 4 guesses" in headings(figure)[0]
    assert list(drawn(plot_attack(FOUND, "sampling", 2), "scatter")[1].y) == [0.5, 0.75]
    check_no_markup(figure)
    check_places(figure)
    check_places(plot_attack(FOUND["unedited"], "output", 3))


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(TracerError, match="there is no result to draw"):
        plot_attack({})
    with pytest.raises(TracerError, match=r"draws what editing\.attack\.attack gave, not int"):
        plot_attack({"a": 3})  # type: ignore[dict-item]
    with pytest.raises(TracerError, match="no attack 'head projection' here"):
        plot_attack(FOUND)
    with pytest.raises(TracerError, match="budget is 5"):
        plot_attack(FOUND, "output", 5)
