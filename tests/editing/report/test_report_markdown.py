"""Markdown tables hold the summary's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import done
from handmade_evaluation import evaluation

import editing.cli  # noqa: F401 (adds the command)
from editing.evaluation import Evaluation
from editing.report import as_markdown
from tracer import TracerError


@pytest.fixture(scope="module")
def made() -> Evaluation:
    return evaluation()


def rows(text: str, mode: str) -> dict[str, dict[str, str]]:
    """Cells by name of the row and title of the column, of one mode's table."""
    part = text.split(f"**{mode}**\n\n")[1].split("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.strip().splitlines()]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_cells_are_the_summary(made: Evaluation) -> None:
    text, summary = as_markdown(made), made.summary()
    single = rows(text, "single")
    assert list(single)[:2] == ["unedited", "rome"] and "rome · random layer" in single
    of = summary[(summary["method"] == "rome") & (summary["control"] == "") & (summary["mode"] == "single")]
    by = of.set_index("metric")
    for title in ("reliability", "generalisation", "locality", "portability"):
        forced, said = (by.loc[f"{title} ({how})"] for how in ("forced", "generated"))
        expected = []
        for each in (forced, said):
            mean, low, high = (f"{100 * each[name]:.1f}" for name in ("mean", "low", "high"))
            expected.append(mean if low == high else f"{mean} [{low}, {high}]")
        assert single["rome"][title] == " / ".join(expected)
    assert single["rome"]["cases"] == str(by["n"].max())
    sequential = rows(text, "sequential")
    assert any("after" in name for name in sequential) and len({*map(len, sequential.values())}) == 1


def test_what_was_not_measured_has_no_column(made: Evaluation) -> None:
    some = made.metrics[~made.metrics["metric"].str.startswith("portability")]
    text = as_markdown(Evaluation.of(metrics=some))
    assert "portability" not in text and "reliability" in text


def test_chosen_columns_and_no_controls(made: Evaluation) -> None:
    whole = rows(as_markdown(made), "single")
    some = rows(as_markdown(made, columns=("locality", "score S"), controls=False), "single")
    assert list(some) == [name for name in whole if "random" not in name] and len(some) == len(whole) - 2
    assert list(some["rome"]) == ["", "locality", "score S", "cases"]
    assert some["rome"] == {title: whole["rome"][title] for title in some["rome"]}
    with pytest.raises(TracerError, match="the table has no column 'luck'"):
        as_markdown(made, columns=("luck",))


def test_command(made: Evaluation, tmp_path: Path) -> None:
    file = made.save(tmp_path / "run.sqlite")
    out = tmp_path / "table.md"
    assert str(out) in done("report", str(file), "--out", str(out)).replace("\n", "")
    assert out.read_text() == as_markdown(Evaluation.load(file))
