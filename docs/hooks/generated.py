"""A mkdocs hook: what the pages take from the code and from other folders when the site is built.

Pages hold marks such as ``<!-- generated: command -->``, in whose place tables are put that are made of the package as
it is: the command line, the metrics, the methods, kinds of questions; and of what ``benchmarks/`` keeps. Pictures of
``figures/`` are used without a copy of them in ``docs/``.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

from mkdocs.plugins import event_priority

MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
ROOT = Path(__file__).parents[2]
FIGURES = (
    "space_needle",
    "space_needle_gemma",
    "average_gemma",
    "severed_gemma",
    "edit_rules",
    "edits_at_once",
    "average",
    "severed",
    "neurons",
    "effects",
    "locate",
    "edit",
    "edit_table",
    "evaluation",
    "retention",
    "forgetting",
    "attack",
    "encoder_decoder",
)
LIVE = ("space_needle", "average_gemma", "severed_gemma", "evaluation", "retention", "forgetting", "attack")
"""Figures of ``figures/live.py``, which the gallery page draws in the browser."""


# --- what mkdocs calls -----------------------------------------------------------------------------------------------
def on_files(files: Any, config: Any) -> Any:
    """Add the pictures, and what the gallery page loads."""
    from mkdocs.structure.files import File

    for name, content in scripts().items():
        files.append(File.generated(config, f"gallery/{name}.js", content=content))
    for name in FIGURES:
        picture = ROOT / "figures" / f"{name}.png"
        files.append(File.generated(config, f"figures/{name}.png", abs_src_path=str(picture)))
    return files


@event_priority(-100)  # after the index was written
def on_post_build(config: Any) -> None:
    """Write the search index as a script too: pages opened from files can read nothing else."""
    index = Path(config.site_dir, "search", "search_index.json")
    index.with_suffix(".js").write_text(f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is generated in the place of its mark."""
    return MARK.sub(lambda found: GENERATED[found[1]](), markdown)


# --- what is generated -----------------------------------------------------------------------------------------------
def command() -> str:
    """Every command of ``tracer`` with its arguments and options."""
    import typer

    from editing.cli import app

    return "\n".join(line for name, each in commands(typer.main.get_command(app)) for line in _described(name, each))


