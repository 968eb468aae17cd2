"""The pages of the documentation as code: their blocks, what these print, and the commands they show.

A fenced block ``python`` runs, after those before it on its page and with their names. One with the title "not run
here" needs a download, a cluster or a browser: it is compiled, and the names it takes from the package are looked up.
A block ``text`` with the title "prints" holds what the block before it prints; with the title "prints something like"
it does so where an optimisation is behind the numbers, which comes out a little otherwise on another machine.
`python tests/support/docpages.py PAGE ...` writes these anew.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
NOT_RUN = "not run here"
PRINTS, LIKE = "prints", "prints something like"
ELSEWHERE = "elsewhere"  # code of another tool
FENCE = re.compile(r'^```(?P<language>\w+)?(?: title="(?P<title>[^"]*)")?[ ]*\n(?P<code>.*?)^```[ ]*$', re.M | re.S)
NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. ``line``: of its first line of code, from 1; ``span``: of the code in the page."""

    language: str
    title: str
    code: str
    line: int
    span: tuple[int, int]


def pages() -> list[str]:
    """The pages, by their path in docs/, without those about errors, which have their own tests."""
    found = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    return [name for name in found if not name.startswith("errors/")]


def blocks(text: str) -> list[Block]:
    """The blocks of a page's text, in order."""
    return [
        Block(
            each["language"] or "",
            each["title"] or "",
            each["code"],
            text.count("\n", 0, each.start("code")) + 1,
            each.span("code"),
        )
        for each in FENCE.finditer(text)
    ]


def run(page: str, text: str) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in one namespace; give each with what it printed."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(text):
        if block.language != "python" or block.title == NOT_RUN:
            continue
        out = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.code, str(DOCS / page), "exec")
        with contextlib.redirect_stdout(out):
            exec(code, names)
        yield block, out.getvalue()


def that_run() -> list[str]:
    """The pages with code."""
    return [p for p in pages() if any(b.language == "python" for b in blocks((DOCS / p).read_text(encoding="utf-8")))]


def wrong(page: str) -> str:
    """What a page's blocks print otherwise than it shows, or ""; a warning is an error."""
    text = (DOCS / page).read_text(encoding="utf-8")
    shown = said(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block, printed in run(page, text):
            wanted = shown.pop(block.line) if block.line in shown else None
            compared = unlike if wanted and wanted.title == LIKE else differs
            if found := compared(printed, wanted.code if wanted else ""):
                return f"{page}, block at line {block.line}: {found}\nrun: python tests/support/docpages.py docs/{page}"
    return f"{page} shows what a block prints that is not run: lines {sorted(shown)}" if shown else ""


def said(text: str) -> dict[int, Block]:
    """By the line of a python block, the block that holds what it prints."""
    found = blocks(text)
    return {
        one.line: two
        for one, two in pairwise(found)
        if one.language == "python" and two.language == "text" and two.title in (PRINTS, LIKE)
    }


def differs(printed: str, shown: str, near: float = 0.02) -> str:
    """What of a print is not as shown, or "". Spaces do not count, and numbers may differ a little."""
    words, wanted = " ".join(printed.split()), " ".join(shown.split())
    if NUMBER.sub("#", words) != NUMBER.sub("#", wanted):
        return f"it prints\n{printed}\nbut the page shows\n{shown}"
    for one, two in zip(NUMBER.findall(words), NUMBER.findall(wanted), strict=True):
        a, b = (float(number.replace(",", "")) for number in (one, two))
        whole = "." not in one and "e" not in one
        if (whole and one != two) or abs(a - b) > near * max(1.0, abs(a), abs(b)):
            return f"it prints {one} where the page shows {two}:\n{printed}"
    return ""


def unlike(printed: str, shown: str) -> str:
    """What makes a print another kind of print than the one shown, or "": the first line's words, how many lines."""
    one, two = printed.strip().splitlines() or [""], shown.strip().splitlines() or [""]
    words, wanted = (" ".join(NUMBER.sub("#", lines[0]).split()) for lines in (one, two))
    return "" if words == wanted and len(one) == len(two) else f"it prints\n{printed}\nbut the page shows\n{shown}"


def unknown_names(code: str) -> list[str]:
    """Attributes of ``tracer`` and ``editing`` that a block uses and that do not exist."""
    import importlib

    wrong = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("tracer", "editing"):
            module = importlib.import_module(str(node.module))
            wrong += [f"{node.module}.{each.name}" for each in node.names if not hasattr(module, each.name)]
        if isinstance(node, ast.Attribute) and (name := _dotted(node)) is not None:
            first, *rest = name.split(".")
            if first in ("tracer", "editing") and not _found(importlib.import_module(first), rest):
                wrong.append(name)
    return wrong


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    inner = _dotted(node.value) if isinstance(node, ast.Attribute) else None
    return f"{inner}.{node.attr}" if inner is not None and isinstance(node, ast.Attribute) else None


def _found(at: Any, names: list[str]) -> bool:
    import importlib

    for name in names:
        if isinstance(at, ModuleType) and not hasattr(at, name):
            with contextlib.suppress(ImportError):
                importlib.import_module(f"{at.__name__}.{name}")
        if not hasattr(at, name):
            return False
        at = getattr(at, name)
    return True


def shell_commands(code: str) -> list[list[str]]:
    """The commands ``tracer ...`` of a block, as words, without comments."""
    joined = code.replace("\\\n", " ")
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in joined.splitlines()]
    return [each for each in words if each and each[0] == "tracer"]


def wrong_command(words: list[str]) -> str:
    """What of a command does not exist, or ""."""
    import typer

    from editing.cli import app

    group = typer.main.get_command(app)
    if len(words) > 1 and words[1] in {opt for p in group.params for opt in p.opts}:
        return ""
    if len(words) < 2 or words[1] not in group.commands:  # type: ignore[attr-defined]
        return f"there is no command {' '.join(words[:2])}"
    command = group.commands[words[1]]  # type: ignore[attr-defined]
    known = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)} | {"--help"}
    wrong = [word for word in words[2:] if word.startswith("-") and word.split("=")[0] not in known]
    return f"{' '.join(words[:2])} has no option {wrong[0]}" if wrong else ""


def written_anew(page: str) -> str:
    """The page with what its blocks print."""
    text = (DOCS / page).read_text(encoding="utf-8")
    shown = said(text)
    new = {block.line: out for block, out in run(page, text)}
    for line, block in sorted(shown.items(), reverse=True):
        if differs(new[line], block.code, near=0.0):
            text = text[: block.span[0]] + new[line].rstrip() + "\n" + text[block.span[1] :]
    return text


if __name__ == "__main__":
    import os
    import tempfile
    import time

    os.environ["TRACER_PROGRESS"] = "0"
    for given in sys.argv[1:]:
        page = Path(given).resolve().relative_to(DOCS).as_posix()
        began, here = time.process_time(), os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TRACER_CACHE"] = str(Path(folder) / "cache")
            os.chdir(folder)
            changed = written_anew(page)
            os.chdir(here)
        (DOCS / page).write_text(changed, encoding="utf-8")
        print(f"{page}: {time.process_time() - began:.1f} s")
