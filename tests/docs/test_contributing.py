"""CONTRIBUTING.md: each recipe is followed in a copy of the packages, used there, and its files are counted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docpages
import pytest
from repository import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PARTS = ("tracer", "editing", "docs/reference")
STATED = re.compile(r"^Touches (\d+) files?(?: and (\d+) pages?)?\. ", re.M)

# run in the copy: every recipe's use, in a namespace of its own; one that fails does not stop the others
RUNNER = """
import contextlib, io, json, sys, traceback
found = {}
for name, code in json.load(sys.stdin).items():
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(code, name, "exec"), {"__name__": "__main__"})
    except BaseException:
        out.write(traceback.format_exc())
    found[name] = out.getvalue()
import editing
json.dump([editing.__file__, found], sys.stdout)
"""


@dataclass(frozen=True)
class Recipe:
    """A section of the page. ``steps``: its blocks that are files, or additions to them."""

    name: str
    files: int
    pages: int
    steps: tuple[docpages.Block, ...]
    use: str
    prints: str


def recipes(text: str) -> Iterator[Recipe]:
    for section in re.split(r"^## ", text.split("\n# Recipes\n")[1], flags=re.M)[1:]:
        stated = STATED.search(section)
        assert stated, f"{section.splitlines()[0]}: says which number of files it touches, 'Touches 2 files. '"
        found = docpages.blocks(section)
        steps = tuple(block for block in found if "." in block.title)
        [use], [prints] = ([b.code for b in found if b.title == title] for title in ("use", docpages.PRINTS))
        assert len(steps) + 2 == len(found), f"{section.splitlines()[0]}: a block without a title"
        yield Recipe(section.splitlines()[0], int(stated[1]), int(stated[2] or 0), steps, use, prints)


RECIPES = {recipe.name: recipe for recipe in recipes(PAGE)}


def follow(step: docpages.Block, root: Path) -> str:
    """Do what a block says in a copy of the packages; gives the file's name."""
    path = root / step.title
    if step.language == "diff":
        before = path.read_text(encoding="utf-8")
        old, new = (
            "".join(line[1:] or "\n" for line in step.code.splitlines(keepends=True) if line[0] != sign)
            for sign in "+-"
        )
        count = f"\n{before}".count(f"\n{old}")
        assert count == 1, f"{step.title} has {count} times what the recipe adds to:\n{old}"
        after = f"\n{before}".replace(f"\n{old}", f"\n{new}")[1:]
        path.unlink()  # a link to the repository's own
    else:
        assert not path.exists(), f"{step.title} is there already"
        after = step.code
    path.write_text(after, encoding="utf-8")
    return step.title


def copied(root: Path) -> Path:
    """The packages as links to each of their files, so that a changed one is a file of its own."""
    ignored = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        shutil.copytree(ROOT / part, root / part, copy_function=os.symlink, ignore=ignored)
    return root


def written(root: Path) -> list[str]:
    """Files of a copy that are not the repository's."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and not p.is_symlink())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By recipe, what its use printed where all of them were followed."""
    root = copied(tmp_path_factory.mktemp("copy"))
    for recipe in RECIPES.values():
        for step in recipe.steps:
            follow(step, root)
    here = tmp_path_factory.mktemp("here")
    settings = {"PYTHONPATH": str(root), "TRACER_CACHE": str(here / "cache"), "TRACER_PROGRESS": "0"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER],
        input=json.dumps({name: recipe.use for name, recipe in RECIPES.items()}),
        capture_output=True,
        text=True,
        cwd=here,
        env={**os.environ, **settings},
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    place, printed = json.loads(run.stdout)
    assert Path(place).is_relative_to(root), f"{place} is not the copy"
    return printed


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_adds_is_used(name: str, done: dict[str, str]) -> None:
    wrong = docpages.differs(done[name], RECIPES[name].prints)
    assert not wrong, f"CONTRIBUTING.md, {name}: {wrong}"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_touches_as_many_files_as_it_says(name: str, tmp_path: Path) -> None:
    recipe, root = RECIPES[name], copied(tmp_path)
    named = sorted({follow(step, root) for step in recipe.steps})
    assert written(root) == named
    assert [sum(path.endswith(end) for path in named) for end in (".py", ".md")] == [recipe.files, recipe.pages]
