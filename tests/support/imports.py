"""The import graph of a package, read from its source: which module imports which, and which import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx

ROOT = Path(__file__).parents[2]
PACKAGES = ("tracer", "editing")


@cache
def modules() -> dict[str, Path]:
    """Files of the packages by dotted name; a folder by its own name."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def import_graph() -> networkx.DiGraph:
    """The packages' modules."""
    return graph_of(modules())


def graph_of(known: dict[str, Path]) -> networkx.DiGraph:
    """An arrow from every module to those it imports, wherever in the file: at the top, for types, in a function."""
    graph = networkx.DiGraph()
    for name, path in known.items():
        graph.add_node(name)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for full in _imported(ast.parse(path.read_text(encoding="utf-8")), package):
            target = next((module for module in (full, full.rpartition(".")[0]) if module in known), None)
            if target is not None and target != name:
                graph.add_edge(name, target)
    return graph


def circles(graph: networkx.DiGraph) -> list[list[str]]:
    """Modules that import each other, the largest circle first."""
    found = [sorted(some) for some in networkx.strongly_connected_components(graph) if len(some) > 1]
    return sorted(found, key=lambda some: (-len(some), some))


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            full = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{full}.{alias.name}" for alias in node.names)
