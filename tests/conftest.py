"""Fixtures for every test: tiny checkpoints of each architecture, and published outputs where they are to be had."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest
from hypothesis import settings

from tracer.model import Model, load

# the same examples in every run, and no deadline: a machine may be busy
settings.register_profile("tracer", derandomize=True, deadline=None)
settings.load_profile("tracer")

_SHARED = Path(__file__).parents[2] / "shared"


def _folder(variable: str, fallback: Path) -> Path:
    """The folder an environment variable names, or the one beside the repository; the test skips without either."""
    named = os.environ.get(variable)
    folder = Path(named) if named else fallback
    if not folder.is_dir():
        pytest.skip(f"needs the folder that {variable} names ({folder} is none)")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with the published code's outputs and the small model they were made on."""
    return _folder("TRACER_GOLDEN", _SHARED / "golden")


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder with public data sets."""
    return _folder("TRACER_DATA", _SHARED / "data")


@pytest.fixture(scope="session")
def golden_model(golden: Path) -> Model:
    """The model the published outputs were made on. Shared by all tests: leave it as you found it."""
    return load(golden / "model")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny_folder("llama")``: a tiny random checkpoint on disk, written once per session. Read it only."""
    made: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = checkpoints.build(architecture, tmp_path_factory.mktemp("tiny") / architecture)
        return made[architecture]

    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Callable[[str], Path]) -> Callable[[str], Model]:
    """``tiny("llama")``: that checkpoint loaded. Shared by all tests: leave it as you found it."""
    made: dict[str, Model] = {}

    def model(architecture: str) -> Model:
        if architecture not in made:
            made[architecture] = load(tiny_folder(architecture))
        return made[architecture]

    return model
