"""What the repository shows: pictures that `make figures` writes, and notebooks with the outputs of one run."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from answered import answered

from editing.questions.answers import Answers
from editing.questions.outcome import Outcome
from editing.questions.question import Question

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
QUESTIONS = (
    Question.of("rewrite", "The Space Needle is in downtown", " Paris", " Seattle"),
    Question.of("neighbour", "Smith Tower is in downtown", " Paris", " Seattle"),
    Question.of("neighbour", "Pike Place Market is in downtown", " Paris", " Seattle"),
    Question.of("same_subject", "The Space Needle is in the country of", " Paris", " the United States"),
)
NEW, TRUE = "#c4552d", "#3b6ea5"


def loaded(name: str) -> ModuleType:
    """A module of figures/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "figures" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(new: list[float], true: list[float], answers: list[str], text: str) -> Answers:
    return answered(QUESTIONS, new, true, answers, {"The Space Needle is": text})


@pytest.fixture(scope="module")
def figure() -> Any:
    before = measured([0.1] * 4, [0.75, 0.8, 0.85, 0.9], ["Seattle"] * 3 + ["the United States"], " a landmark.")
    after = measured(
        [0.95, 0.2, 0.1, 0.1], [0.01, 0.6, 0.7, 0.3], ["Paris"] + ["Seattle"] * 2 + ["France"], " in Paris."
    )
    return loaded("edit_table").edit_table(Outcome(before, after), shown=1, note="by hand")


def test_bars_are_as_long_as_what_is_said_is_probable(figure: Any) -> None:
    bars = [shape for shape in figure.layout.shapes if shape.fillcolor in (NEW, TRUE)]
    room = max(shape.x1 - shape.x0 for shape in figure.layout.shapes if str(shape.fillcolor).startswith("rgba"))
    found = [(bar.fillcolor, round((bar.x1 - bar.x0) / room, 6)) for bar in bars]
    # rewrite, one neighbour of two, the other fact; "France" is neither target and has no bar
    assert found == [(TRUE, 0.75), (NEW, 0.95), (TRUE, 0.8), (TRUE, 0.6), (TRUE, 0.9)]


def test_the_table_tells_prompts_answers_and_what_is_written(figure: Any) -> None:
    texts = [re.sub("<[^>]*>", "", each.text) for each in figure.layout.annotations]
    for text in ("Smith Tower is in downtown", "France", "a landmark.", "in Paris.", "0.95", "rewrite", "other fact"):
        assert text in texts
    assert "Pike Place Market is in downtown" not in texts  # shown=1
    assert "by hand" in figure.layout.title.subtitle.text


def test_pictures_are_those_that_are_made_and_shown() -> None:
    there = {path.name for path in (ROOT / "figures").glob("*") if path.suffix in (".png", ".svg")}
    made = set(re.findall(r'"(\w+\.(?:png|svg))"', (ROOT / "figures" / "make.py").read_text()))
    shown = set(re.findall(r"figures/(\w+\.(?:png|svg))", (ROOT / "README.md").read_text()))
    assert there == made
    assert shown <= there


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_keep_the_outputs_of_one_run(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells] == [f"cell-{number:02}" for number in range(len(cells))]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for output in (output for cell in code for output in cell["outputs"]):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
        if "application/vnd.plotly.v1+json" in output.get("data", {}):
            assert "image/png" in output["data"]  # for readers that run no script


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_lead_to_each_other(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    links = [link for text in texts for link in re.findall(r"\]\((?!http|#)([^)#]+)\)", text)]
    assert links and all((path.parent / link).is_file() for link in links)
    assert re.match(r"# \w", texts[0]) and not any(re.match("# ", text) for text in texts[1:])
    number = int(path.stem[:2])
    if number < 9:
        assert any(link.startswith(f"{number + 1:02}_") for link in links)
