"""Figures of task arithmetic: every loss at its factor, every cosine in its cell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from drawn import HOSTILE, check_no_markup, check_places, drawn, layout, plain
from handmade import handmade

from editing.plots import plot_cosines, plot_scaled_losses
from editing.tasks import ScaledLosses, cosines
from tracer import Model, TracerError

Tiny = Callable[[str], Model]
LOSSES = {"target": np.array([9.0, 4.0, 0.5]), HOSTILE: np.array([1.0, 1.1, 1.4])}


def test_every_loss_is_drawn_at_its_factor() -> None:
    items = {name: np.stack([loss - 0.2, loss, loss + 0.2], 1) for name, loss in LOSSES.items()}
    found = ScaledLosses((0.0, 0.5, 1.0), items, dict.fromkeys(items, tuple("abc")), "<i>m</i>", "<b>x</b>", "print")
    figure = plot_scaled_losses(found)
    lines, bands = drawn(figure, "scatter", mode="lines+markers"), drawn(figure, "scatter", fill="toself")
    for band, name in zip(bands, LOSSES, strict=True):
        ends = found.intervals(name)
        np.testing.assert_allclose(np.array(band.y, dtype=float), [*ends[:, 2], *ends[::-1, 1]])
    for line, losses in zip(lines, LOSSES.values(), strict=True):
        np.testing.assert_allclose(np.array(line.y, dtype=float), losses)
    assert all(list(line.x) == [0.0, 0.5, 1.0] for line in lines) and lines[0].line.color != lines[1].line.color
    assert layout(figure).xaxis.title.text == "factor"
    check_no_markup(figure)
    check_places(figure)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_every_cosine_is_in_its_cell(count: int, tiny: Tiny) -> None:
    edits = [handmade(tiny("gpt2"), (1, 2), seed=seed) for seed in range(count)]
    names = [HOSTILE, *(f"edit {place}" for place in range(1, count))]
    figure = plot_cosines(edits, names)
    (cells,) = drawn(figure, "heatmap")
    np.testing.assert_allclose(np.array(cells.z, dtype=float), cosines(edits))
    assert [plain(text) for text in layout(figure).xaxis.ticktext[1:]] == names[1:]
    assert (cells.text is None) == (count > 10)
    check_no_markup(figure)
    check_places(figure)


def test_what_cannot_be_drawn_is_said(tiny: Tiny) -> None:
    with pytest.raises(TracerError, match=r"draws what editing\.scaled_losses gave, not int"):
        plot_scaled_losses(3)  # type: ignore[arg-type]
    with pytest.raises(TracerError, match="there are 2 names for 1 edits"):
        plot_cosines([handmade(tiny("gpt2"))], ["a", "b"])
