"""Edits of pretrained models: the tables of README and documentation, and the bars that the defaults have to clear.

    python benchmarks/real_edits.py run gemma-3-270m rome,memit           # each fact alone
    python benchmarks/real_edits.py run gemma-3-270m memit --mode batch   # all in one edit, or --mode sequential
    python benchmarks/real_edits.py keep                                   # what was measured, into edits.parquet
    python benchmarks/real_edits.py table --known                          # and as Markdown

The records are CounterFact's, in its original layout with ten neighbours each (``counterfact/`` below the folder that
TRACER_DATA names), and for most of them another fact about the same subject. Those come first whose true answer the
model gives by itself; of the others an edit has nothing to replace, and they are counted apart. Interrupted, a run goes
on where it was; what is kept lies in ``runs/real_edits``. ``edits.parquet`` is of a search that ended at an NLL of
0.05, ``ten_methods.parquet``, of fewer records, of today's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import typer
from results import replace_rows

import editing
import tracer
from editing.datasets import EditRecord
from editing.evaluation import Evaluation
from editing.methods.rome import default_layer
from editing.methods.value.spread import default_layers
from tracer.engine.answer import knows
from tracer.progress import track

HERE = Path(__file__).parent / "real"
RUNS = Path("runs") / "real_edits"
FILE = "counterfact/counterfact_portability_gpt4.json"
OTHER = "counterfact/counterfact_other_attribution.json"  # the same records, with a further fact about the subject
TEXT, TOKENS = "text/valid.txt", 100_000
ASKED = ("paraphrase", "neighbour", "same_subject")
SPREAD = ("memit", "emmet", "alphaedit", "pmet")
KEPT = HERE / "edits.parquet"
SHOWN = {
    "rewrite success": "ES",
    "rewrite exact": "written (forced)",
    "rewrite generated": "written (generated)",
    "paraphrase success": "PS",
    "neighbour success": "NS",
    "same_subject success": "other fact of the subject",
    "perplexity": "perplexity",
    "kl drift": "KL",
    "seconds": "s",
}
METHODS = ("rome", "r_rome", "memit", "emmet", "alphaedit", "pmet", "ft_m", "ft_l", "lora", "kn")
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


def records(model: tracer.Model, count: int) -> list[EditRecord]:
    """The first ``count`` records, in the file's order, whose true answer the model gives itself; then the others."""
    folder = os.environ.get("TRACER_DATA")
    if not folder:
        raise SystemExit("TRACER_DATA should name the folder that holds counterfact/")
    every = editing.load_records(Path(folder) / FILE)
    kept = HERE / f"{model.name}-known.json"
    asked: dict[str, bool] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    missing = [record for record in every if record.case_id not in asked]
    for place, record in enumerate(track(missing, "asking", len(missing)) if missing else []):
        if sum(asked.values()) >= count:
            break
        one = record.requests()[0]
        asked[record.case_id] = knows(model, tracer.Fact(one.prompt, one.subject, one.target_true))
        if place % 50 == 0:
            kept.write_text(json.dumps(asked), encoding="utf-8")
    kept.write_text(json.dumps(asked), encoding="utf-8")
    some = sorted(every, key=lambda record: not asked.get(record.case_id, False))[:count]
    further = {record.case_id: record.asks for record in editing.load_records(Path(folder) / OTHER)}
    asks = {
        record.case_id: (
            *(ask for ask in record.asks if ask.kind in ASKED),
            *(ask for ask in further.get(record.case_id, ()) if ask.kind == "same_subject"),
        )
        for record in some
    }
    return [record.model_copy(update={"asks": asks[record.case_id], "generate": ()}) for record in some]


@app.command()
def run(
    model: str,
    methods: str,
    mode: Literal["single", "batch", "sequential"] = "single",
    count: Annotated[int, typer.Option(help="Records.")] = 100,
    controls: Annotated[int, typer.Option(help="Records with random directions and layers beside them.")] = 10,
) -> None:
    """Measure methods with their defaults, one file each; covariances are those of English text (WikiText-2)."""
    RUNS.mkdir(parents=True, exist_ok=True)
    loaded = tracer.load(model)
    chosen = records(loaded, count)
    text = Path(os.environ["TRACER_DATA"]) / TEXT
    for method in methods.split(","):
        path = RUNS / f"{loaded.name}-{method}-{mode}-{count}.sqlite"
        layers = default_layers(loaded) if method in SPREAD else (default_layer(loaded),)
        options: dict[str, Any] = {"chunk": 4, "texts": False, "control_cases": controls, "canary_tokens": 256}
        if method in (*SPREAD, "rome", "r_rome"):
            options["covariance"] = editing.estimate_covariance(loaded, layers, text=text, max_tokens=TOKENS)
        print(editing.evaluate(loaded, chosen, method, mode, path=path, **options), flush=True)


@app.command()
def keep() -> None:
    """Write what was measured beside this file, one row per case and metric, cases whose answer is unknown included."""
    frames = [_at_the_end(Evaluation.load(file).metrics) for file in sorted(RUNS.glob("*.sqlite"))]
    found = pd.concat(frames, ignore_index=True)
    found = found.loc[found["metric"].isin((*SHOWN, "known", "ruined"))].drop_duplicates()
    replace_rows(KEPT, found, by=("method", "model", "mode", "control", "case_id"), order=("unedited", *METHODS))


def _at_the_end(found: Any) -> Any:
    """Of edits one after another what is asked when all are in place, and the seconds of each."""
    later = found["mode"] == "sequential"
    last = int(found["after"].max())
    kept = found[~later | (found["after"] == last) | (found["metric"] == "seconds")]
    return kept.assign(after=kept["after"].where(kept["mode"] != "sequential", last))


@app.command()
def table(
    known: Annotated[bool, typer.Option(help="Only cases whose true answer the model gives itself.")] = False,
    file: Annotated[str, typer.Option(help="Of real/: edits.parquet, or ten_methods.parquet.")] = KEPT.name,
) -> None:
    """What is kept, one row per model, method, mode and control: means, with 95 % intervals over subjects."""
    print(rows(kept(known, file)).to_markdown(index=False))


def kept(known: bool = False, file: str = KEPT.name) -> Evaluation:
    """The measurements beside this file."""
    found = Evaluation.of(metrics=pd.read_parquet(HERE / file).astype({"value": "float64"}))
    return found.among(found.known()) if known else found


def rows(evaluation: Evaluation) -> pd.DataFrame:
    """The table, as text."""
    summary = evaluation.summary(metrics=tuple(SHOWN))
    summary = summary[(summary["mode"] != "sequential") | (summary["stage"] == "end")]
    every = []
    for labels, own in summary.groupby(["model", "method", "control", "mode"], sort=False):
        by = own.set_index("metric")
        row = dict(zip(("model", "method", "control", "mode"), labels, strict=True)) | {"cases": int(own["n"].max())}
        for metric, name in SHOWN.items():
            if metric in by.index:
                digits = 2 if metric in ("perplexity", "seconds") else 3
                mean, low, high = (round(float(by.loc[metric, each]), digits) for each in ("mean", "low", "high"))
                row[name] = f"{mean} [{low}, {high}]"
        every.append(row)
    return pd.DataFrame(every).fillna("")


if __name__ == "__main__":
    app()
