"""Models by name from installed packages: put together once, checked, and none of the packages' code run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import pytest
from typer.testing import CliRunner

import tracer
from tracer.cli import app
from tracer.errors import TracerError, TracerNote
from tracer.model import Model, load, packages
from tracer.model.packages import PACKAGED, Packaged

pytest.importorskip("gguf", reason='needs pip install "tracer-workbench[gguf]"')
import ggufs

pytestmark = pytest.mark.filterwarnings("ignore:.*talks nonsense:tracer.TracerNote")


def _install(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """A distribution as pip leaves it, whose code may not be run."""
    about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        (folder / path).with_name("__init__.py").write_text("raise RuntimeError('the code of a package was run')")


@pytest.fixture
def installed(tiny: Callable[[str], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in two packages, known as "tiny-model"; the folder they are installed in."""
    whole = ggufs.write(tiny("llama"), tmp_path / "whole.gguf", add_bos=True).read_bytes()
    half = len(whole) // 2
    site = tmp_path / "site"
    _install(site, "tiny-part1", {"tiny_part1/model.part0": whole[:half], "tiny_part1/LICENSE": b"be kind"})
    _install(site, "tiny-part2", {"tiny_part2/model.part1": whole[half:]})
    about = Packaged(
        what="a tiny model",
        licence="Kind 1.0",
        terms="https://example.org/kind",
        install="tiny-part1 tiny-part2",
        parts=(("tiny-part1", "tiny_part1/model.part0"), ("tiny-part2", "tiny_part2/model.part1")),
        notices=(("tiny-part1", "tiny_part1/LICENSE"), ("tiny-part1", "tiny_part1/NOTICE")),
        sha256=sha256(whole).hexdigest(),
    )
    table = MappingProxyType({**PACKAGED, "tiny-model": about})
    for module in ("packages", "find", "listing"):
        monkeypatch.setattr(sys.modules[f"tracer.model.{module}"], "PACKAGED", table, raising=False)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("TRACER_CACHE", str(tmp_path / "cache"))
    return site


def _state(name: str) -> tuple[bool, str]:
    found = next(each for each in tracer.models() if each.name == name)
    return found.ready, found.how


def test_put_together_once(installed: Path, tiny: Callable[[str], Model], tmp_path: Path) -> None:
    assert _state("tiny-model") == (True, "installed; put together when first loaded")
    with pytest.warns(TracerNote, match=r"tiny-model \(a tiny model\).*Kind 1\.0, https://example\.org/kind"):
        model = load("tiny-model")
    assert model.name == model.hf.name_or_path == "tiny-model"
    assert model.fingerprint() == tiny("llama").fingerprint()
    made = packages.kept("tiny-model")
    assert (made / "LICENSE").read_text() == "be kind"  # goes with the weights; NOTICE is not there
    assert _state("tiny-model") == (True, "ready in the cache")
    for file in installed.rglob("model.part?"):
        file.unlink()
    again = load("tiny-model")  # from the cache, without a note: warnings are errors
    assert again.fingerprint() == model.fingerprint()
    assert again.tokenizer("Seattle")["input_ids"] == model.tokenizer("Seattle")["input_ids"]
    assert sorted(path.name for path in made.parent.iterdir() if path.suffix != ".lock") == [made.name]
    assert not list(tmp_path.glob("*.gguf.*"))


def test_not_installed(installed: Path) -> None:
    next(installed.rglob("model.part1")).unlink()
    assert _state("tiny-model") == (False, "pip install tiny-part1 tiny-part2")
    with pytest.raises(TracerError, match=r"'tiny-model' are not installed .*pip install tiny-part1 tiny-part2$"):
        load("tiny-model")


@pytest.mark.filterwarnings("ignore:.*put together once:tracer.TracerNote")
def test_a_wrong_checksum(installed: Path, tmp_path: Path) -> None:
    part = next(installed.rglob("model.part1"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(TracerError, match=r"damaged or of another version .*pip install --force-reinstall tiny-part1"):
        load("tiny-model")
    assert not packages.kept("tiny-model").exists() and not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.filterwarnings("ignore:.*put together once:tracer.TracerNote")
def test_interrupted_it_leaves_nothing(installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(model: Model, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(packages, "write", interrupted)
        load("tiny-model")
    assert not packages.kept("tiny-model").exists()
    load("tiny-model")


@pytest.mark.filterwarnings("ignore:.*put together once:tracer.TracerNote")
def test_a_cache_that_cannot_be_written(installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRACER_CACHE", str(tmp_path / "file"))
    with pytest.raises(TracerError, match=r"cannot write .*tiny-model.*TRACER_CACHE name a writable folder"):
        load("tiny-model")


def test_the_command(installed: Path) -> None:
    listed = CliRunner().invoke(app, ["models"], env={"COLUMNS": "160"})
    assert listed.exit_code == 0
    rows = {line.split()[0]: line for line in listed.stdout.splitlines() if line.strip()}
    assert "Kind 1.0" in rows["tiny-model"] and "installed; put together" in rows["tiny-model"]
    assert "Gemma terms of use" in rows["gemma-3-270m"] and "Apache 2.0" in rows["smollm2-135m"]
    shown = CliRunner().invoke(app, ["tokens", "{} is in", "-s", "Seattle", "--model", "tiny-model"])
    assert shown.exit_code == 0 and "answer is read here" in shown.stdout
    assert shown.stderr.startswith("tracer: note: tiny-model (a tiny model) is put together once")
    assert len(shown.stderr.splitlines()) == 2  # that, and that it talks nonsense
    quiet = CliRunner().invoke(app, ["tokens", "{} is in", "-s", "Seattle", "--model", "tiny-model"])
    assert (quiet.exit_code, quiet.stderr, quiet.stdout) == (0, "", shown.stdout)


def test_what_is_listed() -> None:
    listed = tracer.models()
    assert listed[0].name is None and listed[0].ready
    assert {each.name for each in listed} >= {"gemma-3-270m", "smollm2-135m"}
    assert all(each.licence and each.terms for each in listed[1:3])
    for about in PACKAGED.values():
        assert len(about.sha256) == 64 and len(set(about.parts)) == len(about.parts)


def test_a_folder_comes_before_a_name(installed: Path, tiny_folder: Callable[[str], Path], monkeypatch) -> None:
    (installed / "tiny-model").symlink_to(tiny_folder("gpt2"))
    monkeypatch.chdir(installed)
    assert type(load("tiny-model").hf).__name__ == "GPT2LMHeadModel"
