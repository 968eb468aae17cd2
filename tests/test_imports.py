"""Which module imports which: one way, and never from the lower package into the upper."""

import re
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import networkx
import pytest
from imports import PACKAGES, ROOT, circles, graph_of, import_graph, modules

import editing
from editing.localisation.choose import locate
from tracer import TracerError
from tracer.moved import MOVED


def test_no_module_imports_another_that_imports_it():
    graph = import_graph()
    assert len(graph) == len(modules()) > 200 and graph.number_of_edges() > 500
    assert circles(graph) == []


def test_the_lower_package_imports_nothing_of_the_upper():
    assert [
        edge for edge in import_graph().edges if edge[0].startswith("tracer") and edge[1].startswith("editing")
    ] == []


def room_of(module: str) -> str:
    """The folder a module lies in, of one level; a module at the top stands for itself. Makers of the embedded model
    are a room of their own, which nobody imports."""
    folder = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    if folder in PACKAGES:
        return module
    return folder if folder == "tracer.factworld.recipe" else ".".join(folder.split(".")[:2])


def test_no_room_imports_another_that_imports_it():
    rooms = networkx.DiGraph((room_of(a), room_of(b)) for a, b in import_graph().edges if room_of(a) != room_of(b))
    assert circles(rooms) == []
    assert not rooms.in_edges("tracer.factworld.recipe")


def test_the_map_names_every_room_below_those_it_imports():
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    place = {name: number for number, line in enumerate(lines) for name in re.findall(r"`([\w.]+)`", line)}
    faces = {*PACKAGES, "editing.data"}  # what is shipped, among it a task file that another library reads
    edges = {(room_of(a), room_of(b)) for a, b in import_graph().edges}
    arrows = [(a, b) for a, b in edges if a != b and not {a, b} & faces]
    assert {room_of(name) for name in modules()} - faces == place.keys()
    assert [(a, b) for a, b in arrows if place[a] < place[b]] == []


def test_the_model_is_run_in_one_room():
    """Everything else asks the engine; only loading looks at the text a model reads, before there is an engine."""
    callers = [name for name, path in modules().items() if re.search(r"\bhf\(", path.read_text(encoding="utf-8"))]
    assert {room_of(name) for name in callers} == {"tracer.engine", "tracer.model"}
    assert [name for name in callers if room_of(name) == "tracer.model"] == ["tracer.model.soundness"]


@pytest.mark.parametrize("old", MOVED)
def test_former_places_of_modules_still_import(old: str):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sys.modules.pop(old, None)
        module = import_module(old)
    assert [each.category for each in told] == [DeprecationWarning] and MOVED[old][0] in str(told[0].message)
    place = import_module(MOVED[old][0])
    name = next(name for name in vars(place) if not name.startswith("_"))
    assert getattr(module, name) is getattr(place, name)
    with pytest.raises(AttributeError, match="has no attribute"):
        _ = module.nothing_of_this_name


def test_a_function_that_hides_a_former_module_is_called_all_the_same():
    """``import editing.locate`` gives a module; where a user then calls it, the function of that name answers."""
    with pytest.warns(DeprecationWarning):
        sys.modules.pop("editing.locate", None)
        module: Any = import_module("editing.locate")
    try:
        with pytest.raises(TracerError, match="using is 'eyes'"):
            module(editing.evaluation, [], using="eyes")
    finally:
        editing.locate = locate


@pytest.mark.parametrize("inner", ["from .b import x", "def f():\n    from . import b", "import package.b"])
def test_a_circle_is_seen_wherever_it_is_closed(tmp_path: Path, inner: str):
    """At the top of a module, inside a function, by a whole module's name."""
    files = {"package": "", "package.a": inner, "package.b": "from package.c import y", "package.c": "from .a import z"}
    known = {}
    for name, text in files.items():
        known[name] = tmp_path / (f"{name.replace('.', '_')}.py" if "." in name else "__init__.py")
        known[name].write_text(text)
    assert circles(graph_of(known)) == [["package.a", "package.b", "package.c"]]
