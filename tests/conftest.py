"""Fixtures for every test: tiny checkpoints of each architecture, and published outputs where they are to be had."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import checkpoints
import pytest
from browsers import Browser
from hypothesis import settings

from tracer.errors import TracerNote
from tracer.model import Model, load, models

# the same examples in every run, and no deadline: a machine may be busy
settings.register_profile("tracer", derandomize=True, deadline=None)
settings.load_profile("tracer")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-real", action="store_true", help="tests of pretrained models fail, not skip, where those are missing"
    )


def pytest_collection_finish() -> None:
    gc.freeze()  # what libraries and tests made when imported stays, and need not be gone through again and again


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


@pytest.fixture(scope="session")
def real(request: pytest.FixtureRequest) -> Callable[[str], Model]:
    """``real("gemma-3-270m")``: a pretrained model of an installed package. Shared by all tests: leave it as found."""
    made: dict[str, Model] = {}
    listed = {each.name: each for each in models()}

    def model(name: str) -> Model:
        if not listed[name].ready:
            reason = f"{name} is not installed: {listed[name].how}"
            pytest.fail(reason) if request.config.getoption("--strict-real") else pytest.skip(reason)
        if name not in made:
            with warnings.catch_warnings():  # putting it together says so once
                warnings.filterwarnings("ignore", ".*put together once", TracerNote)
                made[name] = load(name)
        return made[name]

    return model


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless browser for the pages of one file of tests."""
    browser = Browser()
    yield browser
    browser.close()
