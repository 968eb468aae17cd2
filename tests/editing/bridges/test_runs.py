"""Result folders of ROME and MEMIT as evaluations: the numbers that their own summary gives."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from commands import done

import editing.cli  # noqa: F401 (adds the commands)
from editing.bridges import read_run
from tracer import TracerError

REWRITE = {"subject": "Rome", "prompt": "{} is in", "target_new": {"str": "France"}, "target_true": {"str": "Italy"}}


def losses(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"target_new": new, "target_true": true} for new, true in pairs]


def case(number: int, **more: Any) -> dict[str, Any]:
    return {"case_id": number, "requested_rewrite": REWRITE, "time": 3.0, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cases of CounterFact, each edited alone."""
    found = tmp_path / "ROME" / "run_000"
    found.mkdir(parents=True)
    before = {"rewrite_prompts_probs": losses((9.0, 1.0)), "neighborhood_prompts_probs": losses((9.0, 1.0), (8.0, 2.0))}
    after = {
        "rewrite_prompts_probs": losses((0.5, 4.0)),
        "paraphrase_prompts_probs": losses((1.0, 2.0), (3.0, 2.0)),
        "neighborhood_prompts_probs": losses((5.0, 1.0), (1.0, 2.0)),
        "ngram_entropy": 6.25,
        "reference_score": 0.4,
        "text": ["Rome is in France"],
    }
    (found / "case_3.json").write_text(json.dumps(case(3, pre=before, post=after)))
    worse = {**after, "rewrite_prompts_probs": losses((4.0, 0.5))}
    (found / "case_12.json").write_text(json.dumps(case(12, pre=before, post=worse)))
    (found / "params.json").write_text("{}")
    return found


def test_a_folder_of_counterfact(folder: Path) -> None:
    found = read_run(folder, model="gpt2-xl").metrics
    assert list(found["case_id"].unique()) == ["3", "12"] and set(found["model"]) == {"gpt2-xl"}
    by: Any = found.set_index(["method", "case_id", "metric"])["value"]
    assert by["rome", "3", "rewrite success"] == 1 and by["rome", "12", "rewrite success"] == 0
    assert by["rome", "3", "rewrite magnitude"] == pytest.approx(math.exp(-0.5) - math.exp(-4))
    assert by["rome", "3", "paraphrase success"] == 0.5 and by["rome", "3", "neighbour success"] == 0.5
    assert by["unedited", "3", "neighbour success"] == 1 and by["unedited", "3", "rewrite success"] == 0
    expected = (math.exp(-1) - math.exp(-5) + math.exp(-2) - math.exp(-1)) / 2
    assert by["rome", "3", "neighbour magnitude"] == pytest.approx(expected)
    assert by["rome", "12", "fluency"] == 6.25 and by["rome", "12", "consistency"] == 0.4
    assert by["rome", "3", "seconds"] == 3.0
    own: Any = found[(found["case_id"] == "3") & (found["method"] == "rome")].set_index("metric")
    assert own.loc["paraphrase success", "n"] == 2 and set(own["mode"]) == {"single"} and set(own["after"]) == {1}


def test_cases_edited_together_and_tokens_that_are_right(tmp_path: Path) -> None:
    post = {"rewrite_prompts_correct": [True, False], "neighborhood_prompts_correct": [True, True, False, True]}
    for number in (0, 7):
        (tmp_path / f"100_edits-case_{number}.json").write_text(json.dumps(case(number, num_edits=100, post=post)))
    found = read_run(tmp_path, "memit").metrics
    by: Any = found[found["case_id"] == "7"].set_index("metric")["value"]
    assert dict(by) == {"rewrite accuracy": 0.5, "neighbour accuracy": 0.75, "seconds": pytest.approx(0.03)}
    assert set(found["mode"]) == {"batch"} and set(found["method"]) == {"memit"} and set(found["after"]) == {100}


def test_a_report_of_a_folder(folder: Path) -> None:
    printed = done("report", str(folder), "--out", str(folder / "page.html"), "--table")
    page = (folder / "page.html").read_text()
    assert " rome " in printed and "seconds" in printed and "rewrite success" in page and "neighbour success" in page


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("params.json", "{}", "holds no cases; expected files such as case_17.json"),
        ("case_1.json", "{", "case_1.json is no case of a run"),
        ("case_1.json", "[]", "case_1.json is no case of a run"),
        (
            "case_1.json",
            json.dumps(case(1, post={"rewrite_prompts_probs": [{"target_new": 1}]})),
            "has a measurement that cannot be read: KeyError",
        ),
    ],
)
def test_what_is_no_run_is_said(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TracerError, match=message):
        read_run(tmp_path)
