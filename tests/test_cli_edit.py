"""``tracer edit``: it prints what was measured, keeps what it was told to keep, and bad input is one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from commands import assert_one_line, cells, done, run
from handmade import handmade

import editing.cli
import tracer.cli
from editing.cli.hparams import read as read_hparams
from editing.cli.requestfile import read as read_requests
from editing.edits.edit import Edit, load_edit
from editing.edits.weights import applied
from editing.ledger.editor import Editor
from editing.methods.compute import method_named
from editing.questions.answers import Answers
from editing.questions.outcome import measure
from editing.questions.probes import Probes, from_factworld
from editing.questions.question import Question
from editing.request import EditRequest, as_requests
from tracer import Model, factworld, load
from tracer.errors import TracerError

PROMPT, SUBJECT = "The Space Needle is in downtown", "The Space Needle"
WORDING, NEIGHBOUR = "To see {} go to", "Smith Tower is in"
REQUEST = EditRequest(PROMPT, SUBJECT, " Paris", " Seattle")
OPTIONS = ["--paraphrase", WORDING, "--neighbour", f"{NEIGHBOUR}=Seattle", "--generate", "{} is"]
ASKED = Probes(
    (
        Question.of("rewrite", PROMPT, " Paris", " Seattle"),
        Question.of("paraphrase", WORDING.format(SUBJECT), " Paris", " Seattle"),
        Question.of("neighbour", NEIGHBOUR, " Paris", "Seattle"),
    ),
    (f"{SUBJECT} is",),
)
Calls = list[tuple[tuple[EditRequest, ...], str, dict[str, Any]]]


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], Model]) -> Model:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path]) -> str:
    return str(tiny_folder("gpt2"))


@pytest.fixture(scope="module")
def basic(folder: str) -> list[str]:
    return ["edit", "rome", PROMPT, "-s", SUBJECT, "--to", "Paris", "--from", "Seattle", "-m", folder]


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stands in for the methods: edits are drawn at random. The list holds the calls."""
    calls: Calls = []

    def compute_edit(model: Model, requests: Any, method: str, **more: Any) -> Edit:
        more.pop("origin", None)  # the editor's
        calls.append((as_requests(requests), method, more))
        return replace(handmade(model, (1,), (2,), seed=len(calls)), requests=calls[-1][0], method=method)

    monkeypatch.setattr("editing.methods.compute.compute_edit", compute_edit)
    return calls


def drawn(model: Model, seed: int = 1) -> Edit:
    """The edit that stands in for the one that call number ``seed`` computes."""
    return handmade(model, (1,), (2,), seed=seed)


def edited(model: Model, edit: Edit, probes: Probes) -> Answers:
    with applied(model, edit.factors):
        return measure(model, probes)


def assert_answers(printed: str, before: Answers, after: Answers, judged: bool = True) -> None:
    """Every number of the table, and the texts."""
    for i, q in enumerate(before.probes.questions):
        row = next(
            row for row in map(str.strip, printed.splitlines()) if f" {q.prompt} " in f" {row} " and "→ 0" in row
        )
        assert f"{before.new[i]:.4f} → {after.new[i]:.4f}" in row
        assert f"{before.true[i]:.4f} → {after.true[i]:.4f}" in row
        if judged:
            assert row.endswith("yes" if after.as_meant[i] else "no")
    for prompt, first, second in zip(before.probes.generate, before.texts, after.texts, strict=True):
        assert f"{prompt}\n  before: {shown(first)}\n  after:  {shown(second)}\n" in printed


def shown(text: str) -> str:
    from tracer.text import printable

    return printable(text.strip())


# --- one edit --------------------------------------------------------------------------------------------------------
def test_an_edit_prints_what_was_measured(basic: list[str], model: Model, computing: Calls) -> None:
    printed = done(*basic, *OPTIONS)
    edit = drawn(model)
    relative = next(iter(edit.norm().values())) / float(model.down_projection(1).weight.detach().norm())
    first, second = printed.splitlines()[:2]
    assert first == f"{PROMPT} → Paris   (was Seattle)"
    assert second == f"rome   layer 1   rank 2   |change| {relative:.2%} of |W|   0.25 s   3 MB"
    assert "drawn at random" in printed
    assert_answers(printed, measure(model, ASKED), edited(model, edit, ASKED))
    assert computing == [((REQUEST,), "rome", {"locate": None, "known": "refuse", "check": "warn"})]


def test_without_a_method_it_is_rome(basic: list[str], computing: Calls) -> None:
    done("edit", *basic[2:])
    done("edit", "{} is in downtown", *basic[3:])
    assert [call[:2] for call in computing] == [((REQUEST,), "rome")] * 2