def commands(group: Any, name: str = "tracer") -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command below a group, in the order of its help."""
    for part, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, f"{name} {part}")
        else:
            yield f"{name} {part}", each


def _described(name: str, each: Any) -> Iterator[str]:
    arguments = [p for p in each.params if p.param_type_name == "argument"]
    options = [p for p in each.params if p.param_type_name == "option"]
    shown = " ".join(_value(a) if a.required else f"[{_value(a)}]" for a in arguments)
    yield from (f"## {name}", "", each.help or "", "", "```text", f"{name} {shown} [OPTIONS]".replace("  ", " "))
    yield from ("```", "", "| argument or option | value | default | meaning |", "| --- | --- | --- | --- |")
    for p in (*arguments, *options):
        switch = getattr(p, "is_flag", False)
        names = " ".join(f"`{opt}`" for opt in (*p.opts, *p.secondary_opts))
        names = f"`{_value(p)}`" if p in arguments else names
        value = "" if switch else _kind(p)
        default = "" if p.default in (None, False, "", (), []) else f"`{p.default}`"
        if switch and p.secondary_opts:
            default = f"`{(p.opts if p.default else p.secondary_opts)[0]}`"
        yield row(names, value, "needed" if p.required else default, (p.help or "").replace("[", "\\["))
    yield ""


def _value(p: Any) -> str:
    """What an argument is called in usage lines."""
    return (p.metavar or p.name or "").upper()


def _kind(p: Any) -> str:
    """What is given to an argument or option, in a word."""
    annotation = getattr(p, "type_descriptor", None) and p.type_descriptor.annotation
    names = {"int": "whole number", "float": "number", "Path": "path", "str": "text"}
    inside = [each for each in get_args(annotation) if each is not type(None)] or [annotation]
    named = names.get(getattr(inside[0], "__name__", ""), "text")
    return f"{named}, ..." if p.multiple or p.nargs == -1 else named


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def metrics() -> str:
    """Every metric by group."""
    from editing.datasets import KINDS, MEASURES
    from editing.questions.definitions import SCORE
    from editing.questions.metrics import METRICS

    def group(name: str) -> str:
        if name.partition(" (")[0] in MEASURES or name == SCORE.name:
            return "Measures"
        kind = next((kind for kind in sorted(KINDS, key=len, reverse=True) if name.startswith(f"{kind} ")), None)
        return f"Questions of kind {kind.replace('_', ' ')}" if kind else "Texts, the whole model, and the edit"

    groups: dict[str, list[Any]] = {}
    for metric in (SCORE, *METRICS.values()):
        groups.setdefault(group(metric.name), []).append(metric)
    lines = []
    for title, members in groups.items():
        lines += [f"## {title}", "", "| name | code | unit | better | what it is |", "| --- | --- | --- | --- | --- |"]
        lines += [row(f"`{m.name}`", m.code, m.unit, m.better or "neither", m.what) for m in members] + [""]
    return "\n".join(lines)


def measures() -> str:
    """Which kinds of questions a measure is made of."""
    from editing.datasets import MEASURES

    lines = ["| measure | kinds of questions |", "| --- | --- |"]
    lines += [row(measure, ", ".join(f"`{kind}`" for kind in kinds)) for measure, kinds in MEASURES.items()]
    return "\n".join(lines)


def methods() -> str:
    """Every method of editing with what it takes."""
    from editing.methods.compute import METHODS, method_named

    lines = [
        "| method | what it is | layers | covariance | settings |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in METHODS:
        found = method_named(name)
        layers = {"one": "one", "range": "several", "none": "none"}[found.layers]
        path = f"{found.settings.__module__}.{found.settings.__name__}"
        covariance = "yes" if "covariance" in found.needs else "no"
        link = f"[`{found.settings.__name__}`][{path}]"
        lines.append(row(f"`{name}`", found.summary, layers, covariance, link))
    return "\n".join(lines)


def needs() -> str:
    """What every method has to be given, or takes time to make once."""
    from editing.methods.compute import METHODS, method_named

    lines = ["| method | what it is | what has to be there first |", "| --- | --- | --- |"]
    told = {
        "covariance": "[second moments](../howto/covariance.md)",
        "prepared": "[a preparation](../howto/prepare.md)",
    }
    for name in METHODS:
        found = method_named(name)
        needed = [text for need, text in told.items() if need in found.needs]
        lines.append(row(f"`{name}`", found.summary, ", ".join(needed) or "nothing"))
    return "\n".join(lines)


@cache
def _module(folder: str, name: str) -> Any:
    """A module of a folder that is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(table: str, *which: str) -> str:
    """A table of ``benchmarks/which_method.py``, from what benchmarks keep."""
    frame = getattr(_module("benchmarks", "which_method"), table)(*which)
    rule = ["---" if name in ("method", "edits") else "---:" for name in frame.columns]
    rows = frame.itertuples(index=False, name=None)
    return "\n".join([row(*frame.columns), row(*rule), *(row(*map(str, each)) for each in rows)])


@cache
def scripts() -> dict[str, str]:
    """Plotly, and each live figure as a script: pages opened from files can read nothing else."""
    from plotly.offline import get_plotlyjs

    from tracer.plots.fit import adaptive

    made = {name: adaptive(make()).to_json() for name, make in _module("figures", "live").LIVE.items()}
    return {
        "plotly": get_plotlyjs(),
        **{name: f"(window.figures ??= {{}}).{name} = {figure};" for name, figure in made.items()},
    }


def live(name: str) -> str:
    """Where the gallery page draws a figure; without scripts its picture."""
    picture = f'<noscript><img src="figures/{name}.png" alt="{name}"></noscript>'
    script = f'<script src="gallery/{name}.js"></script>'
    return f'<div class="live" data-figure="{name}">{picture}</div>\n{script}'


GENERATED: dict[str, Callable[[], str]] = {
    "command": command,
    "metrics": metrics,
    "measures": measures,
    "methods": methods,
    "needs": needs,
    "which_alone": partial(measured, "of_embedded", "single"),
    "which_in_one_edit": partial(measured, "of_embedded", "batch"),
    "which_in_turn": partial(measured, "of_embedded", "sequential"),
    "which_trained": partial(measured, "of_trained"),
    "which_gemma": partial(measured, "of_real", "gemma-3-270m"),
    "which_smollm2": partial(measured, "of_real", "smollm2-135m"),
    **{f"live_{name}": partial(live, name) for name in LIVE},
}
