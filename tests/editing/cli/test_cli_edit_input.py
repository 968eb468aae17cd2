"""What ``tracer edit`` is given: files of requests, hyper-parameters, layers; bad input is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import assert_one_line, done, run
from edit_command import PROMPT, RECORDS, Calls

from editing.cli.hparams import read as read_hparams
from editing.cli.requestfile import read as read_requests
from editing.methods.compute import method_named
from editing.questions.probes import Probes
from editing.request import EditRequest


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '[{"prompt": "{} is in", "subject": "Big Ben", "target_new": "Paris", "target_true": "Rome"}]'),
        (
            "a.json",
            '{"prompt": "Big Ben is in", "subject": "Big Ben", "target_new": "Paris", "ground_truth": ["Rome"]}',
        ),
        ("a.json", '{\n"prompt": "{} is in", "subject": "Big Ben",\n"target_new": "Paris", "target_true": "Rome"\n}\n'),
        ("a.txt", '\ufeff{"src": "Big Ben is in", "subject": "Big Ben", "alt": "Paris", "answers": ["Rome"]}\n\n'),
        ("a.csv", 'prompt,subject,target_new,target_true,note\n"{} is in",Big Ben,Paris,Rome,\n'),
    ],
)
def test_requests_are_read_in_every_layout(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    ((request, probes),) = read_requests(tmp_path / name)
    assert request == EditRequest("{} is in", "Big Ben", "Paris", "Rome")
    assert probes == Probes.of(request)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "", "a.json is empty; expected records"),
        ("a.json", "[]", "holds no requests"),
        ("a.csv", "prompt,subject\n", "holds no requests"),
        ("a.json", '[{"prompt": "x"},\n oops]', "a.json is no JSON: record 2, line 2, character 2: Expecting value"),
        (
            "a.jsonl",
            '{"prompt": "{} is", "subject": "a", "target_new": "b"}\n\n{oops\n',
            "line 3, record 2: the line is no JSON",
        ),
        ("a.json", '[{"prompt": "x"}]', "a.json, line 1, record 1: a request needs subject, target_new"),
        ("a.json", "[3]", "record 1: an edit request is an EditRequest or a mapping, got int"),
        (
            "a.jsonl",
            '{"prompt": "x", "subject": "y", "target_new": "z"}',
            "line 1, record 1: subject 'y' does not",
        ),
        ("a.csv", "prompt,subject,target_new\n{} is,a\n", "line 2, record 1: 2 cells, and the first line names 3"),
        ("a.csv", 'prompt,subject,target_new\n"{} is,a,b\n', "line 2, record 1: no CSV"),
        ("a.csv", "prompt,subject,target_new\n{} is,a,\n", "line 2, record 1: a request needs target_new"),
        ("none.json", None, "cannot read "),
        ("a.json", b"\xff\xff", "a.json is no text in UTF-8"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, text: str | bytes | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_one_line(run("edit", "--requests", str(tmp_path / name)), message)


def test_contradictions_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    same = {"prompt": "{} is in", "subject": "Big Ben"}
    path.write_text("".join(json.dumps({**same, "target_new": new}) + "\n" for new in ("Paris", "Rome")))
    assert_one_line(run("edit", "memit", "--requests", str(path)), "requests 0 and 1 contradict each other")


# --- hyper-parameters ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "assignments", "expected"),
    [
        ("rome", ["v_lr=1", "v_steps=5", "clamp=none"], {"v_lr": 1.0, "v_steps": 5, "clamp": None}),
        ("rome", ["layers=2,3"], {"layers": [2, 3]}),
        ("rome", ["layers=[4]", "fact-token=last"], {"layers": [4], "fact_token": "last"}),
        ("rome", ["layers=4"], {"layers": [4]}),
        ("rome", ["mom2_adjustment=false"], {"mom2_adjustment": False}),
        ("rome", ["essence={} is a, b"], {"essence": ["{} is a, b"]}),
        ("rome", ['essence=["{} is a", "{} has"]'], {"essence": ["{} is a", "{} has"]}),
        ("rome", ["template_lengths=[[5, 2], [8, 1]]"], {"template_lengths": [(5, 2), (8, 1)]}),
        ("ft_l", ["norm_constraint=0.5", "lr=5e-4"], {"norm_constraint": 0.5, "lr": 5e-4}),
    ],
)
def test_values_have_the_types_of_the_settings(method: str, assignments: list[str], expected: dict[str, Any]) -> None:
    found = read_hparams(method_named(method), assignments, None, None)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(("given", "expected"), [("2,3", [2, 3]), ("3-5", [3, 4, 5]), (" 7 , 1-2,7", [7, 1, 2])])
def test_layers_are_numbers_and_ranges(given: str, expected: list[int]) -> None:
    assert read_hparams(method_named("memit"), [], given, None) == {"layers": expected}


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit"], "PROMPT, --subject and --to missing"),
        (["edit", "rome", PROMPT], "--subject and --to missing"),
        (["edit", "rome", PROMPT, "--to", "Paris"], "--subject missing"),
        (["edit", "rome", PROMPT, "-s", "Big Ben", "--to", "Paris"], "subject 'Big Ben' does not occur"),
        (["edit", "rime", "*"], "there is no method 'rime'; expected one of rome, r_rome, wilke"),
        (["*", "--from", "Paris"], "are both 'Paris'"),
        (["*", "--to", " "], "write out what should follow the prompt"),
        (["*", "--layers", "2,x"], "layers are '2,x'; expected numbers such as 2,3 or a range such as 3-8"),
        (["*", "--layers", "5-3"], "layers are '5-3'"),
        (["*", "--layers", "2", "--set", "layers=3"], "--layers and --set layers=... both say where"),
        (["*", "--layers", "2", "--locate", "trace"], "--layers and --locate both say where"),
        (["*", "--locate", "guess"], "unknown locate 'guess'; expected one or more of trace, neurons, change, sweep"),
        (["*", "--set", "v_lr"], "--set 'v_lr' sets nothing; write name=value"),
        (["*", "--set", "speed=3"], "rome has no hyper-parameter 'speed' to set here; it has layers, v_steps"),
        (["*", "--set", "v_lr=fast"], "v_lr is 'fast'; expected float"),
        (["*", "--set", "v_steps=2.5"], "v_steps is '2.5'; expected int"),
        (["*", "--set", "v_steps=true"], "v_steps is 'true'; expected int"),
        (["*", "--set", "v_steps=0"], "v_steps is 0; expected a number above zero"),
        (["*", "--set", "v_lr=1", "--set", "v_lr=2"], "--set gives v_lr twice"),
        (["*", "--set", "covariance=c"], "name it by --covariance FILE"),
        (["*", "--set", "seed=1", "--seed", "2"], "both give the seed"),
        (["*", "--seed", "-1"], "--seed"),
        (["*", "--covariance", "none"], "none"),
        (["*", "--covariance", "file"], "file is"),
        (["*", "--neighbour", "=Seattle"], "lacks its prompt or its answer; write PROMPT=ANSWER"),
        (["*", "--neighbour", "Smith Tower is in="], "lacks its prompt or its answer"),
        (["*", "--paraphrase", " "], "the prompt of a question is ' '"),
        (["*", "--limit", "3"], "--limit is for --requests"),
        (["*", "--requests", "facts.json"], "PROMPT names one fact, and --requests many"),
        (["edit", "--requests", "facts.json", "--no-space"], "--no-space names one fact, and --requests many"),
        (["edit", "--load", "file", "--space"], "--space is for an edit to be computed"),
        (["edit", "memit", "--requests", "facts.json", "--paraphrase", "x"], "each record of the file brings its own"),
        (["*", "--export", "peft"], "--export peft needs a folder to write to; name it: --out FOLDER"),
        (["*", "--export", "onnx", "--out", "new"], "unknown export 'onnx'; expected one or more of peft, hf, baked"),
        (["*", "--out", "new"], "--out is for --export peft, hf or baked"),
        (["*", "--export", "hf", "--out", "full"], "holds something already; name a new or an empty folder"),
        (["*", "--export", "hf", "--out", "file"], "holds something already"),
        (["*", "--save", "edit.npz"], "an edit is saved as safetensors, not as '.npz'"),
        (["*", "--save", "full"], "full is a folder; name a file in it"),
        (["*", "--save", "file/edit"], "cannot write to the folder file"),
        (["*", "--report", "answers.npz"], "an outcome is no npz file"),
        (["*", "--report", "answers"], "unknown format"),
        (["*", "--report", "answers.gif"], "unknown format 'gif'"),
        (["*", "--ledger", "file"], "cannot write to the folder file"),
        (["*", "--undo", "--ledger", "runs"], "leave 'rome' out"),
        (["edit", "--undo", "3"], "--undo 3 takes back edits of a ledger; name its folder: --ledger FOLDER"),
        (["edit", "--undo", "--ledger", "runs"], "there is no ledger in runs"),
        (["edit", "--undo", "--ledger", "runs", "--to", "Paris"], "--to is for an edit to be made"),
        (["edit", "--undo", "--ledger", "runs", "--save", "x"], "--save is for an edit to be made"),
        (["edit", "--load", "none.safetensors"], "none.safetensors"),
        (["edit", "--load", "file"], "file"),
        (["edit", "rome", "--load", "file"], "METHOD is for an edit to be computed"),
        (["edit", "--load", "file", "--layers", "2"], "--layers is for an edit to be computed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_one_line_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, basic: list[str], arguments: list[str], message: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("editing.cli.run.load", never)
    monkeypatch.setattr("editing.ledger.editor.load", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "facts.json").write_text(json.dumps(RECORDS))
    star = basic if arguments[0] == "*" else basic[2:]
    given = [part for argument in arguments for part in (star if argument == "*" else [argument])]
    assert_one_line(run(*given), message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.json", "file", "full"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "9"], "needs a layer from 0 to 7, got 9"),
        (["--to", "Seattle"], "says ' Seattle' after 'The Space Needle is in downtown' already"),
        (["--model", "missing"], "missing"),
    ],
)
def test_when_the_work_fails_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, basic: list[str], options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = [
        "--save",
        "new/edit.safetensors",
        "--ledger",
        "runs",
        "--export",
        "hf",
        "--out",
        "out",
        "--report",
        "a/b.csv",
    ]
    assert_one_line(run(*basic[:7], *options, *kept), message)
    assert list(tmp_path.iterdir()) == []


def test_markup_and_control_characters_are_shown(basic: list[str], computing: Calls) -> None:
    subject = "[red]x[/red]"
    printed = done("edit", "rome", "{} \x1b[31m is in", "-s", subject, "--to", "[bold]", "-m", basic[-1])
    assert printed.startswith("[red]x[/red] �[31m is in → [bold]")
    assert "\x1b" not in printed
