"""The messages of every ``TracerError`` that the source raises, read as text: nothing is imported.

A message is a template in which ``…`` stands for whatever is filled in. Texts are followed through variables,
constants, other modules' constants and helper functions, as far as they are written down; of a conditional text both
ways count. A check that is told which kind of error to raise (``kind=``) gives the messages of that kind.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("tracer", "editing")
FILLED = "…"
CHECKS = "tracer/checks.py"
MOST = 12  # more alternatives of one message than this are written as one, with the parts that differ left open

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Message:
    """One wording of one place in the source that makes an error.

    Attributes:
        module: path of the file from the repository's root.
        function: name within the module, with the class it is in.
        line: where the error is made.
        error: its class.
        page: the page of that class, or of the nearest class above it that has one.
        template: the message, with ``…`` for parts that are filled in.
    """

    module: str
    function: str
    line: int
    error: str
    template: str
    page: str = ""


@dataclass
class _Module:
    path: str
    tree: ast.Module
    constants: dict[str, ast.expr] = field(default_factory=dict)
    functions: dict[str, list[Function]] = field(default_factory=dict)
    classes: list[ast.ClassDef] = field(default_factory=list)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Scope:
    """Where an expression is read: its module, the functions around it (innermost last), and known parameters."""

    module: _Module
    around: tuple[Function, ...] = ()
    known: tuple[tuple[str, ast.expr, _Scope], ...] = ()
    open: frozenset[str] = frozenset()


def messages(root: Path) -> list[Message]:
    """Every message of a TracerError, or of a class made from it, in the packages below ``root``."""
    modules = {module.path: module for module in _modules(root)}
    classes = [each for module in modules.values() for each in module.classes]
    places = _error_classes(classes)
    found = [message for module in modules.values() for message in _in_module(module, modules, places)]
    pages = _pages(classes)
    return [replace(message, page=pages.get(message.error, "")) for message in dict.fromkeys(found)]


def error_pages(root: Path) -> dict[str, str]:
    """The page of every class of errors in the packages below ``root``, by the class's name."""
    return _pages([each for module in _modules(root) for each in module.classes])


def _pages(nodes: Collection[ast.ClassDef]) -> dict[str, str]:
    classes = {node.name: node for node in nodes}

    def page(name: str) -> str:
        if name not in classes:
            return ""
        for line in classes[name].body:
            if isinstance(line, ast.Assign) and _name(line.targets[0]) == "page":
                return str(ast.literal_eval(line.value))
        return next((found for base in classes[name].bases if (found := page(_name(base)))), "")

    return {name: page(name) for name in _error_classes(classes.values())}


def _modules(root: Path) -> Iterator[_Module]:
    sources = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    yield from (_parsed(path, root) for path in sources)


def _parsed(path: Path, root: Path) -> _Module:
    module = _Module(path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
    package = module.path.split("/")[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, Function):
            module.functions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.ClassDef):
            module.classes.append(node)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = "/".join([*above, *(node.module.split(".") if node.module else [])])
            for each in node.names:
                module.imports[each.asname or each.name] = (source, each.name)
    for node in module.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    module.constants[target.id] = node.value
    return module


def _error_classes(classes: Collection[ast.ClassDef]) -> dict[str, int]:
    """Names of the error classes, and which argument of each is the message."""
    found = {"TracerError": 0}
    grown = True
    while grown:
        grown = False
        for node in classes:
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            if node.name not in found and bases & found.keys():
                makers = [each for each in node.body if isinstance(each, Function) and each.name == "__init__"]
                names = [argument.arg for argument in makers[0].args.args[1:]] if makers else []
                found[node.name] = names.index("message") if "message" in names else 0
                grown = True
    return found


def _in_module(module: _Module, modules: dict[str, _Module], places: dict[str, int]) -> Iterator[Message]:
    calls = list(_calls(module.tree, (), ()))
    yield from _of_checks(module, calls, modules, places)
    for call, around, names in calls:
        kind = _name(call.func)
        if kind not in places or len(call.args) <= places[kind]:
            continue
        text = call.args[places[kind]]
        scopes = [(call.lineno, names, _Scope(module, around))]
        maker = around[-1] if around else None
        if maker is not None and any(isinstance(each, ast.Return) and each.value is call for each in ast.walk(maker)):
            # a helper that makes the error: one message for each place that calls it
            parameters = [argument.arg for argument in maker.args.args]
            callers = [
                (other.lineno, its, tuple(zip(parameters, other.args, itertools.repeat(_Scope(module, where)))))
                for other, where, its in calls
                if isinstance(other.func, ast.Name) and other.func.id == maker.name
            ]
            scopes = [(line, its, _Scope(module, around, known)) for line, its, known in callers] or scopes
        for line, its, scope in scopes:
            for template in _texts(text, scope, modules) or [FILLED]:
                yield Message(module.path, ".".join(its), line, kind, _tidy(template))


def _of_checks(
    module: _Module, calls: list[tuple[ast.Call, tuple[Function, ...], tuple[str, ...]]], modules: Any, places: Any
) -> Iterator[Message]:
    """Messages of the checks that a module calls, with what it gives them filled in."""
    checks = modules.get(CHECKS)
    if checks is None or module is checks:
        return
    for call, around, names in calls:
        kind = next((_name(each.value) for each in call.keywords if each.arg == "kind"), "")
        makers = checks.functions.get(_name(call.func), [])
        if kind not in places or len(makers) != 1:
            continue
        here = _Scope(module, around)
        given = dict(zip([argument.arg for argument in makers[0].args.args], call.args, strict=False))
        given |= {each.arg: each.value for each in call.keywords if each.arg}
        known = tuple((name, value, here) for name, value in given.items())
        for inner, _, _ in _calls(makers[0], (), ()):
            if _name(inner.func) == "kind" and inner.args:
                for template in _texts(inner.args[0], _Scope(checks, (makers[0],), known), modules) or [FILLED]:
                    yield Message(module.path, ".".join(names), call.lineno, kind, _tidy(template))


