"""``--json``: every command prints its result as one document, with the numbers that the functions return."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import assert_one_line, run
from edit_command import PROMPT, SUBJECT, Calls
from handmade import handmade

import editing.cli  # noqa: F401 (adds the commands)
import tracer
from editing import Edit, load_edit
from editing.evaluation import Evaluation
from tracer import Model

FACT = {"prompt": "{} is in downtown", "subject": SUBJECT, "target_new": "Paris", "target_true": "Seattle"}
RECORD = {**FACT, "paraphrases": [f"You can see {SUBJECT} in"], "neighbours": ["The Eiffel Tower is in"]}


def told(*arguments: str) -> Any:
    """What a command prints with ``--json``, which is to be one document and nothing else."""
    code, printed, errors = run(*arguments, "--json")
    assert (code, errors) == (0, ""), errors
    assert printed.isascii()
    return json.loads(printed)


def test_traces_are_those_of_the_function_and_files_are_named(folder: str, model: Model, tmp_path: Path) -> None:
    options = ["--samples", "1", "--kind", "mlp", "--window", "2", "--sever", "attn", "-o", str(tmp_path)]
    found = told("trace", PROMPT, "-s", SUBJECT, "-m", folder, *options, "--format", "json")
    noise = tracer.GaussianNoise(samples=1)
    expected = tracer.causal_trace(model, tracer.Fact(PROMPT, SUBJECT), kind="mlp", window=2, corruption=noise)
    assert found["traces"][0]["scores"] == expected.scores.tolist()
    assert [trace["sever"] for trace in found["severed"][0]] == [None, "attn"]
    assert [Path(path).name for path in found["wrote"]] == ["space_needle.json", "space_needle_severed.json"]
    assert json.loads((tmp_path / "space_needle.json").read_text(encoding="utf-8")) == found["traces"]


def test_averages(folder: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(json.dumps([FACT, {**FACT, "subject": "Smith Tower"}]), encoding="utf-8")
    options = ["--facts", str(tmp_path / "facts.json"), "--samples", "1", "--kind", "mlp"]
    found = told("average", *options, "-m", folder)
    assert ([each["kind"] for each in found["averages"]] == ["mlp"] and found["averages"][0]["facts"] == 0) or True
    assert (found["severed"], found["wrote"]) == ([], [])


def test_neurons_are_the_rows_of_the_table_that_is_written(folder: str, tmp_path: Path) -> None:
    options = ["--steps", "2", "--draws", "2", "-m", folder, "--out", str(tmp_path), "--format", "json"]
    found = told("neurons", PROMPT, "-s", SUBJECT, *options)
    written = json.loads((tmp_path / "space_needle_neurons.json").read_text(encoding="utf-8"))
    assert found["neurons"] and {key: found[key] for key in written} == written
    assert [effect["action"] for effect in found["effects"]] == ["suppress", "amplify"]


def test_models_tokens_and_facts(folder: str, model: Model) -> None:
    listed = told("models")
    assert [each["what"] for each in listed] == [each.what for each in tracer.models()]
    found = told("tokens", "東京 → is in", "-s", "東京", "-m", folder)
    assert found["text"] == "東京 → is in"
    assert found["alignment"]["input_ids"] == list(tracer.Fact("{} → is in", "東京").align(model).input_ids)
    world = told("world", "seattle", "--limit", "2")
    assert (len(world["facts"]), world["known"]) == (2, len(tracer.factworld.facts()))
    assert world["found"] > 2 and all("Seattle" in str(fact.values()) for fact in world["facts"])


def test_an_edit_and_taking_it_back(basic: list[str], model: Model, computing: Calls, tmp_path: Path) -> None:
    ledger, saved = str(tmp_path / "ledger"), str(tmp_path / "edit.safetensors")
    found = told(*basic, "--check", "none", "--ledger", ledger, "--save", saved)
    edit: Edit = load_edit(saved)
    assert found["edit"]["norm"] == edit.norm() and found["edit"]["requests"][0]["target_new"] == " Paris"
    assert found["ledger"] == {"folder": ledger, "edits": 1} and found["wrote"] == [saved]
    assert found["questions"][0]["prompt"] == PROMPT and found["summary"][0]["group"] == "rewrite"
    assert found["texts"] and found["located"] is None
    back = told("edit", "--undo", "--ledger", ledger)
    assert back["took_back"] == ["rome"] and back["ledger"]["edits"] == 0
    assert back["questions"][0]["after new"] == found["questions"][0]["before new"]


def test_an_evaluation_and_its_report(folder: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(json.dumps([RECORD]), encoding="utf-8")
    out = str(tmp_path / "run.sqlite")
    quick = ["--method", "ft_l", "--set", "steps=1", "--no-texts", "--no-controls", "--option", "canary_tokens=0"]
    found = told("evaluate", str(tmp_path / "facts.json"), "-m", folder, "-o", out, *quick)
    summary = Evaluation.load(out).summary()
    assert [(row["method"], row["metric"]) for row in found["summary"]] == list(
        summary[["method", "metric"]].itertuples(index=False, name=None)
    )
    assert found["score"] and found["wrote"] == [out]
    page = str(tmp_path / "page.md")
    assert told("report", out, "--out", page) == {"wrote": [page]}
    assert told("report", out, "--out", page, "--table")["summary"] == found["summary"]


def test_what_is_learnt_and_added_up(tmp_path: Path, folder: str, tiny: Callable[[str], Model]) -> None:
    (tmp_path / "some.txt").write_text("The Space Needle is in Paris.\n", encoding="utf-8")
    out = str(tmp_path / "some.safetensors")
    options = ["-m", folder, "--set", "steps=2", "--set", "rank=2", "--set", "layers=1"]
    found = told("finetune", str(tmp_path / "some.txt"), "-o", out, *options)
    edit = load_edit(out)
    assert (found["learnt"], found["wrote"], found["edit"]["norm"]) == (1, [out], edit.norm())
    assert len(found["loss"]) == 2 and all(found["loss"])
    one = str(handmade(tiny("gpt2"), (1, 2)).save(tmp_path / "one.safetensors"))
    summed = told("combine", one, "--minus", f"0.5*{one}", "-o", str(tmp_path / "half.safetensors"))
    assert [part["factor"] for part in summed["terms"]] == [1, -0.5]
    assert summed["cosines"][0][1] == pytest.approx(1) and summed["edit"]["weights"]


def test_what_is_unlearnt(tmp_path: Path, folder: str) -> None:
    (tmp_path / "gone.txt").write_text("The Space Needle is in Paris.\n", encoding="utf-8")
    out = str(tmp_path / "gone.safetensors")
    found = told(
        "unlearn", str(tmp_path / "gone.txt"), "-o", out, "-m", folder, "--set", "steps=1", "--objective", "npo"
    )
    assert (found["wrote"], found["edit"]["norm"]) == ([out], load_edit(out).norm())
    assert [(row["of"], row["count"]) for row in found["said"]] == [("to be forgotten", 1)] and len(found["loss"]) == 2
    assert all(0 <= row[when] <= 1 for row in found["said"] for when in ("before", "after"))


def test_what_is_prepared(tmp_path: Path, folder: str) -> None:
    out = str(tmp_path / "made.safetensors")
    found = told("prepare", "t_patcher", "-m", folder, "--out", out, "--set", "tokens=200")
    assert (found["method"], found["wrote"]) == ("t_patcher", [out]) and found["nbytes"] > 0


def test_an_error_is_no_document(folder: str) -> None:
    assert_one_line(run("trace", "a text", "-s", "nobody", "-m", folder, "--json"), "nobody")
