"""Which module imports which: one way, and never from the lower package into the upper."""

from pathlib import Path

import pytest
from imports import circles, import_graph, modules


def test_no_module_imports_another_that_imports_it():
    graph = import_graph()
    assert len(graph) == len(modules()) > 200 and graph.number_of_edges() > 500
    assert circles(graph) == []


def test_the_lower_package_imports_nothing_of_the_upper():
    assert [
        edge for edge in import_graph().edges if edge[0].startswith("tracer") and edge[1].startswith("editing")
    ] == []


@pytest.mark.parametrize("inner", ["from .b import x", "def f():\n    from . import b", "import package.b"])
def test_a_circle_is_seen_wherever_it_is_closed(tmp_path: Path, inner: str):
    """At the top of a module, inside a function, by a whole module's name."""
    files = {"package": "", "package.a": inner, "package.b": "from package.c import y", "package.c": "from .a import z"}
    known = {}
    for name, text in files.items():
        known[name] = tmp_path / (f"{name.replace('.', '_')}.py" if "." in name else "__init__.py")
        known[name].write_text(text)
    assert circles(import_graph(known)) == [["package.a", "package.b", "package.c"]]
