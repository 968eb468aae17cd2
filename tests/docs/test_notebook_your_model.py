"""Notebook 07 runs on any model: here on one that knows nothing, on which it has to say so and go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tracer

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[2] / "notebooks"
CHECKS = ("model", "alignment", "knowledge", "noise", "trace", "covariance", "layers", "trial edit")


def verdicts(name: str, folder: Path) -> tuple[dict[str, str], str]:
    """The notebook run on the model in ``folder``: verdict by check, and everything that was printed.

    nbclient raises where a cell does.
    """
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    lines = [line for line in printed.splitlines() if line[:1].isdigit()]
    return {line.split(": ")[0].split(" ", 1)[1]: line.split(": ")[1] for line in lines}, printed


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> Path:
    """A tiny Llama, and settings under which the notebook is quick and keeps nothing."""
    folder = tiny_folder("llama")
    settings = {"TRACER_MODEL": str(folder), "TRACER_NOTEBOOK_SHARE": "0.2", "TRACER_CACHE": str(tmp_path)}
    for name, value in {**settings, "PLOTLY_RENDERER": "json", "TRACER_PROGRESS": "0"}.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq")
def test_a_random_model_of_another_architecture_is_told_that_it_knows_nothing(quick: Path) -> None:
    found, printed = verdicts("07_your_model.ipynb", quick)
    assert tuple(found) == CHECKS
    assert set(found.values()) <= {"OK", "LOOK HERE", "NOT POSSIBLE"}
    assert found["model"] == found["alignment"] == "OK"
    assert found["knowledge"] == found["covariance"] == found["layers"] == found["trial edit"] == "LOOK HERE"
    assert "not 'Seattle': what follows is about what it says" in printed
    assert "more text still matters" in printed, printed


@pytest.mark.parametrize("name", ["01_space_needle_trace.ipynb", "07_your_model.ipynb"])
def test_the_model_is_the_real_one_where_it_is_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a notebook runs on: an environment variable wins, and an empty one means the embedded model."""
    first = next(cell for cell in nbformat.read(FOLDER / name, as_version=4).cells if cell["cell_type"] == "code")

    def chosen(ready: bool, **environment: str) -> str | None:
        for variable in ("TRACER_MODEL", "TRACER_NOTEBOOK_MODEL"):
            monkeypatch.delenv(variable, raising=False)
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setattr(tracer, "models", lambda: (SimpleNamespace(name="gemma-3-270m", ready=ready),))
        variables: dict[str, Any] = {}
        exec(first["source"], variables)
        return variables["MODEL"]

    assert chosen(ready=True) == "gemma-3-270m"
    assert chosen(ready=False) is None
    assert chosen(ready=True, TRACER_NOTEBOOK_MODEL="") is None
    assert chosen(ready=False, TRACER_NOTEBOOK_MODEL="gpt2") == "gpt2"
