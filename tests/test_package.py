"""What a release holds: files, metadata, one version everywhere; and that what is imported is what is declared."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import yaml
from imports import PACKAGES, modules
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT

from tracer.extras import DISTRIBUTION, EXTRAS

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BASE = {str(canonicalize_name(each.name)): each for each in map(Requirement, PROJECT["dependencies"])}
OF_OTHER_NAME = {"yaml": "pyyaml"}
"""Distributions whose modules have another name."""
PYTHONS = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if ":: Python :: 3." in each]
ALONE = ("-I", "-S", "-W", "error")
"""Options of an interpreter that finds no installed packages and takes no warning."""
BROUGHT = {"choreographer": "kaleido", "markupsafe": "jinja2"}
"""Modules of packages that another one cannot be without, by its name."""


# --- what the source imports -----------------------------------------------------------------------------------------
def third_party(tree: ast.AST) -> Iterator[str]:
    """Names of the distributions that some code imports, `checks.installed` included."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "installed":
            names = [str(each.value) for each in node.args[:1] if isinstance(each, ast.Constant)]
        for top in {name.partition(".")[0] for name in names} - {*PACKAGES} - sys.stdlib_module_names:
            yield canonicalize_name(OF_OTHER_NAME.get(top) or BROUGHT.get(top) or top)


def at_import(tree: ast.Module) -> ast.Module:
    """The lines of a module that run when it is imported."""
    run = [each for each in tree.body if not isinstance(each, ast.FunctionDef | ast.If)]
    return ast.Module([each for each in run if isinstance(each, ast.Import | ast.ImportFrom)], [])


def of_extras() -> dict[str, set[str]]:
    """Distributions each extra adds, those of extras it names included."""
    given = {extra: list(map(Requirement, needs)) for extra, needs in PROJECT["optional-dependencies"].items()}

    def all_of(extra: str) -> set[str]:
        own = {canonicalize_name(each.name) for each in given[extra]} - {DISTRIBUTION}
        return own.union(*(all_of(more) for each in given[extra] for more in each.extras if each.name == DISTRIBUTION))

    return {extra: all_of(extra) for extra in given}


@pytest.fixture(scope="module")
def sources() -> dict[str, ast.Module]:
    """The packages' modules; a task file that another library reads is its own."""
    return {
        name: ast.parse(path.read_text(encoding="utf-8"))
        for name, path in modules().items()
        if not name.startswith("editing.data")
    }


def test_what_is_imported_with_a_module_is_installed_with_the_packages(sources: dict[str, ast.Module]) -> None:
    assert {
        (n, name) for n, tree in sources.items() for name in third_party(at_import(tree)) if name not in BASE
    } == set()


def test_what_functions_import_is_in_the_packages_or_an_extra(sources: dict[str, ast.Module]) -> None:
    known = BASE.keys() | {name for extra, names in of_extras().items() if extra in EXTRAS for name in names}
    assert {(n, name) for n, tree in sources.items() for name in third_party(tree) if name not in known} == set()


def test_nothing_is_installed_that_is_not_imported(sources: dict[str, ast.Module]) -> None:
    used = {name for tree in sources.values() for name in third_party(tree)}
    assert BASE.keys() - used == set()


def test_the_extras_are_those_that_are_told() -> None:
    extras = of_extras()
    assert extras.keys() == {*EXTRAS, "docs", "dev"}
    assert extras["full"] == set().union(
        *(extras[name] for name in ("lora", "gguf", "datasets", "figures", "unlearning"))
    )
    assert extras["dev"] >= set().union(*(names for extra, names in extras.items() if extra != "real"))


def test_every_requirement_has_a_lower_bound_and_private_doors_an_upper_one() -> None:
    for need in BASE.values():
        assert any(each.operator == ">=" for each in need.specifier), need
    lens = BASE["transformer-lens"].specifier
    assert lens.contains("4.3.9") and not lens.contains("4.4.0")
    assert not BASE["transformers"].specifier.contains("6.0")


# --- one version -----------------------------------------------------------------------------------------------------
def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert PROJECT["version"] == str(citation["version"]) == newest[1]


# --- wheel and sdist -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built from this copy without network."""
    pytest.importorskip("hatchling", reason="needs hatchling: make, or pip install hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def of_packages() -> set[str]:
    """Files of the packages in this copy, from the root."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


def test_a_wheel_holds_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == of_packages()
    data = {"tracer/factworld/data/model/model.safetensors", "editing/report/template.html", "editing/py.typed"}
    assert data <= files and len(files) > 500


def test_the_metadata(metadata: Message, wheel: zipfile.ZipFile) -> None:
    assert (metadata["Name"], metadata["Version"]) == (DISTRIBUTION, PROJECT["version"])
    assert (metadata["Requires-Python"], metadata["License-Expression"]) == (">=3.11", "MIT")
    told = [each for each in metadata.get_all("Classifier", []) if ":: Python :: 3." in each]
    assert [each.rpartition(" ")[2] for each in told] == PYTHONS == ["3.11", "3.12", "3.13"]
    needs = list(map(Requirement, metadata.get_all("Requires-Dist", [])))
    assert {need.name: str(need.specifier) for need in needs if need.marker is None} == {
        name: str(need.specifier) for name, need in BASE.items()
    }
    assert {*metadata.get_all("Provides-Extra", [])} == of_extras().keys()
    entry = next(name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    assert "tracer = editing.cli:app" in wheel.read(entry).decode().splitlines()


@pytest.mark.parametrize("version", PYTHONS)
def test_a_wheel_imports_where_nothing_else_is_installed(version: str, built: Path) -> None:
    file = next(built.glob("*.whl"))
    lines = f"""
import sys
sys.path = [{str(file)!r}, *(each for each in sys.path if "site-packages" not in each)]
import tracer, editing
assert tracer.__file__.startswith({str(file)!r})
print(len(dir(tracer)) > 40, issubclass(tracer.TracerError, ValueError))
try:
    tracer.load
except ModuleNotFoundError as error:
    print(error.name)
"""
    told = subprocess.run(
        [python(version), *ALONE, "-c", lines], check=True, capture_output=True, text=True, timeout=60
    )
    assert told.stdout.split() == ["True", "True", "torch"]


def python(version: str) -> str:
    """The interpreter of a version; the test skips where there is none that starts."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None or subprocess.run([found, *ALONE, "-c", ""], capture_output=True, timeout=60).returncode:
        pytest.skip(f"needs a python{version} that starts")
    return found


def test_an_sdist_holds_what_a_release_is_checked_with(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as opened:
        files = {name.partition("/")[2] for name in opened.getnames()}
    assert of_packages() <= files
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile", "PKG-INFO"} <= files
    assert {"tests/test_package.py", "docs/index.md", "constraints.txt", "mkdocs.yml", "figures/make.py"} <= files
    assert not [name for name in files if name.startswith((".venv", "site/", "dist/")) or name.endswith(".pyc")]