def _calls(
    node: ast.AST, around: tuple[Function, ...], names: tuple[str, ...]
) -> Iterator[tuple[ast.Call, tuple[Function, ...], tuple[str, ...]]]:
    """Every call, with the functions around it and their names (classes too)."""
    if isinstance(node, ast.Call):
        yield node, around, names
    if isinstance(node, Function):
        around = (*around, node)
    if isinstance(node, Function | ast.ClassDef):
        names = (*names, node.name)
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, around, names)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _tidy(template: str) -> str:
    return re.sub(rf"{FILLED}+", FILLED, " ".join(template.split()))


def _texts(node: ast.expr, scope: _Scope, modules: dict[str, _Module]) -> list[str] | None:
    """What an expression of text may read; None: not known."""
    match node:
        case ast.Constant(value=value):
            # a number that a variable begins with says little; one that a module fixes is part of the message
            return [str(value)] if isinstance(value, str) or not scope.around else None
        case ast.JoinedStr():
            return _joined([_part(each, scope, modules) for each in node.values])
        case ast.BinOp(op=ast.Add()):
            sides = [_texts(side, scope, modules) for side in (node.left, node.right)]
            return _joined(sides) if any(sides) else None
        case ast.IfExp():
            either = [_texts(side, scope, modules) for side in (node.body, node.orelse)]
            return None if None in either else [text for side in either for text in side or ()]
        case ast.BoolOp(op=ast.Or()):
            return _either([_texts(each, scope, modules) for each in node.values])
        case ast.Name():
            return _named(node.id, scope, modules)
        case ast.Call(func=ast.Attribute(attr="format", value=value)):
            texts = _texts(value, scope, modules)
            return texts and [re.sub(r"\{\w*\}", FILLED, text) for text in texts]
        case ast.Call() if isinstance(node.func, ast.Name) or _name(getattr(node.func, "value", node)) == "self":
            makers = scope.module.functions.get(_name(node.func), [])
            if len(makers) != 1 or makers[0].name in scope.open:
                return None
            inside = _Scope(scope.module, (makers[0],), (), scope.open | {makers[0].name})
            given = [each.value for each in ast.walk(makers[0]) if isinstance(each, ast.Return) and each.value]
            return _either([_texts(each, inside, modules) for each in given])
    return None


def _part(node: ast.expr, scope: _Scope, modules: dict[str, _Module]) -> list[str] | None:
    """A part of an f-string: text, or what is filled in; None and empty alternatives are left open."""
    if not isinstance(node, ast.FormattedValue):
        return _texts(node, scope, modules)
    texts = None if node.conversion != -1 or node.format_spec else _texts(node.value, scope, modules)
    return None if texts is None or "" in texts else texts


def _named(name: str, scope: _Scope, modules: dict[str, _Module]) -> list[str] | None:
    """What a name holds: a parameter that the caller gave, an assignment in the functions around, or a constant."""
    if name in scope.open:
        return None
    inner = _Scope(scope.module, scope.around, scope.known, scope.open | {name})
    for parameter, value, where in scope.known:
        if parameter == name:
            return _texts(value, where, modules)
    for function in reversed(scope.around):
        bound = [value for target, value in _bindings(function) if target == name]
        if bound:
            return _either([value and _texts(value, inner, modules) for value in bound])
    if name in scope.module.constants:
        return _texts(scope.module.constants[name], _Scope(scope.module, (), (), inner.open), modules)
    source, original = scope.module.imports.get(name, ("", ""))
    for path in (f"{source}.py", f"{source}/__init__.py"):
        if path in modules and modules[path] is not scope.module:
            return _named(original, _Scope(modules[path], (), (), scope.open), modules)
    return None


@cache
def _bindings(function: Function) -> list[tuple[str, ast.expr | None]]:
    """Names that a function binds, each with the expression, or None where it is not one (a parameter, a loop)."""
    found: list[tuple[str, ast.expr | None]] = []
    arguments = function.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None:
            found.append((argument.arg, None))
    seen: set[int] = set()
    for node in ast.walk(function):
        pairs: list[tuple[ast.expr, ast.expr | None]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            pairs = [(node.target, node.value)]
        for target, value in pairs:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                pairs.extend(zip(target.elts, value.elts, strict=True))
            elif isinstance(target, ast.Name):
                seen.add(id(target))
                found.append((target.id, value))
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in seen:
            found.append((node.id, None))
    return found


def _either(found: list[list[str] | None]) -> list[str] | None:
    texts = [text for each in found for text in each or (FILLED,)]
    return None if not texts or all(text == FILLED for text in texts) else list(dict.fromkeys(texts))


def _joined(parts: list[list[str] | None]) -> list[str]:
    lists = [part or [FILLED] for part in parts]
    while len(list(itertools.islice(itertools.product(*lists), MOST + 1))) > MOST:
        longest = max(range(len(lists)), key=lambda place: len(lists[place]))
        lists[longest] = [FILLED]
    return ["".join(each) for each in itertools.product(*lists)]
