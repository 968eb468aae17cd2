"""What a user imports costs nothing until it is used, and is then what its module defines."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from imports import modules
from repository import surroundings

import editing
import tracer

HEAVY = ["torch", "numpy", "transformers", "huggingface_hub", "pydantic", "rich", "typer"]
"""Not imported with the packages."""
HEAVIER = [
    "transformer_lens",
    "datasets",
    "pandas",
    "scipy",
    "sklearn",
    "plotly",
    "peft",
    "accelerate",
    "lm_eval",
    "ray",
]
"""Not even with everything the packages name: only when a function needs them."""
ASKED = """
import json, sys
{lines}
print(json.dumps(sorted(sys.modules)))
"""
ALL_NAMES = """
import tracer, editing
for package in (tracer, editing):
    for name in set(package.__all__) - {"workbench"}:
        getattr(package, name)
"""


def loaded_after(lines: str) -> set[str]:
    """Modules that a new Python has imported after some lines."""
    asked = [sys.executable, "-c", ASKED.format(lines=lines)]
    told = subprocess.run(asked, env=surroundings(), capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(told.stdout))


def named_for_types(package: ModuleType) -> dict[str, str]:
    """Names that type checkers see in a package, by the module they are imported from."""
    tree = ast.parse(modules()[package.__name__].read_text(encoding="utf-8"))
    block = next(each for each in tree.body if isinstance(each, ast.If))
    own = package.__name__
    found = {}
    for line in ast.walk(block):
        if isinstance(line, ast.ImportFrom) and (line.level or line.module.split(".")[0] in ("tracer", "editing")):  # type: ignore[union-attr]
            place = ".".join(filter(None, [own if line.level else "", line.module or ""]))
            found.update({alias.name: place for alias in line.names})
        elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            found[line.target.id] = "editing.workbench"
    return found


def test_the_packages_import_nothing_heavy() -> None:
    loaded = loaded_after("import tracer, editing")
    assert not loaded & {*HEAVY, *HEAVIER}
    assert len([name for name in loaded if name.startswith(("tracer", "editing"))]) < 6


def test_all_names_import_nothing_that_only_a_function_needs() -> None:
    loaded = loaded_after(ALL_NAMES)
    assert {"torch", "transformers", "tracer.tracing.causal", "editing.methods.compute"} <= loaded
    assert not loaded & set(HEAVIER)


@pytest.mark.parametrize("package", [tracer, editing], ids=["tracer", "editing"])
def test_a_name_is_that_of_its_module_for_types_and_at_run_time(package: ModuleType) -> None:
    places = named_for_types(package)
    assert sorted(places) == sorted(package.__all__)
    for name, place in places.items():
        module: Any = import_module(place)
        assert getattr(package, name) is getattr(module, name), name
    assert {*package.__all__} <= {*dir(package)}


def test_rooms_are_found_imported_or_not() -> None:
    loaded = loaded_after("import tracer; assert tracer.errors.TracerError is tracer.TracerError")
    assert "tracer.errors.base" in loaded and "torch" not in loaded


def test_a_former_place_does_not_hide_what_its_name_stands_for() -> None:
    lines = "import warnings; warnings.simplefilter('ignore'); import editing.published, tracer.sweep, editing"
    loaded_after(f"{lines}; assert callable(editing.published); editing.published = None; assert not editing.published")


def test_other_names_are_unknown() -> None:
    with pytest.raises(AttributeError, match=r"^module 'tracer' has no attribute 'paint'$"):
        _ = tracer.paint  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'paint'"):
        from editing import paint  # type: ignore[attr-defined]  # noqa: F401
    with pytest.raises(AttributeError):  # a former place is imported, with its warning, or not there
        editing.__getattr__("keyvalues")
