"""MEND and MALMEN on a pretrained model: trained on records of CounterFact and zsRE, measured on held-out ones.

    python benchmarks/meta_real.py train smollm2-135m mend mend.safetensors --steps 300
    python benchmarks/meta_real.py run smollm2-135m rome,mend counterfact --prepared mend.safetensors
    python benchmarks/meta_real.py keep                    # what was measured, into real/meta.parquet

One editor for both benchmarks. Learnt from are records of ``counterfact/counterfact-train.json`` (one other wording and
one neighbour each) and of zsRE in MEND's layout (one other wording and one unrelated question). Validated and measured
are others, CounterFact's in its original layout with ten neighbours, the same that ``real_edits.py`` measures ROME and
MEMIT on. No subject is in two of the three.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import pandas as pd
import typer
from real_edits import TEXT, TOKENS
from real_edits import records as measured_records
from results import replace_rows

import editing
import tracer
from editing.datasets import EditRecord
from editing.evaluation import Evaluation
from editing.methods.rome import default_layer
from editing.methods.value.spread import default_layers
from tracer.text import plain

HERE = Path(__file__).parent / "real"
RUNS = Path("runs") / "meta_real"
COUNTERFACT = "counterfact/counterfact_portability_gpt4.json"
TO_LEARN = "counterfact/counterfact-train.json"
ZSRE = "zsre/zsre_mend_eval_portability_gpt4.json"
LEARNT, VALIDATED, TESTED = 2000, 30, 100  # of CounterFact; of each; of each
COVARIANCE = ("rome", "memit", "alphaedit")
ORDER = (*COVARIANCE, "mend", "malmen", "rledit")
SHOWN = [f"{kind} {what}" for kind in ("rewrite", "paraphrase", "neighbour") for what in ("exact", "success")]
ASKED = ("paraphrase", "neighbour")
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


def parts(model: tracer.Model, seed: int = 0) -> dict[str, list[EditRecord]]:
    """Records to learn from, to validate on, and of either benchmark to test."""
    folder = Path(os.environ["TRACER_DATA"])
    counterfact, zsre, further = (_shuffled(folder / file, seed) for file in (COUNTERFACT, ZSRE, TO_LEARN))
    tested = {"counterfact": [_told(record) for record in measured_records(model, TESTED)], "zsre": zsre[:TESTED]}
    apart = {_subject(record) for own in tested.values() for record in own}
    held_out = []
    for every in (counterfact, zsre):
        held_out += [record for record in every if _subject(record) not in apart][:VALIDATED]
    apart |= {_subject(record) for record in held_out}
    train = [record for record in further if _subject(record) not in apart][:LEARNT]
    train += [record for record in zsre if _subject(record) not in apart]
    return {"train": train, "validation": held_out, **tested}


def _shuffled(path: Path, seed: int) -> list[EditRecord]:
    """Records with another wording of the rewrite, in an order of their own."""
    found = [_told(record) for record in editing.load_records(path, strict=False)]
    found = [record for record in found if any(ask.kind == "paraphrase" for ask in record.asks)]
    Random(seed).shuffle(found)
    return found


def _told(record: EditRecord) -> EditRecord:
    """With the questions that tables tell."""
    asks = tuple(ask for ask in record.asks if ask.kind in ASKED)
    return record.model_copy(update={"asks": asks, "generate": ()})


def _subject(record: EditRecord) -> str:
    return plain(record.rewrites[0].subject)


@app.command()
def train(
    model: str,
    method: str,
    out: Path,
    steps: int = 300,
    seed: int = 0,
    settings: Annotated[str, typer.Option(help="Others, as json.")] = "{}",
) -> None:
    """Train an editor; a run that was stopped goes on."""
    loaded = tracer.load(model)
    own = parts(loaded)
    began = time.process_time()
    more = {"steps": steps, "batch": 8, "validate_every": 50, **json.loads(settings)}
    made = editing.prepare(loaded, method, own["train"], held_out=own["validation"], seed=seed, **more)
    made.save(out)
    print(made.to_frame().round(3).to_string(index=False))
    print(f"{made.nbytes / 1e6:.2f} MB, {time.process_time() - began:.0f} s of one core in this run")


@app.command()
def run(
    model: str,
    methods: str,
    records: Literal["counterfact", "zsre"],
    mode: Literal["single", "batch", "sequential"] = "single",
    count: int = TESTED,
    prepared: Annotated[list[Path] | None, typer.Option(help="Files of trained editors.")] = None,
) -> None:
    """Measure methods on held-out records, one file each; covariances are those of English text (WikiText-2)."""
    RUNS.mkdir(parents=True, exist_ok=True)
    loaded = tracer.load(model)
    chosen = parts(loaded)[records][:count]
    made = [editing.load_prepared(path) for path in prepared or ()]
    for method in methods.split(","):
        path = RUNS / f"{loaded.name}-{records}-{method}-{mode}-{count}.sqlite"
        options: dict[str, Any] = {"chunk": 4, "texts": False, "controls": (), "generate": False}
        if method in COVARIANCE:
            layers = (default_layer(loaded),) if method == "rome" else default_layers(loaded)
            text = Path(os.environ["TRACER_DATA"]) / TEXT
            options["covariance"] = editing.estimate_covariance(loaded, layers, text=text, max_tokens=TOKENS)
        else:
            options["prepared"] = made
        print(editing.evaluate(loaded, chosen, method, mode, path=path, **options), flush=True)


@app.command()
def keep() -> None:
    """Write what was measured into ``real/meta.parquet``, one row per case and metric."""
    frames = []
    for file in sorted(RUNS.glob("*.sqlite")):
        frame = Evaluation.load(file).metrics
        frames.append(frame.assign(records=file.stem.removeprefix(frame["model"].iloc[0] + "-").partition("-")[0]))
    found: Any = pd.concat(frames, ignore_index=True)
    found = found.loc[found["metric"].isin((*SHOWN, "ruined"))].drop_duplicates()
    by = ("method", "model", "records", "mode", "case_id")
    replace_rows(HERE / "meta.parquet", found, by=by, order=("unedited", *ORDER))


if __name__ == "__main__":
    app()
