"""Which method when: editors side by side, by how edits come, as Markdown tables; nothing is measured.

    python benchmarks/which_method.py embedded single
    python benchmarks/which_method.py embedded batch
    python benchmarks/which_method.py embedded sequential
    python benchmarks/which_method.py trained
    python benchmarks/which_method.py real gemma-3-270m

They are made of what ``factworld_sweep.py``, ``memories.py``, ``meta_editors.py`` and ``real_edits.py`` keep, and stand
in ``docs/explanation/which-method.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer

from editing.evaluation.result.former_names import current
from editing.questions.metrics import harmonic
from tracer.statistics import cluster_sums, cluster_weights, clustered_mean, percentile_interval, ratio

HERE = Path(__file__).parent
EMBEDDED = "factworld"
MODES = {"single": "alone", "batch": "in one edit", "sequential": "one after another"}
SHOWN = {
    "reliability (generated)": "rewrite",
    "generalisation (generated)": "paraphrases",
    "locality (generated)": "what should stay",
    "same_subject generated": "other facts of the subject",
}
TRAINED = {
    "rewrite exact": "rewrite",
    "paraphrase exact": "paraphrases",
    "neighbour exact": "neighbours",
    "same_subject exact": "other facts of the subject",
}
REAL = {
    "rewrite generated": "rewrite",
    "paraphrase success": "PS",
    "neighbour success": "NS",
    "same_subject success": "other facts of the subject",
    "perplexity": "perplexity",
}
JOINT = 3  # of the shown measures count for the harmonic mean
AT_ONCE = (1, 100)
RESAMPLES = 2000
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def embedded(mode: str) -> None:
    """Print every editor of the embedded model, the best harmonic mean first; per cent, generated freely."""
    print(of_embedded(mode).to_markdown(index=False))


@app.command()
def trained() -> None:
    """Print trained editors beside others, one fact and a hundred in one edit; per cent, teacher forced."""
    print(of_trained().to_markdown(index=False))


@app.command()
def real(model: str) -> None:
    """Print what three editors do to a pretrained model, by how edits come."""
    print(of_real(model).to_markdown(index=False))


# --- tables ----------------------------------------------------------------------------------------------------------
def of_embedded(mode: str) -> pd.DataFrame:
    """Editors of the embedded model by the harmonic mean of rewrites, paraphrases and what should stay, as text.

    Those whose interval of it reaches into that of the first are in bold.

    Args:
        mode: of `MODES`.
    """
    rows = {method: rows for method, rows in measured(mode).items() if {*SHOWN} <= {*rows["metric"]}}
    together = {method: joint(own, list(SHOWN)[:JOINT]) for method, own in rows.items()}
    order = sorted(together, key=lambda method: -together[method][0])
    least = together[order[0]][1]
    lines = []
    for method in order:
        mean, low, high = together[method]
        line = {"method": f"**{method}**" if high >= least else method, "all three": _interval(mean, low, high)}
        line |= {title: share(rows[method][rows[method]["metric"] == metric]) for metric, title in SHOWN.items()}
        lines.append({**line, "records": str(cases(rows[method]))})
    return pd.DataFrame(lines)


def of_trained() -> pd.DataFrame:
    """MEND and MALMEN beside other editors, as text."""
    kept = _read("meta_editors.parquet")
    kept = kept[(kept["how"] == "at once") & (kept["label"] == "") & kept["edits"].isin(AT_ONCE)]
    return _lines(kept.sort_values("edits", kind="stable"), {"edits": "edits at once", "method": "method"}, TRAINED)


def of_real(model: str) -> pd.DataFrame:
    """Editors of a pretrained model, as text.

    Args:
        model: its name.
    """
    kept = _read("real/edits.parquet")
    kept = kept[(kept["model"] == model) & (kept["control"] == "")]
    ways = {"": "none", **MODES}
    kept = kept.sort_values("mode", key=lambda modes: modes.map(list(ways).index), kind="stable")
    return _lines(kept.replace({"mode": ways}), {"mode": "edits", "method": "method"}, REAL)


def _lines(rows: Any, keys: Mapping[str, str], shown: Mapping[str, str]) -> pd.DataFrame:
    lines = []
    for key, own in rows.groupby(list(keys), sort=False):
        line = dict(zip(keys.values(), map(str, key), strict=True))
        for metric, title in shown.items():
            values = own[own["metric"] == metric]
            line[title] = f"{values['value'].mean():.2f}" if metric == "perplexity" else share(values)
        lines.append({**line, "records": str(cases(own))})
    return pd.DataFrame(lines)


# --- measurements ----------------------------------------------------------------------------------------------------
def measured(mode: str) -> dict[str, Any]:
    """Rows of the embedded model by method: metric, value, case_id and subject, asked when the last edit is in place.

    Args:
        mode: of `MODES`.
    """
    memory = _read("memories.parquet")
    memory = memory[(memory["model"] == EMBEDDED) & (memory["router"] == "own") & (memory["mode"] == mode)]
    sweep = _read("factworld_sweep.parquet")
    sweep = sweep[(sweep["control"] == "") & (sweep["mode"] == mode)]
    by_method = {str(method): own for method, own in sweep.groupby("method", sort=False)}
    last = {method: own[own["after"] == own["after"].max()] for method, own in by_method.items()}
    return last | {str(method): own for method, own in memory.groupby("method", sort=False)}


@cache
def _read(name: str) -> Any:
    """A file of measurements, metrics by their present names."""
    rows = pd.read_parquet(HERE / name).astype({"value": "float64"})
    former = {metric: current(metric) for metric in rows["metric"].unique()}
    return rows.replace({"metric": {old: new for old, new in former.items() if old != new}})


def joint(rows: Any, metrics: list[str]) -> tuple[float, float, float]:
    """Harmonic mean of the means of some metrics, with its 95 % interval over subjects, which they share.

    Args:
        rows: metric, value and subject.
        metrics: their names.
    """
    own = rows[rows["metric"].isin(metrics)]
    values = np.where(own["metric"].to_numpy()[:, None] == np.array(metrics), own["value"].to_numpy()[:, None], np.nan)
    there = ~np.isnan(values)
    sums, counts = (cluster_sums(each, own["subject"]) for each in (np.where(there, values, 0.0), there))
    weights = cluster_weights(np.random.default_rng(0), RESAMPLES, len(sums))
    drawn = harmonic(*ratio(weights @ sums, weights @ counts).T)
    low, high = percentile_interval(drawn, 0.95)
    return float(harmonic(*ratio(sums.sum(0), counts.sum(0)))), float(low), float(high)


def cases(rows: Any) -> int:
    """Number of records that were asked about."""
    return rows.loc[rows["case_id"] != "", "case_id"].nunique()


def share(values: Any) -> str:
    """Mean of a metric in per cent, with its 95 % interval over subjects where that is wider than half a point."""
    if values.empty:
        return ""
    return _interval(*(float(each) for each in clustered_mean(values["value"], values["subject"])))


def _interval(mean: float, low: float, high: float) -> str:
    mean, low, high = 100 * mean, 100 * low, 100 * high
    return f"{mean:.0f}" if high - low < 0.5 else f"{mean:.0f} [{low:.0f}, {high:.0f}]"


if __name__ == "__main__":
    app()
