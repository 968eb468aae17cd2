"""Unlearning on the embedded model: what is forgotten, what goes with it, and how fast it comes back.

    python benchmarks/unlearning.py run
    python benchmarks/unlearning.py table

Twenty true answers of one relation are to be forgotten. What is to stay is given twice: facts of other relations alone,
and other subjects of the same relation among them. Asked are the facts themselves and their paraphrases, other subjects
of the relation that were *not* among what was to stay, other relations, and running text. Then a tenth of the
forgotten facts is learnt again: relearnt is the share of the *others* that is said after so many steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import typer
from results import replace_rows

import editing
import tracer
from editing.edits.edit import Edit
from editing.request import EditRequest
from editing.tasks import finetune
from editing.tasks.lessons import lessons_of, losses_of
from editing.unlearning import memorised, unlearn
from tracer.statistics import clustered_mean

KEPT = Path(__file__).parent / "unlearning.parquet"
COUNT, STEPS = 20, (2, 5, 10)
METHODS: dict[str, dict[str, Any]] = {
    "grad_diff": {"objective": "grad_diff"},
    "npo": {"objective": "npo"},
    "npo, kl": {"objective": "npo", "retain_loss": "kl"},
    "simnpo": {"objective": "simnpo", "steps": 200},
    "rmu": {"objective": "rmu", "steps": 200, "steering": 1.0},
}
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


def true(prompt: str, subject: str, answer: str) -> EditRequest:
    """A fact that the model knows, as a request for its true answer."""
    return EditRequest(prompt.replace(subject, "{}"), subject, answer)


def sets() -> dict[str, list[EditRequest]]:
    """What is to be forgotten, its paraphrases, what may be retained, and what is only asked."""
    records = [r for r in editing.load_records("factworld", split="train") if len(r.requests()) == 1]
    by: dict[str, list[Any]] = {}
    for record in records:
        by.setdefault(str(record.rewrites[0].relation), []).append(record)
    relation = max(by, key=lambda name: len(by[name]))

    def asked(some: list[Any]) -> list[EditRequest]:
        return [EditRequest(r.rewrites[0].prompt, r.rewrites[0].subject, r.rewrites[0].target_true) for r in some]

    own, others = by[relation], [r for r in records if str(r.rewrites[0].relation) != relation]
    forgotten = own[:COUNT]
    paraphrases = [
        true(ask.prompt, r.rewrites[0].subject, r.rewrites[0].target_true)
        for r in forgotten
        for ask in r.asks
        if ask.kind == "paraphrase" and r.rewrites[0].subject in ask.prompt
    ]
    return {
        "forgotten": asked(forgotten),
        "paraphrases": paraphrases,
        "same relation": asked(own[COUNT : 2 * COUNT]),
        "other relations": asked(others[:COUNT]),
        "retain, others": asked(others[COUNT : 3 * COUNT]),
        "retain, relation": asked(own[2 * COUNT : 4 * COUNT]),
    }


@app.command()
def run() -> None:
    """Measure every method, with either set to stay beside it."""
    torch.set_num_threads(1)
    model, found = tracer.load(), sets()
    text = tracer.factworld.held_out_text()[:6000]
    rows = [_asked(model, found, text, "unedited", "")]
    without, within = found["retain, others"], [*found["retain, others"], *found["retain, relation"]]
    for name, options in METHODS.items():
        for retained, retain in (("other relations", without), ("the relation too", within)):
            edit = unlearn(model, found["forgotten"], retain, check=None, **options)
            typer.echo(f"{name}, {retained}: {edit.note}; {edit.seconds:.0f} s")
            with edit.applied(model):
                rows.append(_asked(model, found, text, name, retained))
            rows.append(_relearnt(model, edit, found["forgotten"], name, retained))
    edit = -finetune(model, found["forgotten"], steps=40, stop_loss=0, check=None) * 2
    with edit.applied(model):
        rows.append(_asked(model, found, text, "task vector, -2", ""))
    rows.append(_relearnt(model, edit, found["forgotten"], "task vector, -2", ""))
    replace_rows(KEPT, pd.concat(rows, ignore_index=True), by=("method", "retained"))


def _asked(model: tracer.Model, found: dict[str, list[EditRequest]], text: str, name: str, kept: str) -> pd.DataFrame:
    rows = []
    for asked in ("forgotten", "paraphrases", "same relation", "other relations"):
        said = memorised(model, found[asked]) == 1
        rows += [(name, kept, asked, one.subject, float(each)) for one, each in zip(found[asked], said, strict=True)]
    rows.append((name, kept, "text, nats", "", float(losses_of(model, lessons_of(model, text)[0]).mean())))
    return pd.DataFrame(rows, columns=pd.Index(["method", "retained", "asked", "subject", "value"]))


def _relearnt(model: tracer.Model, edit: Edit, forgotten: list[EditRequest], name: str, kept: str) -> pd.DataFrame:
    """A tenth is learnt again by the model that forgot; the others are asked."""
    few = max(1, len(forgotten) // 10)
    rows = []
    for steps in STEPS:
        with edit.applied(model):
            again = finetune(model, forgotten[:few], steps=steps, stop_loss=0, check=None)
            with again.applied(model):
                said = memorised(model, forgotten[few:]) == 1
        about = f"relearnt, {steps} steps"
        rows += [(name, kept, about, one.subject, float(each)) for one, each in zip(forgotten[few:], said, strict=True)]
    return pd.DataFrame(rows, columns=pd.Index(["method", "retained", "asked", "subject", "value"]))


@app.command()
def table() -> None:
    """Shares of answers that are said, with 95 % intervals over subjects."""
    rows = []
    every: Any = pd.read_parquet(KEPT).groupby(["method", "retained"], sort=False)
    for (name, kept), own in every:
        row = {"": name, "to stay": kept}
        for asked, some in own.groupby("asked", sort=False):
            mean, low, high = (float(each) for each in clustered_mean(np.array(some["value"]), some["subject"]))
            row[str(asked)] = f"{mean:.2f}" if len(some) == 1 else f"{mean:.2f} [{low:.2f}, {high:.2f}]"
        rows.append(row)
    typer.echo(pd.DataFrame(rows).fillna("").to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    app()
