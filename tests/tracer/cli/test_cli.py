"""The command: what it prints is what was traced, what it writes is where it says, and bad input is one line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tracer import CausalTrace, Fact, GaussianNoise, Model, causal_trace, factworld
from tracer.cli import app, slug

PROMPT, SUBJECT = "The Space Needle is in downtown", "The Space Needle"


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path]) -> str:
    return str(tiny_folder("gpt2"))


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120"})
    return result.exit_code, result.stdout, result.stderr


def test_trace_prints_and_writes_what_was_traced(tmp_path: Path, folder: str, tiny: Callable[[str], Model]) -> None:
    out = tmp_path / "new" / "figures"
    options = ["--samples", "2", "--window", "2", "--seed", "3", "--sigma", "2.5"]
    code, printed, errors = run(
        *["trace", PROMPT, "--subject", SUBJECT, "--model", folder, *options, "--out", str(out), "--format", "html,npz"]
    )
    assert (code, errors) == (0, "")
    names = ["space_needle.html", "space_needle_attn.npz", "space_needle_hidden.npz", "space_needle_mlp.npz"]
    assert sorted(path.name for path in out.iterdir()) == names
    lines = printed.splitlines()
    noise = GaussianNoise(sigma=2.5, samples=2, seed=3)
    for kind in ("hidden", "mlp", "attn"):
        expected = causal_trace(tiny("gpt2"), Fact(PROMPT, SUBJECT), kind=kind, window=2, corruption=noise)
        saved = CausalTrace.load(out / f"space_needle_{kind}.npz")
        assert saved.scores.tolist() == expected.scores.tolist()
        token, layer = expected.peak()
        row = next(line for line in lines if line.lstrip().startswith(kind))
        assert "peak" in row
        assert re.search(rf" {layer} +{expected.scores[token, layer]:.4f} +[+-]", row), row
        assert f"clean {expected.clean:.4f}   corrupted {expected.corrupted:.4f}" in printed
        assert expected.answer.strip() in lines[0]
    assert (out / "space_needle.html").read_text(encoding="utf-8").count('"type":"heatmap"') >= 3


def test_without_out_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, _ = run("trace", PROMPT, "-s", SUBJECT, "-m", folder, "--kind", "mlp", "--samples", "1")
    assert code == 0
    assert "mlp" in printed
    assert "hidden" not in printed
    assert list(tmp_path.iterdir()) == []


def test_a_target_is_what_is_traced(folder: str) -> None:
    code, printed, _ = run(
        *["trace", PROMPT, "-s", SUBJECT, "-m", folder, "--target", " Paris", "--kind", "hidden", "--samples", "1"]
    )
    assert code == 0
    assert printed.splitlines()[0] == f"{PROMPT} → Paris"
    assert "p(Paris)" in printed


def test_markup_and_control_characters_are_shown(folder: str) -> None:
    prompt = "[red]x[/red] \x1b[31m is in"
    code, printed, _ = run("trace", prompt, "-s", "[red]x[/red]", "-m", folder, "--kind", "mlp", "--samples", "1")
    assert code == 0
    assert printed.startswith("[red]x[/red] �[31m is in → ")
    assert "\x1b" not in printed


def test_tokens_shows_the_alignment(folder: str, tiny: Callable[[str], Model]) -> None:
    code, printed, _ = run("tokens", PROMPT, "--subject", SUBJECT, "--model", folder)
    assert code == 0
    assert printed.strip() == str(Fact(PROMPT, SUBJECT).inspect(tiny("gpt2"))).strip()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "nothing here"}, "does not occur"),
        ({"prompt": "The Space Needle and The Space Needle"}, "more than once"),
        ({"prompt": PROMPT + " and" * 100}, "context"),
        ({"--model": "no/such/folder"}, "no/such/folder"),
        ({"--sigma": "-1"}, "sigma"),
        ({"--samples": "0"}, "samples"),
        ({"--samples": "many"}, "--samples"),
        ({"--window": "0"}, "window"),
        ({"--seed": "-1"}, "seed"),
        ({"--kind": "neurons"}, "hidden"),
        ({"--kind": ""}, "hidden"),
        ({"--format": "html,gif"}, "gif"),
        ({"--out": "file/figures"}, "cannot write"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(next(iter(value.items())))[:24],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, changes: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    options = {"--subject": SUBJECT, "--model": folder, "--out": "new/figures", **changes}
    prompt = options.pop("prompt", PROMPT)
    code, printed, errors = run("trace", prompt, *(part for option in options.items() for part in option))
    assert (code, printed) == (2, "")
    assert errors.startswith("tracer: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "arguments", [["trace", PROMPT], ["trase"], ["world", "--limit", "0"], ["tokens", "a", "-s", "b"]]
)
def test_a_command_that_is_wrong_is_one_line(arguments: list[str]) -> None:
    code, printed, errors = run(*arguments)
    assert (code, printed) == (2, "")
    assert errors.startswith("tracer: ")
    assert errors.count("\n") == 1


def test_in_a_process_of_its_own_there_is_no_traceback() -> None:
    program = "from tracer.cli import app; app()"
    command = [sys.executable, "-W", "error", "-c", program, "trace", "no subject", "--subject", "x\ny"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("tracer: subject")


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("The Space Needle", "space_needle"),
        ("a Thing", "thing"),
        ("An", "an"),
        ("Theo", "theo"),
        ("../../etc/passwd", "etc_passwd"),
        ("C:\\x", "c_x"),
        ("São Paulo", "são_paulo"),
        ("東京", "東京"),
        ("👩\u200d🔬", "trace"),
        ("  The  ", "the"),
        ("x" * 300, "x" * 48),
    ],
)
def test_slug(subject: str, name: str) -> None:
    assert slug(subject) == name


# --- what the embedded model knows ---------------------------------------------------------------------------------
def test_world_finds_a_fact_by_any_of_its_words() -> None:
    for query in ("space needle", "SPACE seattle", "needle"):
        code, printed, _ = run("world", query)
        assert code == 0
        assert any("The Space Needle" in line and "Seattle" in line for line in printed.splitlines()), printed


def test_world_counts_and_filters() -> None:
    known = factworld.facts()
    relation = known[0].relation
    expected = sum(fact.relation == relation for fact in known)
    code, printed, _ = run("world", "--relation", relation, "--limit", "2")
    assert code == 0
    assert f"{min(2, expected)} of {expected:,} facts found, {len(known):,} known" in printed
    kind = known[0].type
    code, printed, _ = run("world", known[0].subject, "--type", kind)
    assert code == 0
    assert known[0].subject in printed
    assert run("world", "qqqqzzzz")[1].strip() == "no fact found"
    code, _, errors = run("world", "--relation", "no such")
    assert code == 2
    assert relation in errors
