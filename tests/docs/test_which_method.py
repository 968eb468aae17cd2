"""The page on which method when: its tables are the measurements, and what it says of them holds."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from editing.methods.compute import METHODS
from editing.questions.metrics import harmonic
from tracer.statistics import clustered_mean

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "which-method.md").read_text(encoding="utf-8")
SOLVING = ("rome", "r_rome", "memit", "emmet", "alphaedit", "pmet")
MEMORIES = ("grace", "melo", "wise", "serac", "t_patcher")
STAY, OTHER, REWRITE = "locality (generated)", "same_subject generated", "reliability (generated)"


@pytest.fixture(scope="module")
def hook() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "docs" / "hooks"))
    import generated  # type: ignore[import-not-found]

    yield generated
    sys.path.remove(str(ROOT / "docs" / "hooks"))


@pytest.fixture(scope="module")
def module(hook: Any) -> ModuleType:
    return hook._module("benchmarks", "which_method")


def mean(rows: Any, metric: str) -> tuple[float, float, float]:
    """Mean and interval of a metric."""
    own = rows[rows["metric"] == metric]
    value, low, high = clustered_mean(own["value"], own["subject"])
    return float(value), float(low), float(high)


def number(cell: str) -> float:
    return float(cell.partition(" [")[0])


def test_the_joint_mean_is_the_harmonic_mean_of_the_means(module: Any) -> None:
    rows = module.measured("single")["memit"]
    metrics = list(module.SHOWN)[:3]
    value, low, high = module.joint(rows, metrics)
    parts = [mean(rows, metric) for metric in metrics]
    assert value == pytest.approx(float(harmonic(*(part[0] for part in parts))))
    assert min(part[1] for part in parts) < low < value < high < max(part[2] for part in parts)


def test_tables_hold_the_measurements_and_former_names_count(module: Any) -> None:
    kept = pd.read_parquet(ROOT / "benchmarks" / "factworld_sweep.parquet")
    own = kept.query("method == 'lora' and mode == 'single' and control == '' and metric == 'reliability (said)'")
    table = module.of_embedded("single").set_index("method")
    assert number(table.loc["lora", "rewrite"]) == pytest.approx(100 * own["value"].astype(float).mean(), abs=0.5)
    assert table.loc["lora", "records"] == "300" and len(table) == 16
    order = [number(cell) for cell in table["all three"]]
    assert order == sorted(order, reverse=True)
    assert module.of_real("gemma-3-270m").query("method == 'unedited'")["edits"].tolist() == ["none"]


def test_what_is_said_of_edits_alone(module: Any) -> None:
    table = module.of_embedded("single")
    assert table["method"].str.startswith("**").sum() == 10 and len(table) == 16  # ten of sixteen
    alone = module.measured("single")
    for method in SOLVING:  # a third of the other facts, or more
        assert mean(alone[method], OTHER)[0] < 2 / 3
        assert mean(alone[method], STAY)[0] < mean(alone["wise"], STAY)[1]
    assert max(mean(alone[m], "generalisation (generated)")[2] for m in ("grace", "melo", "wise")) < 0.9
    gemma = module.of_real("gemma-3-270m")
    shares = dict(zip(gemma["method"], gemma["other facts of the subject"].map(number), strict=True))
    assert shares["rome"] < 2 / 3 * shares["unedited"] and shares["memit"] < 2 / 3 * shares["unedited"]


def test_what_is_said_of_many_in_one_edit(module: Any) -> None:
    many = module.measured("batch")
    assert all(mean(many[method], REWRITE)[0] < 0.56 for method in ("rome", "r_rome", "lora", "kn"))
    assert all(mean(many[method], REWRITE)[0] > 0.9 for method in ("memit", "emmet", "alphaedit", "pmet"))
    assert all(mean(many[method], STAY)[0] < 0.14 for method in ("ft_l", "ft_m", "calinet"))
    assert mean(many["t_patcher"], "generalisation (generated)")[2] < 0.4
    assert not {"serac", "wise"} & many.keys()


def test_what_is_said_of_edits_one_after_another(module: Any) -> None:
    in_turn = module.measured("sequential")
    least = min(mean(in_turn[method], STAY)[1] for method in MEMORIES)
    assert least > max(
        mean(rows, STAY)[2] for name, rows in in_turn.items() if name in METHODS and name not in MEMORIES
    )
    weights = {name: module.joint(rows, list(module.SHOWN)[:3])[0] for name, rows in in_turn.items() if name in SOLVING}
    assert max(weights, key=lambda name: weights[name]) == "alphaedit"


def test_what_is_said_of_trained_editors_and_pretrained_models(module: Any) -> None:
    trained = module.of_trained().set_index(["edits at once", "method"])["rewrite"].map(number)
    assert trained["100", "mend"] == 0 and trained["1", "mend"] > 90 and trained["100", "malmen"] > 90
    turns = {}
    for model in ("gemma-3-270m", "smollm2-135m"):
        kept = module._read("real/edits.parquet").query("model == @model and mode == 'sequential' and control == ''")
        turns[model] = {name: mean(rows, "rewrite generated") for name, rows in kept.groupby("method")}
    assert turns["gemma-3-270m"]["alphaedit"][1] > turns["gemma-3-270m"]["rome"][2]
    assert turns["smollm2-135m"]["alphaedit"][0] <= turns["smollm2-135m"]["rome"][0]


def test_the_page_names_methods_that_exist_and_marks_that_are_made(hook: Any) -> None:
    marks = re.findall(r"^<!-- generated: (\w+) -->$", PAGE, re.MULTILINE)
    assert len(marks) == 7 and {*marks} <= hook.GENERATED.keys()
    assert all(f"`{name}`" in hook.GENERATED["needs"]() for name in METHODS)
    listed = hook.GENERATED["which_in_turn"]().splitlines()
    assert listed[0].startswith("| method | all three | rewrite |") and listed[2].startswith("| **grace** | 93 [")
