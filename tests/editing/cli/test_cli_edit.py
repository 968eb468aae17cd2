"""``tracer edit``: it prints what was measured and keeps what it was told to keep."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from commands import assert_one_line, cells, done, run
from edit_command import PROMPT, RECORDS, SUBJECT, Calls
from handmade import handmade

import editing.cli
import tracer.cli
from editing.edits.edit import Edit, load_edit
from editing.edits.weights import applied
from editing.ledger.editor import Editor
from editing.questions.answers import Answers
from editing.questions.outcome import measure
from editing.questions.probes import Probes, from_factworld
from editing.questions.question import Question
from editing.request import EditRequest
from tracer import Model, factworld, load
from tracer.errors import TracerError

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
    (((request,), using, more),) = asked
    (probes,) = more.pop("questions")
    assert (using, more) == ("sweep", {"method": "ft_l", "known": "refuse", "lr": 0.5})
    assert request == EditRequest(PROMPT, SUBJECT, " Paris", " Seattle")
    assert probes.questions == ASKED.questions[:3]  # and no neighbour with another answer


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


def test_an_edit_that_a_router_finds_is_made_by_the_command(tmp_path: Path) -> None:
    """With what comes along for the embedded model; an answer says which entry acted, or that none did."""
    saved = tmp_path / "paris.safetensors"
    given = ["{} is in downtown", "-s", "The Space Needle", "--to", "Paris", "--neighbour", "Smith Tower is in=Seattle"]
    printed = " ".join(done("edit", "rase", *given, "--save", str(saved)).split())
    assert "rase: entry 0" in printed and "rase: no hit" in printed and "after: Paris" in printed
    edit = load_edit(saved)
    assert edit.method == "rase" and [change.name for change in edit.memories] == ["rase"] and not edit.weights
