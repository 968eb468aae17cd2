"""Consoles that lack characters, or fail: what was computed is written first, and names are never taken twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import done, run
from typer.testing import CliRunner

import editing.cli  # noqa: F401 (adds the commands)
from editing import load_edit
from editing.evaluation import Evaluation
from tracer import CausalTrace
from tracer.cli import app, files, printing

PROMPT, SUBJECT = "The Space Needle is in downtown", "The Space Needle"
FACT = {"prompt": "{} is in downtown", "subject": SUBJECT, "target_new": "Paris", "target_true": "Seattle"}
QUICK = ["--set", "v_steps=2", "--set", "mom2_adjustment=false", "--set", 'context_templates=["{}"]']


@pytest.fixture
def commands(tiny_folder: Callable[[str], Path], tmp_path: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Name -> the command, and the files it writes into the folder "out"."""
    model, out = ["-m", str(tiny_folder("gpt2"))], tmp_path / "out"
    facts, run_file = tmp_path / "facts.json", str(out / "run.sqlite")
    out.mkdir()
    facts.write_text(json.dumps([FACT, {**FACT, "prompt": "{} is", "subject": "東京 → Tōkyō"}]))
    written = ["--out", str(out), "--format", "html,csv"]
    kept = ["--check", "none", "--save", str(out / "edit.safetensors"), "--report", str(out / "outcome.json")]
    more = ["--layers", "1", "--no-texts", "--no-controls", "--option", "canary_tokens=0"]
    return {
        "trace": (
            ["trace", PROMPT, "-s", SUBJECT, "--target", "Paris", "--samples", "1", *model, *written],
            ["space_needle.html"],
        ),
        "average": (
            ["average", "--facts", str(facts), "--samples", "1", "--kind", "mlp", *model, *written],
            ["average.html", "average.csv"],
        ),
        "neurons": (
            ["neurons", PROMPT, "-s", SUBJECT, "--steps", "2", "--draws", "1", *model, *written],
            ["space_needle_neurons.csv"],
        ),
        "edit": (
            ["edit", FACT["prompt"], "-s", SUBJECT, "--to", "Paris", *QUICK, *model, "--layers", "1", *kept],
            ["edit.safetensors", "outcome.json"],
        ),
        "evaluate": (["evaluate", str(facts), *model, "--out", run_file, *QUICK, *more], ["run.sqlite"]),
        "tokens": (["tokens", "東京 → is in", "-s", "東京", *model], []),
        "world": (["world", "São Paulo"], []),
        "models": (["models"], []),
    }


NAMES = ("trace", "average", "neurons", "edit", "evaluate", "tokens", "world", "models")


@pytest.mark.parametrize("name", NAMES)
def test_text_that_the_console_lacks_is_replaced(name: str, commands: dict[str, Any], tmp_path: Path) -> None:
    arguments, written = commands[name]
    for charset in ("ascii", "cp1252") if name in ("trace", "tokens", "world") else ("ascii",):
        result = CliRunner(charset=charset).invoke(app, arguments, env={"COLUMNS": "160"})
        assert (result.exit_code, result.exception) == (0, None), result.output
        assert result.stdout_bytes.decode(charset).strip()
    if name == "trace":
        assert result.stdout.startswith(f"{PROMPT} -> Paris\n")
    assert all((tmp_path / "out" / file).is_file() for file in written)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("tokens", "world", "models")])
def test_results_are_written_before_anything_is_printed(
    name: str, commands: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, written = commands[name]
    there: list[bool] = []

    class Broken:
        def print(self, *_: Any, **__: Any) -> None:
            there.append(all((tmp_path / "out" / file).is_file() for file in written))
            raise BrokenPipeError

    monkeypatch.setattr(printing, "console", Broken)
    CliRunner().invoke(app, arguments)
    assert there == [True]  # the first line is not printed before
    if name == "edit":
        assert load_edit(tmp_path / "out" / "edit.safetensors").factors
    if name == "evaluate":
        assert {"rome", "unedited"} == {*Evaluation.load(tmp_path / "out" / "run.sqlite").frame["method"]}


def test_what_was_found_is_printed_though_it_cannot_be_written(
    commands: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracer import TracerError

    def fails(*_: Any, **__: Any) -> None:
        raise TracerError("no room")

    monkeypatch.setattr(files, "placed", fails)
    code, printed, errors = run(*commands["trace"][0])
    assert (code, errors) == (2, "tracer: no room\n")
    assert "clean" in printed and "wrote" not in printed


def test_another_figure_of_the_subject_gets_another_name(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = ["-m", str(tiny_folder("gpt2")), "--samples", "1", "--kind", "mlp", "--format", "npz,html"]

    def traced(prompt: str, *more: str) -> list[str]:
        printed = done("trace", prompt, "-s", SUBJECT, *model, *more, "--out", str(tmp_path))
        return [Path(line.split("wrote ")[1]).name for line in printed.splitlines() if line.startswith("wrote ")]

    other = "The Space Needle was built by"
    assert traced(PROMPT) == ["space_needle_mlp.npz", "space_needle.html"]
    assert traced(other) == ["space_needle_mlp_2.npz", "space_needle_2.html"]
    assert traced(PROMPT, "--seed", "5") == ["space_needle_mlp_3.npz", "space_needle_3.html"]
    assert traced(PROMPT) == ["space_needle_mlp.npz", "space_needle.html"]  # the same again is the same file
    prompts = [CausalTrace.load(tmp_path / f"space_needle_mlp{end}.npz").prompt for end in ("", "_2", "_3")]
    assert prompts == [PROMPT, other, PROMPT]
    assert other in (tmp_path / "space_needle_2.html").read_text(encoding="utf-8")
    assert len([*tmp_path.iterdir()]) == 6


def test_files_that_belong_together_have_one_number_and_none_is_lost(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("mine")

    def make(folder: Path) -> list[Path]:
        for name in ("a.html", "b.csv"):
            (folder / name).write_text("new")
        return [folder / "b.csv", folder / "a.html"]

    assert files.placed(tmp_path, make) == [tmp_path / "b_2.csv", tmp_path / "a_2.html"]
    assert (tmp_path / "b.csv").read_text() == "mine"

    def fails(folder: Path) -> list[Path]:
        (folder / "c.csv").write_text("numbers")
        raise RuntimeError("no browser")

    with pytest.raises(RuntimeError):
        files.placed(tmp_path, fails)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_2.html", "b.csv", "b_2.csv", "c.csv"]
