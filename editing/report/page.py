"""The page: one file that opens offline, loads nothing, sends nothing, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.series import series_of
from editing.plots.evaluation import plot_evaluation
from editing.plots.health import plot_health
from editing.plots.radar import plot_radar
from editing.plots.retention import plot_retention
from editing.questions.definitions import SCORE, ordered, what_is
from tracer.errors import EvaluationFileError, TracerError
from tracer.plots.export import replacing
from tracer.progress import track

from . import grids
from .cases import packed

if TYPE_CHECKING:
    import plotly.graph_objects as go

PACKAGE = "editing.report"
LONG = 2000  # characters of a setting that are shown
# Scripts are named by their hashes, so that no other can run, whatever a text says. Styles are not: Plotly writes
# style attributes and elements while it draws. data: and blob: are for its button that saves a picture.
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
FIGURES: dict[str, tuple[str, Callable[[Evaluation], go.Figure]]] = {
    "bars": ("Every measure of every method, with intervals", plot_evaluation),
    "radar-generated": ("Profiles of methods in free generation", lambda each: plot_radar(each)),
    "radar-forced": ("Profiles of methods, teacher forced", lambda each: plot_radar(each, by="forced")),
    "retention": ("How many edits still hold after later ones", plot_retention),
    "health": ("State of the whole model while edits pile up", plot_health),
}


def write(evaluation: Evaluation, path: str | Path, *, title: str | None = None, cases: int | None = None) -> Path:
    """Write the page of [`editing.report.render`][] to a file, whole or not at all, and return its path.

    Args:
        evaluation: the measurements.
        path: of the file.
        title: as of `render`.
        cases: as of `render`.
    """
    path = Path(path)
    content = render(evaluation, title=title, cases=cases)
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="")
    return path


def render(evaluation: Evaluation, *, title: str | None = None, cases: int | None = None) -> str:
    """The page as text: tables with intervals, figures, every answer of single cases, settings and definitions.

    Figures that cannot be drawn from the measurements are left out. Nothing in the evaluation is markup or code: texts
    are escaped by the template, or travel as JSON and are shown as text.

    Args:
        evaluation: the measurements.
        title: of the page; None: the models' names.
        cases: number of cases shown one by one; None: all.

    Raises:
        TracerError: anything but an evaluation, and one without any metric.
    """
    if not isinstance(evaluation, Evaluation):
        raise EvaluationFileError(f"a report is about an Evaluation, not {type(evaluation).__name__}")
    if cases is not None and (isinstance(cases, bool) or not isinstance(cases, int) or cases < 0):
        raise EvaluationFileError(f"cases is {cases!r}; expected how many cases are shown one by one, or None for all")
    if evaluation.metrics.empty:
        raise EvaluationFileError("the evaluation has no metrics yet; report on it when the first case is done")
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    summary, scores = evaluation.summary(), evaluation.score()
    series = series_of(summary)
    figures = dict(_figures(evaluation))
    answers = packed(evaluation, cases)
    tables = {
        "methods": grids.methods(summary, scores, series),
        "everything": grids.everything(summary, series),
        "costs": grids.costs(evaluation),
        "failures": grids.failures(evaluation),
    }
    folder = files(PACKAGE)
    style, own = ((folder / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    scripts = [_unix(get_plotlyjs()), _unix(own)]
    environment = Environment(
        loader=PackageLoader(PACKAGE, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    metrics = evaluation.metrics
    models = [re.split(r"[/\\]", model.rstrip("/\\"))[-1] for model in dict.fromkeys(metrics["model"])]
    page = environment.get_template("template.html").render(
        title=title or f"Edits of {', '.join(models)}",
        policy=POLICY.format(scripts=" ".join(map(_hash, scripts))),
        style=Markup(_unix(style)),
        scripts=[Markup(script) for script in scripts],
        counts=_counts(evaluation),
        notes=_notes(evaluation),
        tables={name: len(table["rows"]) for name, table in tables.items()},
        figures=[(name, FIGURES[name][0]) for name in figures],
        shown=len(answers["cases"]),
        all_cases=evaluation.answers["case_id"].nunique(),
        settings=[(key, _setting(value)) for key, value in evaluation.settings.items()],
        definitions=[what_is(name) for name in ordered(metrics["metric"])] + [SCORE] * (len(scores) > 0),
        data={
            "tables": _script_json(tables),
            "figures": _script_json({name: json.loads(str(figure.to_json())) for name, figure in figures.items()}),
            "cases": _script_json(answers),
        },
    )
    return page if page.endswith("\n") else page + "\n"


def _figures(evaluation: Evaluation) -> Iterator[tuple[str, go.Figure]]:
    """Figures that can be drawn from the measurements."""
    for name in track(list(FIGURES), "figures"):
        with suppress(TracerError):
            yield name, FIGURES[name][1](evaluation)


def _script_json(value: Any) -> Any:
    """JSON that is inert inside a script element: no character that could end it, or that HTML or JavaScript minds."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text))


def _hash(script: str) -> str:
    """Name of a script in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _unix(text: str) -> str:
    """With the line ends that a browser hashes."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _counts(evaluation: Evaluation) -> list[tuple[str, str]]:
    metrics = evaluation.metrics
    found = [
        ("models", metrics["model"].nunique()),
        ("methods", metrics.loc[metrics["method"] != "unedited", "method"].nunique()),
        ("cases", metrics["case_id"].nunique()),
        ("subjects", metrics["subject"].nunique()),
        ("seeds", metrics["seed"].nunique()),
        ("edits", int((evaluation.edits["error"] == "").sum())),
        ("answers", len(evaluation.answers)),
    ]
    return [(name[:-1] if number == 1 else name, f"{number:,}") for name, number in found]


def _notes(evaluation: Evaluation) -> list[str]:
    """Notes for a reader before comparing rows."""
    metrics, edits = evaluation.metrics, evaluation.edits
    notes = []
    keys = ["model", "method", "control", "layers", "seed", "mode"]
    cases = metrics.groupby(keys)["case_id"].nunique()
    if cases.nunique() > 1:
        notes.append(
            f"Not every series was measured on the same cases ({cases.min():,} to {cases.max():,}): the run is not "
            "finished, or edits failed. Means over different cases do not compare; Evaluation.compare pairs cases."
        )
    failed = int((edits["error"] != "").sum())
    if failed:
        notes.append(f"{failed:,} of {len(edits):,} edits could not be made; they are listed under Cost.")
    if "unedited" not in set(metrics["method"]):
        notes.append("The unedited model was not measured: there is nothing to compare with.")
    if not metrics["control"].any():
        notes.append("No control (random layer, random direction) was measured.")
    return notes


def _setting(value: Any) -> str:
    """A setting as text. Of long ones, such as the records themselves, the beginning."""
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False, default=str)
    if len(text) <= LONG:
        return text
    entries = f"{len(value):,} entries, " if isinstance(value, list | dict) else ""
    return f"{text[:LONG]}\n… ({entries}{len(text):,} characters; the whole is in the file of the run)"
