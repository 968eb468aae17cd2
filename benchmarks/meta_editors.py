"""Editors that learn to edit, beside ROME and MEMIT: alone, at once, and one after another.

    python benchmarks/meta_editors.py train mend mend.safetensors --steps 500
    python benchmarks/meta_editors.py table rome,memit,mend,malmen --count 100
    python benchmarks/meta_editors.py table mend,malmen --mode batch --count 30 --prepared mend.safetensors

FactWorld: trained on fresh records of the train part's subjects, validated on the validation part, measured on the test
part; no subject is in two of them. Without files the editors that come with the package are used.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

import editing
import tracer

KINDS = ("rewrite", "paraphrase", "neighbour", "same_subject")
app = typer.Typer(add_completion=False)


@app.command()
def train(
    method: str,
    out: Path,
    steps: int = 500,
    seed: int = 0,
    settings: Annotated[str, typer.Option(help="Others, as json.")] = "{}",
) -> None:
    """Train an editor; a run that was stopped goes on."""
    records = editing.load_records("factworld:fresh")
    held_out = editing.load_records("factworld", split="validation")
    began = time.process_time()
    more = {"steps": steps, **json.loads(settings)}
    made = editing.prepare(tracer.load(), method, records, held_out=held_out, seed=seed, **more)
    made.save(out)
    print(made.to_frame().round(3).to_string(index=False))
    print(f"{made.nbytes / 1e6:.2f} MB, {time.process_time() - began:.0f} s of one core in this run")


@app.command()
def table(
    methods: str,
    count: int = 100,
    mode: Annotated[str, typer.Option(help="single, batch or sequential.")] = "single",
    prepared: Annotated[list[Path] | None, typer.Option(help="Files of trained editors.")] = None,
) -> None:
    """Shares of answers that are right in full, teacher forced, by kind of question."""
    records = Random(0).sample(editing.load_records("factworld", split="test"), count)
    options: dict[str, Any] = {"generate": False, "texts": False, "controls": (), "mode": mode}
    if prepared:
        options["prepared"] = [editing.load_prepared(path) for path in prepared]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", editing.EditWarning)  # other numbers of edits than trained for
        found = editing.evaluate(tracer.load(), records, methods.split(","), **options)
    summary = found.summary(metrics=[f"{kind} exact" for kind in KINDS])
    print(summary[["method", "metric", "mean", "low", "high"]].round(3).to_string(index=False))


if __name__ == "__main__":
    app()
