"""Task arithmetic: sets of facts added and taken away at every factor, beside what should stay.

    python benchmarks/task_arithmetic.py run                      # the embedded model
    python benchmarks/task_arithmetic.py run --model smollm2-135m --count 12
    python benchmarks/task_arithmetic.py table                    # what was measured, as Markdown

Three sets of records, about different subjects, are fine-tuned each by itself: their new targets are learnt. Each,
their sums, and an analogy are scaled; losses are those of each set and of the *true* answers of other records. And a
set of true answers is fine-tuned and taken away ("forget"): beside it, true answers of other subjects in the same
relation, which nobody asked to forget, those of other relations, and running text. Random directions of the same norms
are the control.
Records of other models are CounterFact's whose true answer the model gives itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from real_edits import FILE
from real_edits import HERE as REAL
from results import replace_rows

import editing
import tracer
from editing.datasets import EditRecord
from editing.request import EditRequest
from editing.tasks import ScaledLosses, cosines, finetune, scaled_losses
from tracer.model.soundness import PASSAGE

KEPT = Path(__file__).parent / "task_arithmetic.parquet"
EMBEDDED, COSINE = "factworld", "cosine"
FACTORS = (-1.0, -0.5, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5)
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def run(
    model: Annotated[str, typer.Option(help="Its name; the embedded one by default.")] = EMBEDDED,
    count: Annotated[int, typer.Option(help="Records of a set.")] = 40,
) -> None:
    """Measure, and keep the rows beside this file."""
    torch.set_num_threads(1)
    loaded = tracer.load(None if model == EMBEDDED else model)
    records = _known(loaded)
    sets, kept = _disjoint(records, count)
    text = tracer.factworld.held_out_text()[:6000] if model == EMBEDDED else PASSAGE
    tasks: dict[str, Any] = {name: [_wanted(record) for record in some] for name, some in sets.items()}
    control = {"other facts": [_true(record) for record in kept], "text": text}
    edits = {name: finetune(loaded, some, check=None) for name, some in tasks.items()}
    a, b, c = edits.values()
    sums = {"A": a, "A + B": a + b, "A + B + C": a + b + c, "C + (B - A)": c + (b - a), "A, turned": a.control(0)}
    rows = [_rows(name, scaled_losses(loaded, edit, tasks | control, FACTORS)) for name, edit in sums.items()]
    rows.append(_rows(*_forgetting(loaded, records, count, text)))
    rows.append(_rows(*_forgetting(loaded, records, count, text, turned=True)))
    alike = cosines([a, b, c])
    pairs = {"A, B": alike[0, 1], "A, C": alike[0, 2], "B, C": alike[1, 2]}
    head = {"model": loaded.name, "method": COSINE, "subject": "", "factor": np.nan}
    rows.append(pd.DataFrame([{**head, "task": pair, "loss": value} for pair, value in pairs.items()]))
    replace_rows(KEPT, pd.concat(rows, ignore_index=True), by=("model",))
    for edit in edits.values():
        typer.echo(f"{edit!r}: {edit.seconds:.0f} s")


def _forgetting(
    model: tracer.Model, records: Sequence[EditRecord], count: int, text: str, turned: bool = False
) -> tuple[str, ScaledLosses]:
    """True answers of the largest relation learnt by heart, and taken away."""
    by: dict[str, list[EditRecord]] = {}
    for record in records:
        by.setdefault(_relation(record), []).append(record)
    same = max(by.values(), key=len)
    half = min(count, len(same) // 2)
    forget, held = same[:half], same[half : 2 * half]
    others = [record for record in records if record not in same][:count]
    edit = finetune(model, [_true(record) for record in forget], check=None, stop_loss=0, steps=40)
    tasks: dict[str, Any] = {
        "forget": [_true(record) for record in forget],
        "same relation": [_true(record) for record in held],
        "other facts": [_true(record) for record in others],
        "text": text,
    }
    given = edit.control(0) if turned else edit
    factors = [-factor for factor in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)]
    return "forget, turned" if turned else "forget", scaled_losses(model, given, tasks, factors)


def _known(model: tracer.Model) -> list[EditRecord]:
    if model.name == EMBEDDED:
        return [record for record in editing.load_records("factworld", split="train") if len(record.requests()) == 1]
    every = editing.load_records(Path(os.environ["TRACER_DATA"]) / FILE)
    known = json.loads((REAL / f"{model.name}-known.json").read_text(encoding="utf-8"))
    return [record for record in every if known.get(record.case_id)]


def _disjoint(records: Sequence[EditRecord], count: int) -> tuple[dict[str, list[EditRecord]], list[EditRecord]]:
    """Three sets about different subjects, and further records."""
    once = list({record.requests()[0].subject: record for record in records}.values())
    size = min(count, len(once) // 4)
    sets = {name: once[place * size : (place + 1) * size] for place, name in enumerate("ABC")}
    return sets, once[3 * size : 4 * size]


def _wanted(record: EditRecord) -> EditRequest:
    return record.requests()[0]


def _true(record: EditRecord) -> EditRequest:
    one = record.requests()[0]
    assert one.target_true is not None
    return EditRequest(one.prompt, one.subject, one.target_true)


def _relation(record: EditRecord) -> str:
    """The prompt stands for it where the file names none."""
    return str(record.rewrites[0].relation or record.requests()[0].prompt)


def _rows(name: str, found: ScaledLosses) -> pd.DataFrame:
    return replace(found, method=name).to_frame()


@app.command()
def table(
    model: Annotated[str, typer.Option(help="Of the rows.")] = EMBEDDED,
    at: Annotated[str, typer.Option(help="Factors, with commas between.")] = "0,0.3,0.5,1",
) -> None:
    """Losses by edit, factor and task, with 95 % intervals over subjects; and cosines."""
    found: Any = pd.read_parquet(KEPT)
    found = found[found["model"] == model]
    wanted = [float(each) for each in at.split(",")]
    rows = []
    for edit, own in found[found["method"] != COSINE].groupby("method", sort=False):
        losses = ScaledLosses.of(own)
        ends = {task: losses.intervals(task) for task in losses.items}
        for place, factor in enumerate(losses.factors):
            if factor in wanted:
                cells = {task: "{:.2f} [{:.2f}, {:.2f}]".format(*each[place]) for task, each in ends.items()}
                rows.append({"edit": edit, "factor": f"{factor:g}", **cells})
    typer.echo(pd.DataFrame(rows).fillna("").to_markdown(index=False, disable_numparse=True))
    for _, row in found[found["method"] == COSINE].iterrows():
        typer.echo(f"cosine of {row['task']}: {row['loss']:.3f}")


if __name__ == "__main__":
    app()
