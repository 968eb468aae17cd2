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
from which_method import MODES, cases, measured, share

from editing.questions.metrics import FALSE_ALARMS, HITS

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
        line = {"method": method, "router": router, "records": str(cases(own))}
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
    last = {mode: measured(mode) for mode in MODES}
    sweep: Any = pd.read_parquet(SWEEP).astype({"value": "float64"})
    sweep = sweep[(sweep["control"] == "") & (sweep["mode"] == "sequential")]
    lines = []
    for method in METHODS:
        for mode, title in MODES.items():
            if method not in last[mode]:
                continue
            own = last[mode][method]
            first = own[own["metric"] == AT_ONCE]
            if first.empty:  # of the sweep, in which each is asked after every edit
                every = sweep[sweep["method"] == method]
                at_once = (every["metric"] == "reliability (generated)") & (every["after"] == every["position"] + 1)
                first = every[at_once]
            line = {"method": method, "edits": title, "records": str(cases(own))}
            line |= {name: share(own[own["metric"] == metric]) for metric, name in list(SHOWN.items())[:4]}
            line["rewrite at once"] = share(first) if mode == "sequential" else ""
            lines.append(line)
    return pd.DataFrame(lines)


def kept() -> pd.DataFrame:
    """What is there of the measurements."""
    return pd.read_parquet(KEPT).astype({"value": "float64"})


if __name__ == "__main__":
    app()
