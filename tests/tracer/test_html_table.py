"""Results in a notebook: a table with what the result holds, in which no text is more than text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from handmade import handmade
from handmade_evaluation import evaluation
from handmade_located import located
from synthetic import synthetic_attribution, synthetic_average, synthetic_effects, synthetic_trace

from tracer.html_table import html_table
from tracer.model import Model

EVIL = "<script>alert(1)</script>\u202e"


def test_texts_are_escaped_and_numbers_rounded() -> None:
    found = html_table(EVIL, ["a", EVIL], [[1.23456, EVIL], [None, 7]], EVIL)
    assert "<script>" not in found and found.count("&lt;script&gt;") == 4 and "\u202e" not in found
    assert "<td>1.235</td>" in found and "<td></td><td>7</td>" in found


def test_many_rows_are_counted() -> None:
    found = html_table("t", ["n"], [[n] for n in range(25)])
    assert found.count("<tr>") == 21 and "and 5 more rows" in found
    assert "more rows" not in html_table("t", ["n"], [[n] for n in range(20)])


def test_a_trace_shows_its_strongest_sites() -> None:
    trace = replace(synthetic_trace(), note=EVIL, prompt=EVIL)
    found = trace._repr_html_()
    token, layer = trace.peak()
    first = trace.to_frame().query(f"token_index == {token} and layer == {layer}").iloc[0]
    assert f"<td>{token}</td>" in found and f"<td>{first['score']:.4g}</td>" in found
    assert found.count("<tr>") == 6 and "<script>" not in found


def test_an_edit_shows_its_weights(tiny: Callable[[str], Model]) -> None:
    edit = replace(handmade(tiny("gpt2"), (0, 1)), note=EVIL)
    found = edit._repr_html_()
    assert all(f"<td>{name}</td>" in found for name in edit.factors)
    assert "&lt;script&gt;" in found and "<script>" not in found


@pytest.mark.parametrize(
    "made",
    [synthetic_attribution, evaluation, lambda: located("trace"), synthetic_average, synthetic_effects],
    ids=["attribution", "evaluation", "located", "average", "effects"],
)
def test_other_results_have_a_table(made: Callable[[], Any]) -> None:
    found = made()._repr_html_()
    assert found.startswith("<div>") and found.count("<td>") >= 3


def test_an_average_shows_its_strongest_layers() -> None:
    average = synthetic_average()
    name, layer = average.peak()
    first = average._repr_html_().split("<tr>")[2]
    assert f"<td>{name}</td><td>{layer}</td><td>{np.nanmax(average.effect):.4g}</td>" in first


def test_effects_are_means_by_set_of_neurons() -> None:
    effects = synthetic_effects()
    found = effects._repr_html_()
    assert f"<td>neurons</td><td>{effects.before[0]:.4g}</td><td>{effects.after[0]:.4g}</td>" in found
    assert f"<td>random</td><td>{effects.before[0]:.4g}</td><td>{effects.random[0].mean():.4g}</td>" in found
