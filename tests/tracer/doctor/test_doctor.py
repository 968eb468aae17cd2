"""The doctor: what is there is good, what is lacking is told with its repair, and only what will fail is bad."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import done, run

from tracer.doctor import examine, machine, packages
from tracer.extras import DISTRIBUTION, EXTRAS, install

Memory = namedtuple("Memory", "available total")
NEEDS = [
    "torch>=2.13",
    "numpy>=99",
    "surely-not-there>=1",
    'colorama>=9; sys_platform == "never"',
    'gguf>=0.19; extra == "gguf"',
    'tracer-workbench[gguf]; extra == "real"',
    'surely-not-there; extra == "real"',
]


def found(part: str) -> dict[str, Any]:
    return {each.name: each for each in examine() if each.part == part}


def test_this_installation_is_good() -> None:
    everything = examine()
    assert {each.part for each in everything} == {"versions", "machine", "files", "figures", "extras", "models"}
    assert not [each for each in everything if each.state == "bad" and each.part in ("versions", "figures")]
    assert found("versions")["torch"].found == torch.__version__
    assert all(each.repair for each in everything if each.state == "missing" and each.name != "accelerator")


def test_versions_and_extras_are_held_against_the_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "requires", lambda _: NEEDS)
    versions, extras = found("versions"), found("extras")
    assert versions["torch"].state == "good" and "colorama" not in versions
    assert versions["numpy"].state == "bad" and versions["numpy"].repair == 'pip install "numpy>=99"'
    assert versions["surely-not-there"].found == "not installed; expected >=1"
    assert extras["gguf"].state == "good" and extras["real"].state == "missing"
    assert "(lacks surely-not-there)" in extras["real"].found and extras["real"].repair == install("real")


def test_the_extras_are_those_of_the_project() -> None:
    from importlib.metadata import metadata

    offered = set(metadata(DISTRIBUTION).get_all("Provides-Extra") or ())
    assert offered == {*EXTRAS, "docs", "dev"}  # the last two are for those who work on it


def test_a_poor_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(1 << 30, 4 << 30))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    monkeypatch.setenv("TRACER_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TRACER_CACHE", str(tmp_path / "cache"))
    told = {**found("machine"), **found("files")}
    assert {name for name, each in told.items() if each.state == "bad"} == {"memory", "processor", "TRACER_DATA"}
    assert "134 million parameters" in told["memory"].found and "OMP_NUM_THREADS=" in told["processor"].repair
    assert told["cache"].found.startswith(f"{tmp_path / 'cache'}, 0.00 GiB") and not (tmp_path / "cache").exists()
    monkeypatch.setattr(machine, "SCARCE", 1 << 60)
    assert found("files")["cache"].state == "bad"


def test_no_browser_and_no_kaleido(monkeypatch: pytest.MonkeyPatch) -> None:
    from choreographer.browsers.chromium import Chromium

    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setattr(Chromium, "find_browser", lambda **_: None)
    assert "apt install chromium" in found("figures")["png, svg, pdf"].repair
    monkeypatch.setattr("tracer.doctor.examination.find_spec", lambda _: None)
    assert install("figures") in found("figures")["png, svg, pdf"].repair


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = json.loads(done("doctor", "--json"))
    assert [each["name"] for each in listed] == [each.name for each in examine()]
    text = done("doctor")
    assert "versions:\n  ok python: 3." in text and "smollm2-135m" in text
    monkeypatch.setattr(packages, "requires", lambda _: NEEDS)
    code, printed, _ = run("doctor")
    assert code == 1 and '       pip install "numpy>=99"' in printed
