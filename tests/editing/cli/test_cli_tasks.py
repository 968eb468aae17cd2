"""`tracer finetune` and `tracer combine`: what they write, what they say, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import assert_one_line, cells, done, run
from handmade import handmade

import editing.cli  # noqa: F401 (adds the commands)
import tracer
from editing import load_edit
from tracer import Model

Tiny = Callable[[str], Model]


def test_lines_of_a_text_are_learnt(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    text, out = tmp_path / "some.txt", tmp_path / "some.safetensors"
    text.write_text("The Space Needle is in Paris.\n\nMiles Davis plays\nthe cello.\n", encoding="utf-8")
    given = ["--model", str(tiny_folder("gpt2")), "--set", "steps=3", "--set", "rank=2", "--set", "layers=1,2"]
    printed = done("finetune", str(text), "--out", str(out), *given)
    assert "2 learnt on" in printed and "wrote" in printed and "loss" in printed
    edit = load_edit(out, tracer.load(tiny_folder("gpt2")))
    assert edit.settings["steps"] == 3 and edit.settings["layers"] == [1, 2] and set(edit.rank().values()) == {2}


def test_records_are_learnt(tmp_path: Path) -> None:
    out = tmp_path / "facts"
    printed = done("finetune", "factworld", "--split", "train", "--limit", "2", "-o", str(out), "--set", "steps=2")
    assert "2 learnt on factworld" in printed
    assert len(load_edit(tmp_path / "facts.safetensors").requests) == 2


def test_the_sum_is_written_and_told(tmp_path: Path, tiny: Tiny) -> None:
    one, two, three = (handmade(tiny("gpt2"), (1, 2), seed=seed) for seed in range(3))
    for name, edit in {"one": one, "two": two, "0.5*three": three}.items():
        edit.save(tmp_path / f"{name}.safetensors")
    at = lambda name: str(tmp_path / f"{name}.safetensors")  # noqa: E731
    out = tmp_path / "sum.safetensors"
    printed = done("combine", at("one"), f"0.5*{at('two')}", "--minus", f"2*{at('one')}", "--out", str(out))
    expected = one + 0.5 * two - 2 * one
    for name, change in load_edit(out).to_dense().items():
        torch.testing.assert_close(change, expected.to_dense()[name])
    assert cells(printed, "2", at("one"))[2] == "-2" and "-1.000" not in printed and "1.000" in printed


def test_what_is_no_edit_is_refused_and_nothing_is_written(tmp_path: Path, tiny: Tiny) -> None:
    saved = handmade(tiny("gpt2")).save(tmp_path / "one.safetensors")
    other = handmade(tiny("llama")).save(tmp_path / "other.safetensors")
    out = tmp_path / "out.safetensors"
    for given, message in (
        ([f"x*{saved}"], "begins with 'x'; expected FILE, or a number in front of it as in 0.5*FILE"),
        ([str(tmp_path / "none")], "none"),
        ([f"0.5*{tmp_path / 'none'}"], f"there is no file {tmp_path / 'none'}"),
        ([str(saved), str(other)], "computed on"),
        ([f"inf*{saved}"], "cannot be scaled by inf"),
    ):
        assert_one_line(run("combine", *given, "--out", str(out)), message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nothing.txt"], "nothing.txt cannot be read"),
        (["factworld", "--set", "speed=3"], "finetune has no hyper-parameter 'speed'"),
        (["factworld", "--set", "steps=many"], "steps is 'many'; expected int"),
    ],
)
def test_what_cannot_be_learnt_is_one_line(given: list[str], message: str, tmp_path: Path) -> None:
    assert_one_line(run("finetune", *given, "--out", str(tmp_path / "out")), message)
    assert not list(tmp_path.iterdir())
