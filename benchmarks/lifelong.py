"""Three hundred edits one after another on a pretrained model, nothing taken back: what stays, and what it costs.

    python benchmarks/lifelong.py run smollm2-135m malmen --step 8 --prepared malmen.safetensors
    python benchmarks/lifelong.py run smollm2-135m rase --name "rase mend" --option 'editor="mend"' \\
        --option 'router="overlap"' --prepared mend.safetensors
    python benchmarks/lifelong.py run smollm2-135m alphaedit --step 10
    python benchmarks/lifelong.py keep       # into real/lifelong.parquet
    python benchmarks/lifelong.py table      # as Markdown

Records are CounterFact's, with three neighbours each. Each is asked right after its edit, and a hundred drawn ones
again at the end, when all are in place. What finds edits is prepared on sixty records behind these. Interrupted, a run
goes on where it was.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from memory_records import ALONE, real_records
from memory_tables import share
from results import replace_rows

import editing
import tracer
from editing.evaluation import Evaluation
from editing.methods.rome import default_layer
from editing.methods.value.spread import default_layers

HERE = Path(__file__).parent / "real"
RUNS, KEPT = Path("runs") / "lifelong", HERE / "lifelong.parquet"
TEXT, TOKENS = "text/valid.txt", 100_000
SPREAD, ONE = ("memit", "alphaedit", "emmet"), ("rome", "r_rome")
FOUND, MEASURED = ("rase", "ike"), 60  # what a router finds, and records that routers are measured on
SHOWN = {
    "reliability (generated)": "rewrite",
    "generalisation (generated)": "paraphrases behind a sentence",
    f"{ALONE} generated": "paraphrases alone",
    "neighbour success": "NS",
}
COSTS = {"seconds": "s an edit", "kl drift": "KL", "perplexity": "perplexity"}
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def run(
    model: str,
    methods: str,
    count: Annotated[int, typer.Option(help="Records.")] = 300,
    step: Annotated[int, typer.Option(help="Edits at a time.")] = 1,
    prepared: Annotated[list[Path] | None, typer.Option(help="Files of what was prepared.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the method, as json.")] = None,
    name: Annotated[str, typer.Option(help="Of the file; the method's by default.")] = "",
) -> None:
    """Measure methods, one file each."""
    RUNS.mkdir(parents=True, exist_ok=True)
    loaded = tracer.load(model)
    some = real_records(0, count)
    made = [editing.load_prepared(path) for path in prepared or ()]
    given = {key: json.loads(value) for key, value in (each.split("=", 1) for each in option or ())}
    plain: dict[str, Any] = {"texts": False, "moments": 1, "retention": 100, "canary_tokens": 256, "answer_cases": 0}
    for method in methods.split(","):
        own = [editing.prepare(loaded, method, real_records(count, MEASURED))] if method in FOUND else []
        more: dict[str, Any] = {"prepared": [*made, *own]} if made or own else {}
        if method in (*SPREAD, *ONE) or given.get("editor") in (*SPREAD, *ONE):
            layers = (default_layer(loaded),) if {method, given.get("editor")} & {*ONE} else default_layers(loaded)
            text = Path(os.environ["TRACER_DATA"]) / TEXT
            more["covariance"] = editing.estimate_covariance(loaded, layers, text=text, max_tokens=TOKENS)
        path = RUNS / f"{loaded.name}-{name or method}-{step}-{count}.sqlite"
        print(editing.evaluate(loaded, some, method, "sequential", path=path, step=step, **plain, **more, **given))


@app.command()
def keep() -> None:
    """Write what was measured into ``real/lifelong.parquet``: at once, and when all edits are in place."""
    frames = []
    for file in sorted(RUNS.glob("*.sqlite")):
        frame: Any = Evaluation.load(file).metrics
        _, name, step, _ = file.stem.rsplit("-", 3)
        asked = frame["metric"].isin((*SHOWN, *COSTS)) & (frame["control"] == "")
        frame = frame[asked].assign(method=frame["method"].where(frame["method"] == "unedited", name), step=int(step))
        last = frame["after"] == frame.loc[frame["method"] != "unedited", "after"].max()
        frame["when"] = "at once"
        frame.loc[last & (frame["position"] + frame["step"] < frame["after"]), "when"] = "at the end"
        frames.append(frame[["model", "method", "step", "when", "case_id", "subject", "after", "metric", "value"]])
    found = pd.concat(frames, ignore_index=True).drop_duplicates(["model", "method", "when", "case_id", "metric"])
    replace_rows(KEPT, found, by=("model", "method", "step"))


@app.command()
def table(model: str = "smollm2-135m") -> None:
    """Per cent with 95 % intervals over subjects; KL drift and perplexity after the last edit."""
    print(by_method(model).to_markdown(index=False))


def by_method(model: str) -> pd.DataFrame:
    """The table, as text."""
    found: Any = pd.read_parquet(KEPT).astype({"value": "float64"})
    lines = []
    for key, own in found[found["model"] == model].groupby(["method", "step", "when"], sort=False):
        method, step, when = key if isinstance(key, tuple) else (key, 0, "")
        line = {"method": method, "edits at a time": step, "asked": when}
        line |= {title: share(own[own["metric"] == metric]) for metric, title in SHOWN.items()}
        for metric, title in COSTS.items():
            values = own.loc[own["metric"] == metric].sort_values("after")["value"]
            if len(values):
                line[title] = f"{values.mean() if metric == 'seconds' else values.iloc[-1]:.3g}"
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


if __name__ == "__main__":
    app()