def test_hyper_parameters_reach_the_method(basic: list[str], computing: Calls) -> None:
    options = ["--layers", "2,1", "--set", "v_lr=0.1", "--set", "v_steps=5", "--seed", "7", "--anyway"]
    done("edit", "memit", *basic[2:], *options)
    ((_, method, more),) = computing
    assert method == "memit"
    looked = {"locate": None, "known": "edit", "check": "warn"}
    assert more == {**looked, "layers": [2, 1], "v_lr": 0.1, "v_steps": 5, "seed": 7}


@pytest.mark.parametrize(
    ("option", "prompt", "target"),
    [([], PROMPT, " Paris"), (["--no-space"], PROMPT, "Paris"), ([], "{}=", "Paris"), (["--space"], "{}=", " Paris")],
)
def test_a_space_before_the_answer_is_as_said(
    option: list[str], prompt: str, target: str, basic: list[str], computing: Calls
) -> None:
    done(*basic[:2], prompt, *basic[3:], *option)
    (((request,), _, _),) = computing
    assert request.target_new == target
    assert request.space is {"--space": True, "--no-space": False}.get("".join(option))


def test_without_the_answer_it_is_what_the_model_says(computing: Calls) -> None:
    embedded, prompt = load(), f"Visitors know {SUBJECT} as a"
    said = Probes.of(EditRequest(prompt, SUBJECT, " Paris")).completed(embedded)
    printed = done("edit", prompt, "-s", SUBJECT, "--to", "Paris")
    assert printed.splitlines()[0] == f"{prompt} → Paris   (was {str(said.questions[0].true).strip()})"
    assert said.questions[0].true is not None
    asked = replace(said, generate=(prompt,))
    assert_answers(printed, measure(embedded, asked), edited(embedded, drawn(embedded), asked))
    assert computing[0][0][0].target_true is None


def test_undo_without_a_ledger_compares_the_bits(basic: list[str], model: Model, computing: Calls) -> None:
    printed = done(*basic, "--undo")
    assert printed.endswith(f"undone: all weights have the bits they had ({model.fingerprint()[:12]})\n")
    assert "undone" not in done(*basic)


def test_layers_can_be_found_first(basic: list[str], model: Model, computing: Calls) -> None:
    from editing.localisation.choose import locate

    printed = done(*basic[:7], *basic[9:], "--locate", "trace")
    expected = locate(model, EditRequest(PROMPT, SUBJECT, " Paris"), "trace")
    assert computing[0][2]["locate"].layers == expected.layers
    assert f"located by trace: best at layer {expected.layers[0]}" in printed


def test_a_sweep_measures_the_method_that_edits(
    basic: list[str], monkeypatch: pytest.MonkeyPatch, computing: Calls
) -> None:
    asked: list[Any] = []

    def stop(model: Model, records: Any, using: str, **more: Any) -> None:
        asked.append((records, using, more))
        raise TracerError("located")

    monkeypatch.setattr("editing.localisation.choose.locate", stop)
    options = ["--locate", "sweep", "--set", "lr=0.5", "--neighbour", "Paris is in=France"]
    assert_one_line(run("edit", "ft_l", *basic[2:], *OPTIONS, *options), "located")
    (((record,), using, more),) = asked
    assert (using, more) == ("sweep", {"method": "ft_l", "known": "refuse", "lr": 0.5})
    probes = Probes.of(record)
    expected = (*ASKED.questions[:2], ASKED.questions[2].knowing(" Seattle"))
    assert probes.questions == expected  # and no neighbour with another answer


