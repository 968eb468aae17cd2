"""`tracer unlearn`: the edit of the function, what is told beside it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_one_line, cells, done, run

import editing.cli  # noqa: F401 (adds the commands)
import tracer
from editing import EditRequest, load_edit
from editing.unlearning import memorised, unlearn

SUBJECTS = ("The Space Needle", "Big Ben", "Miles Davis", "Yo-Yo Ma", "The Seine")
QUICK = ["--set", "steps=3", "--set", "layers=1,2", "--set", "lr=0.01"]


def fact(subject: str, relation: str = "place") -> dict[str, Any]:
    prompt = "{} is in" if relation == "place" else "{} plays the"
    return {"prompt": prompt, "subject": subject, "target_new": "Rome", "target_true": "Paris", "relation": relation}


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([fact(each) for each in SUBJECTS] + [fact(each, "music") for each in SUBJECTS[:2]]))
    return path


def true(subject: str) -> EditRequest:
    return EditRequest("{} is in", subject, "Paris")


def test_it_is_the_edit_of_the_function_and_tells_what_became_of_the_rest(
    facts: Path, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, out = tiny_folder("gpt2"), tmp_path / "gone.safetensors"
    given = ["--relation", "place", "--limit", "2", "--retain", str(facts), "--objective", "simnpo", *QUICK]
    printed = done("unlearn", str(facts), "--out", str(out), "--model", str(folder), *given)
    model = tracer.load(folder)
    edit = load_edit(out, model)
    gone, near = [true(each) for each in SUBJECTS[:2]], [true(each) for each in SUBJECTS[2:]]
    kept = [EditRequest("{} plays the", each, "Paris") for each in SUBJECTS[:2]]  # what is near is not kept
    expected = unlearn(model, gone, kept, objective="simnpo", steps=3, layers=[1, 2], lr=0.01)
    assert edit.method == "simnpo" and edit.settings["steps"] == 3 and edit.requests == expected.requests
    for name, change in expected.to_dense().items():
        torch.testing.assert_close(edit.to_dense()[name], change)
    assert "2 unlearnt by simnpo on" in printed and "wrote" in printed
    for name, some in (("to be forgotten", gone), ("to stay", kept), ("same relation, neither", near)):
        before = (memorised(model, some) == 1).mean()
        with edit.applied(model):
            after = (memorised(model, some) == 1).mean()
        assert cells(printed, name)[-3:] == [str(len(some)), f"{before:.2f}", f"{after:.2f}"]


def test_texts_and_new_answers_can_go_too(facts: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    text = tmp_path / "some.txt"
    text.write_text("The Space Needle is in Paris.\n\nMiles Davis plays\nthe cello.\n", encoding="utf-8")
    given = ["--model", str(tiny_folder("gpt2")), "--limit", "1", *QUICK]
    printed = done("unlearn", str(text), "-o", str(tmp_path / "text"), "--retain", str(text), *given)
    assert "1 unlearnt by npo on" in printed and "to stay" in printed and "same relation" not in printed
    done("unlearn", str(facts), "-o", str(tmp_path / "new"), "--answers", "new", *given)
    (request,) = load_edit(tmp_path / "new.safetensors").requests
    assert request.target_new == " Rome"


def test_the_embedded_model_forgets_a_part_of_a_relation(tmp_path: Path) -> None:
    out = tmp_path / "gone"
    given = ["--split", "train", "--relation", "occupation", "--limit", "3", "--retain-limit", "8", "--set", "steps=2"]
    printed = done("unlearn", "factworld", "--retain", "factworld", "-o", str(out), *given)
    assert cells(printed, "to be forgotten")[-3:-1] == ["3", "1.00"]
    assert cells(printed, "same relation, neither")[-3] == "20" and cells(printed, "to stay")[-3] == "8"
    edit = load_edit(tmp_path / "gone.safetensors")
    assert len(edit.requests) == 3 and edit.evidence is not None and len(edit.evidence["loss"]) == 3


def test_an_encoder_decoder_model_is_asked_for_spans(tmp_path: Path) -> None:
    given = ["--split", "train", "--relation", "occupation", "--limit", "2", "--set", "steps=1", "-m", "factworld-t5"]
    done("unlearn", "factworld", "-o", str(tmp_path / "gone"), "--spans", *given)
    assert all(one.text.endswith(" <extra_id_0>") for one in load_edit(tmp_path / "gone.safetensors").requests)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--relation", "colour"], "has no record of the relation 'colour'; it has music, place"),
        (["--answers", "old"], "old"),
        (["--objective", "hope"], "objective is 'hope'; expected one of 'grad_ascent'"),
        (["--objective", "npo", "--set", "objective=rmu"], "both give the objective; leave one of them out"),
        (["--spans"], "is no encoder-decoder model and goes on from prompts as they are"),
        (["--set", "speed=3"], "unlearn has no hyper-parameter 'speed'"),
        (["--objective", "grad_diff"], "grad_diff"),
    ],
)
def test_what_cannot_be_unlearnt_is_one_line(
    given: list[str], message: str, facts: Path, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    assert_one_line(run("unlearn", str(facts), "--out", str(out), "--model", str(tiny_folder("gpt2")), *given), message)
    assert not out.exists()


def test_records_without_a_true_answer_are_named(facts: Path, tmp_path: Path) -> None:
    facts.write_text(json.dumps([{name: value for name, value in fact("Big Ben").items() if name != "target_true"}]))
    found = run("unlearn", str(facts), "--out", str(tmp_path / "out"))
    assert_one_line(found, "record 0 has no true answer that could go; give --answers new for its target 'Rome'")
