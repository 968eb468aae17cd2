"""Tables of what ``memories.py`` keeps, as Markdown.

    python benchmarks/memory_tables.py routers
    python benchmarks/memory_tables.py routers --model smollm2-135m
    python benchmarks/memory_tables.py modes

``modes`` sets alone, in a batch and one after another beside methods that change weights, whose rows are
``factworld_sweep.py``'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import typer
from memory_records import ALONE, EMBEDDED

from editing.questions.metrics import FALSE_ALARMS, HITS
from tracer.statistics import clustered_mean

HERE = Path(__file__).parent
KEPT, SWEEP = HERE / "memories.parquet", HERE / "factworld_sweep.parquet"
AT_ONCE = "rewrite generated, at once"
UNCHANGED, ALONE_HIT, BEHIND_HIT = "unchanged", "hits, paraphrase alone", "hits, paraphrase"
SHOWN = {
    "reliability (generated)": "rewrite",
    "generalisation (generated)": "paraphrases",
    "locality (generated)": "what should stay",
    "same_subject generated": "other facts of the subject",
    HITS: "hit rate",
    FALSE_ALARMS: "false alarms",
}
REAL_SHOWN = {
    "reliability (generated)": "rewrite",
    "generalisation (generated)": "paraphrases behind a sentence",
    f"{ALONE} generated": "paraphrases alone",
    UNCHANGED: UNCHANGED,
    BEHIND_HIT: "hits, behind a sentence",
    ALONE_HIT: "hits, alone",
    FALSE_ALARMS: "false alarms",
}
COSTS = {"seconds": "s an edit", "bytes per edit": "kB an edit", "bytes compared": "kB compared"}
MODES = {"single": "alone", "batch": "in one edit", "sequential": "one after another"}
METHODS = ("rome", "memit", "alphaedit", "grace", "melo", "serac", "wise", "t_patcher", "calinet")
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def routers(model: str = EMBEDDED, mode: str = "sequential") -> None:
    """Print what each router gives: means with 95 % intervals over subjects, in per cent; and costs."""
    print(by_router(model, mode).to_markdown(index=False))


def by_router(model: str = EMBEDDED, mode: str = "sequential") -> pd.DataFrame:
    """The table, as text."""
    found: Any = kept()
    found = found[(found["model"] == model) & (found["mode"] == mode)]
    lines = []
    for key, own in found.groupby(["method", "router"], sort=False):
        method, router = map(str, key if isinstance(key, tuple) else (key,))
        line = {"method": method, "router": router, "records": str(_cases(own))}
        shown = SHOWN if model == EMBEDDED else REAL_SHOWN
        line |= {title: share(own[own["metric"] == metric]) for metric, title in shown.items()}
        costs = own[own["case_id"] == ""].set_index("metric")["value"]
        for metric, title in COSTS.items():
            scale = 1e3 if title.startswith("kB") else 1
            line[title] = f"{costs[metric] / scale:.3g}" if metric in costs and pd.notna(costs[metric]) else ""
        both = costs[["ms per question", "ms per question, unedited"]].tolist() if len(costs) else []
        line["ms more a question"] = f"{both[0] - both[1]:.1f}" if both else ""
        lines.append(line)
    return pd.DataFrame(lines)


@app.command()
def modes() -> None:
    """Print FactWorld alone, in one edit and one after another, beside methods that change weights; in per cent."""
    print(by_mode().to_markdown(index=False))


def by_mode() -> pd.DataFrame:
    """The table, as text."""
    memory: Any = kept()
    memory = memory[(memory["model"] == EMBEDDED) & (memory["router"] == "own")]
    sweep: Any = pd.read_parquet(SWEEP).astype({"value": "float64"})
    sweep = sweep[sweep["control"] == ""]
    lines = []
    for method in METHODS:
        for mode, title in MODES.items():
            own = memory[(memory["method"] == method) & (memory["mode"] == mode)]
            first = own[own["metric"] == AT_ONCE]
            if own.empty:
                own = sweep[(sweep["method"] == method) & (sweep["mode"] == mode)]
                at_once = (own["metric"] == "reliability (generated)") & (own["after"] == own["position"] + 1)
                first, own = own[at_once], own[own["after"] == own["after"].max()]
            if own.empty:
                continue
            line = {"method": method, "edits": title, "records": str(_cases(own))}
            line |= {name: share(own[own["metric"] == metric]) for metric, name in list(SHOWN.items())[:4]}
            line["rewrite at once"] = share(first) if mode == "sequential" else ""
            lines.append(line)
    return pd.DataFrame(lines)


def _cases(own: Any) -> int:
    return own.loc[own["case_id"] != "", "case_id"].nunique()


def share(values: Any) -> str:
    """Mean of a metric in per cent, with its 95 % interval over subjects where that is wider than half a point."""
    if values.empty:
        return ""
    mean, low, high = (100 * float(each) for each in clustered_mean(values["value"], values["subject"]))
    return f"{mean:.0f}" if high - low < 0.5 else f"{mean:.0f} [{low:.0f}, {high:.0f}]"


def kept() -> pd.DataFrame:
    """What is there of the measurements."""
    return pd.read_parquet(KEPT).astype({"value": "float64"})


if __name__ == "__main__":
    app()