def test_a_covariance_is_read(
    tmp_path: Path, basic: list[str], computing: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = SimpleNamespace(fingerprint="0" * 64)
    monkeypatch.setattr("editing.covariance.covariance.Covariance.load", {tmp_path / "c": moments}.__getitem__)
    done(*basic, "--covariance", str(tmp_path / "c"))
    assert computing[0][2]["covariance"] is moments
    assert_one_line(run("edit", "ft_l", *basic[2:], "--covariance", "c"), "ft_l uses no covariance")


# --- what is kept ----------------------------------------------------------------------------------------------------
def test_saved_edits_are_used_again(tmp_path: Path, basic: list[str], model: Model, computing: Calls) -> None:
    path = tmp_path / "new" / "edit.safetensors"
    printed = done(*basic, *OPTIONS, "--save", str(path))
    assert f"wrote {path}" in printed
    assert load_edit(path, model).same_as(replace(drawn(model), method="rome"))
    again = done("edit", "--load", str(path), *OPTIONS, "-m", basic[-1])
    assert again == printed.replace(f"wrote {path}\n", "")
    assert len(computing) == 1
    other = shutil.copytree(basic[-1], tmp_path / "other")
    with applied(model, drawn(model).factors):
        Editor(model).save_pretrained(other, overwrite=True)
    assert_one_line(run("edit", "--load", str(path), "-m", str(other)), "was computed on the weights")
    assert "layer 1" in done("edit", "--load", str(path), "-m", str(other), "--anyway")


def test_the_edited_model_is_exported(tmp_path: Path, basic: list[str], model: Model, computing: Calls) -> None:
    with applied(model, drawn(model).factors):
        expected = model.hf(input_ids=torch.arange(9)[None]).logits
    done(*basic, "--export", "hf", "--out", str(tmp_path / "hf"), "--undo")
    found = load(tmp_path / "hf")
    assert torch.equal(found.hf(input_ids=torch.arange(9)[None]).logits, expected)


def test_the_edit_is_exported_as_an_adapter(tmp_path: Path, basic: list[str], model: Model, computing: Calls) -> None:
    from peft import PeftModel

    (tmp_path / "peft").mkdir()
    done(*basic, "--export", "peft", "--out", str(tmp_path / "peft"))
    with applied(model, drawn(model).factors):
        expected = model.hf(input_ids=torch.arange(9)[None]).logits
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted: Any = PeftModel.from_pretrained(load(basic[-1]).hf, str(tmp_path / "peft"))
    torch.testing.assert_close(adapted(input_ids=torch.arange(9)[None]).logits, expected, rtol=1e-4, atol=1e-4)


def test_reports_hold_the_answers(tmp_path: Path, basic: list[str], model: Model, computing: Calls) -> None:
    paths = [tmp_path / f"answers.{suffix}" for suffix in ("html", "csv", "json")]
    printed = done(*basic, *OPTIONS, *(part for path in paths for part in ("--report", str(path))))
    assert printed.endswith("".join(f"wrote {path}\n" for path in paths))
    before, after = measure(model, ASKED), edited(model, drawn(model), ASKED)
    frame = pd.read_csv(paths[1])
    assert frame["before new"].tolist() == pytest.approx(before.new.tolist())
    assert frame["after true"].tolist() == pytest.approx(after.true.tolist())
    content = json.loads(paths[2].read_text(encoding="utf-8"))
    assert content["after"]["texts"] == list(after.texts)
    assert '"type":"scatter"' in paths[0].read_text(encoding="utf-8")


def test_a_ledger_keeps_edits_and_takes_them_back(
    tmp_path: Path, basic: list[str], model: Model, computing: Calls
) -> None:
    ledger = tmp_path / "runs"
    named = [*basic, "--ledger", str(ledger)]
    assert done(*named).endswith(f"edit 1 of the ledger {ledger}\n")
    more = [*named[:-4], "--to", "Rome", "--ledger", str(ledger)]  # the model is the ledger's own
    assert done(*more).endswith(f"edit 2 of the ledger {ledger}\n")
    fingerprints = [model.fingerprint()]
    with applied(model, drawn(model, 1).factors):
        fingerprints.append(model.fingerprint())
        first = measure(model, probes := Probes.of(replace(REQUEST, target_new=" Rome")))
        with applied(model, drawn(model, 2).factors):
            fingerprints.append(model.fingerprint())
            second = measure(model, probes)
    opened = Editor.open(ledger, load(basic[-1]))
    assert [entry.edit.fingerprint for entry in opened.history] == fingerprints[:2]
    assert opened.model.fingerprint() == fingerprints[2]

    printed = done("edit", "--undo", "--ledger", str(ledger))
    assert printed.startswith(f"{PROMPT} → Rome ")
    assert f"took back 1 edit (rome) of the ledger {ledger}; 1 left" in printed
    assert f"the weights have the bits they had ({fingerprints[1][:12]})" in printed
    assert_answers(printed, second, first, judged=False)
    assert Editor.open(ledger, load(basic[-1])).position == 1

    done(*named)
    printed = done("edit", "--undo", "2", "--ledger", str(ledger), "-m", basic[-1])
    assert f"took back 2 edits (rome) of the ledger {ledger}; 0 left" in printed
    assert f"the weights have the bits they had ({fingerprints[0][:12]})" in printed
    result = run("edit", "--undo", "--ledger", str(ledger))
    assert_one_line(result, "cannot undo 1 edits: the model has 0")
    assert_one_line(run("edit", "--undo", "--ledger", str(tmp_path / "none")), "there is no ledger in")
    assert not (tmp_path / "none").exists()


# --- many ------------------------------------------------------------------------------------------------------------
RECORDS: list[dict[str, Any]] = [
    {
        "requested_rewrite": {
            "prompt": "{} is in",
            "subject": subject,
            "target_new": {"str": "Paris"},
            "target_true": {"str": "Rome"},
        },
        "paraphrase_prompts": [f"{subject} stands in"],
        "neighborhood_prompts": ["Smith Tower is in", "The Seine is in"],
        "generation_prompts": [f"{subject} is"],
    }
    for subject in ("The Space Needle", "Big Ben", "Miles Davis")
]


def test_a_batch_is_told_by_shares(tmp_path: Path, folder: str, model: Model, computing: Calls) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(RECORDS))
    printed = done("edit", "memit", "--requests", str(path), "--limit", "2", "-m", folder, "--generate", "Paris is")
    assert printed.startswith("2 requests\nmemit   layer 1")
    assert [request.subject for request in computing[0][0]] == ["The Space Needle", "Big Ben"]
    probes = replace(Probes.joined(map(Probes.of, RECORDS[:2])), generate=("Paris is",))
    before, after = measure(model, probes), edited(model, drawn(model), probes)
    for group, name in (("rewrite", "rewrite"), ("paraphrase", "paraphrases"), ("neighbour", "neighbours")):
        places = probes.group(group)
        found = cells(printed, name, str(len(places)))[2:]
        shares = [f"{100 * one.as_meant[places].mean():.1f} %" for one in (before, after)]
        greedy = [f"{100 * one.as_meant_greedy[places].mean():.1f} %" for one in (before, after)]
        means = [[f"{getattr(one, kind)[places].mean():.4f}" for one in (before, after)] for kind in ("new", "true")]
        assert found == [" → ".join(pair) for pair in (shares, greedy, *means)]
    wrong = [i for i, meant in enumerate(after.as_meant) if not meant]
    assert ("not as meant" in printed) == bool(wrong)
    assert "Paris is\n  before: " in printed
    assert "Big Ben is\n" not in printed


