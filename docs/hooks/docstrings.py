"""A griffe extension: the docstrings of this project as the reference shows them.

In the source, arguments stand under ``Args:``, or as paragraphs of lines ``name: meaning`` (``one, two: meaning`` for
several), which read well in an editor. Here both become sections with one entry per name. Cross references
(``:func:`editing.evaluate` ``), literal blocks (``::``) and tables in reStructuredText become Markdown.
"""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`")
CODE = re.compile(r"^```.*?^```$|``.+?``|`[^`]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[`[^`]+`\]\[\]")
KEPT = re.compile(
    rf"(?P<role>{ROLE.pattern})|(?P<code>{LINK.pattern}|{CODE.pattern})|(?P<mark>[\[*<])", re.MULTILINE | re.DOTALL
)
LITERAL = re.compile(r"^(.*):: *\n\n((?:    .*\n|\n)*(?:    .*\n?))", re.MULTILINE)
ITEM = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)$")
SECTION = re.compile(r"^(?:Args|Attributes|Raises|Returns|Yields|Warns|Parameters|Examples?):$")
RULE = re.compile(r"^ *=+( +=+)+ *$")


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is None:
            return
        text = tables(obj.docstring.value)
        if isinstance(obj, griffe.Function):
            text = sections(text, {parameter.name.lstrip("*") for parameter in obj.parameters}, "Args")
        elif isinstance(obj, griffe.Class):
            text = sections(text, set(obj.attributes), "Attributes")
        obj.docstring.value = KEPT.sub(lambda found: escaped(obj, found), fenced(text))


def fenced(text: str) -> str:
    """Literal blocks of reStructuredText as fenced ones."""
    return LITERAL.sub(lambda found: f"{found[1]}:\n\n```python\n{dedent(found[2]).strip()}\n```\n", text)


def escaped(obj: griffe.Object, found: re.Match[str]) -> str:
    """A reference as a link, code as it is, and what Markdown would take for markup as what it is."""
    if found["role"]:
        return reference(obj, found[2])
    return found["code"] or ("&lt;" if found["mark"] == "<" else "\\" + found["mark"])


def sections(text: str, names: set[str], title: str) -> str:
    """Paragraphs of lines ``name: meaning`` become a section; in any section, ``one, two:`` becomes two entries."""
    out: list[str] = []
    inside = ""  # what an entry of the section at hand is indented by; empty outside of sections
    listing = False  # in a paragraph that was made a section
    lines = text.splitlines()
    entry: list[tuple[str, int]] = []  # names of a joint entry, and where it begins in ``out``

    def finish() -> None:
        """Repeat what a joint entry says for each further name."""
        if entry:
            start = entry[0][1]
            said = out[start:]
            for name, _ in entry[1:]:
                out.append(re.sub(r"^( *)[\w*]+:", rf"\1{name}:", said[0]))
                out.extend(said[1:])
            entry.clear()

    for line in lines:
        if SECTION.match(line):
            finish()
            inside, listing = "    ", False
            out.append(line)
            continue
        if inside and line and not line.startswith(" "):
            finish()
            inside = ""
        at = inside if not listing else ""
        found = ITEM.match(line.removeprefix(at)) if line.startswith(at) else None
        several = [name.lstrip("*") for name in found[1].split(", ")] if found else []
        known = bool(several) and (bool(inside) or set(several) <= names)
        if known and found:
            finish()
            if not inside and not listing:
                out.extend(["", f"{title}:"])
                listing = True
            entry.extend((name, len(out)) for name in several)
            out.append(f"    {several[0]}: {found[2]}")
        elif listing and line.startswith("    "):
            out.append(f"    {line}")
        elif listing and line.strip():  # a sentence behind the list
            finish()
            listing = False
            out.extend(["", line])
        elif not line.strip() and listing:
            finish()
            listing = False
            out.append(line)
        else:
            if not line.strip():
                finish()
            out.append(line)
    finish()
    return merged("\n".join(out), title)


def merged(text: str, title: str) -> str:
    """Two sections of the same title become one, at the place of the first, so that entries stand together."""
    parts = re.split(rf"^{title}:\n((?:    .*\n?)+)", text, flags=re.MULTILINE)
    if len(parts) <= 3:
        return text
    entries = "".join(part.rstrip("\n") + "\n" for part in parts[1::2])
    rest = "".join(parts[2::2])
    return f"{parts[0]}{title}:\n{entries}\n{rest}"


def tables(text: str) -> str:
    """Simple tables of reStructuredText as Markdown ones; a row goes on where its first cell is empty."""
    lines, out, at = text.splitlines(), [], 0
    while at < len(lines):
        if not RULE.match(lines[at]):
            out.append(lines[at])
            at += 1
            continue
        spans = [found.span() for found in re.finditer(r"=+", lines[at])]
        rules = [i for i in range(at, len(lines)) if RULE.match(lines[i])][:3]
        rows: list[list[str]] = []
        for line in (lines[i] for i in range(at, rules[-1]) if i not in rules):
            cells = [line[a : None if (a, b) == spans[-1] else b].strip() for a, b in spans]
            if cells[0] or not rows:
                rows.append(cells)
            else:
                rows[-1] = [" ".join((old, new)).strip() for old, new in zip(rows[-1], cells, strict=True)]
        head, *body = ["| " + " | ".join(cells) + " |" for cells in rows]
        out += ["", head, "|" + " --- |" * len(spans), *body, ""]
        at = rules[-1] + 1
    return "\n".join(out)


def reference(obj: griffe.Object, target: str) -> str:
    """A link to what the reference has, and plain code for what it has not."""
    name = target.strip("()")
    try:
        path = name if name.startswith(("tracer.", "editing.")) else obj.resolve(name)
    except griffe.NameResolutionError:
        path = f"{obj.path}.{name}" if name in obj.members else name
    return f'<autoref identifier="{path}" optional><code>{target}</code></autoref>'