def test_the_same_subject_twice_is_remarked(tmp_path: Path, folder: str, computing: Calls) -> None:
    path = tmp_path / "facts.jsonl"
    same = {"subject": "Big Ben", "target_new": "Paris"}
    path.write_text("".join(json.dumps({"prompt": f"{{}} {verb} in", **same}) + "\n" for verb in ("is", "was")))
    printed = done("edit", "memit", "--requests", str(path), "-m", folder)
    assert printed.count("share the subject 'Big Ben'") == 1


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
        (["edit", "rime", "*"], "there is no method 'rime'; expected one of rome, r_rome, memit"),
        (["*", "--from", "Paris"], "are both 'Paris'"),
        (["*", "--to", " "], "write out what should follow the prompt"),
        (["*", "--layers", "2,x"], "layers are '2,x'; expected numbers such as 2,3 or a range such as 3-8"),
        (["*", "--layers", "5-3"], "layers are '5-3'"),
        (["*", "--layers", "2", "--set", "layers=3"], "--layers and --set layers=... both say where"),
        (["*", "--layers", "2", "--locate", "trace"], "--layers and --locate both say where"),
        (["*", "--locate", "guess"], "unknown locate 'guess'; expected one or more of trace, neurons, sweep"),
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
        (["*", "--export", "onnx", "--out", "new"], "unknown export 'onnx'; expected one or more of peft, hf"),
        (["*", "--out", "new"], "--out is for --export peft or hf"),
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


# --- all of it -------------------------------------------------------------------------------------------------------
def test_a_fact_of_the_embedded_model() -> None:
    few = ["--set", "template_lengths=[[5, 5]]"]
    printed = done("edit", "rome", "{} is in downtown", "-s", SUBJECT, "--to", "Paris", "--undo", *few)
    embedded = load()
    (asked,) = from_factworld([EditRequest("{} is in downtown", SUBJECT, " Paris")])
    assert asked is not None
    before = measure(embedded, asked)
    for question, answer in zip(asked.questions, before.answers, strict=True):
        row = next(row for row in printed.splitlines() if f" {question.prompt} " in f"{row} " and "→ 0" in row)
        assert f" {answer} " in row
        if question.kind == "rewrite":
            assert " Seattle → Paris " in row
            assert row.rstrip().endswith("yes")
    (other,) = factworld.others_of(factworld.find(SUBJECT, "landmark_city"))
    assert f" {other.text} " in printed
    assert f"undone: all weights have the bits they had ({embedded.fingerprint()[:12]})" in printed


def test_the_command_is_one_application() -> None:
    assert editing.cli.app is tracer.cli.app
    alone = "import sys, tracer.cli; assert not any(name.split('.')[0] == 'editing' for name in sys.modules)"
    subprocess.run([sys.executable, "-c", alone], check=True)
    printed = done("edit", "--help")
    for option in (
        "--subject",
        "--to",
        "--requests",
        "--undo",
        "--ledger",
        "--export",
        "--locate",
        "[METHOD] [PROMPT]",
    ):
        assert option in printed
    assert " edit " in done("--help")
