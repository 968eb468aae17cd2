"""Attacks on old answers: what a budget of guesses brings back after edits and after unlearning.

    python benchmarks/attack.py run factworld unedited,rome,memit,ft_m,lora,grace,npo,simnpo
    python benchmarks/attack.py run factworld "rome, refusal,rome, empty"   # a comma without a space parts methods
    python benchmarks/attack.py run smollm2-135m unedited,rome,memit --count 16
    python benchmarks/attack.py table --budget 5
    python benchmarks/attack.py budgets

Facts whose true answer the model gives by itself, with other wordings. Editors write each fact alone; unlearning takes
all of them together, beside as many facts of the same relations that are to stay. Three things are looked for: the old
answer ("own"); in its place the answer of another fact of the relation ("swapped"), which the same guesses find where
they are only plausible; and the answer of another subject of the relation that was not edited ("other"). TRACER_DATA
names the folder with CounterFact and the text for covariances of SmolLM2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import typer
from real_edits import TEXT
from real_edits import records as counterfact
from results import replace_rows

import editing
import tracer
from editing.attack import AttackResult, attack, chance
from editing.datasets import EditRecord
from editing.edits.edit import Edit
from editing.questions.metrics import ATTACKS
from editing.unlearning import EMPTY, refusals, unlearn
from tracer.engine.answer import knows
from tracer.progress import track
from tracer.statistics import clustered_mean

KEPT = Path(__file__).parent / "attack.parquet"
KNOWN = 42  # of SmolLM2's in benchmarks/real
BUDGET, SHOWN, TOKENS = 20, (1, 2, 5, 10, 20), 10_000
FORGETTING: dict[str, dict[str, Any]] = {
    "npo": {"objective": "npo"},
    "simnpo": {"objective": "simnpo", "batch_size": 16},
}
OPTIONS: dict[str, dict[str, Any]] = {"ike": {"demonstrations": 0}}  # the new fact in front, without demonstrations
ORDER = (
    "unedited",
    "rome",
    "memit",
    "ft_m",
    "lora",
    "grace",
    "ike",
    "rome, refusal",
    "rome, empty",
    "memit, empty",
    *FORGETTING,
)
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Case:
    """A fact, and what is looked for beside its own old answer.

    Attributes:
        record: with its other wordings.
        other: of another subject of its relation, with another answer.
        pool: every answer of the relation.
    """

    record: EditRecord
    other: EditRecord
    pool: tuple[str, ...]

    def looked_for(self) -> dict[str, EditRecord]:
        """By name, a record whose `target_true` is looked for."""
        one, false = self.record.rewrites[0], self.other.rewrites[0].target_true
        asks = [ask.model_copy(update={"against": false}) for ask in self.record.asks if ask.kind == "paraphrase"]
        swapped = one.model_copy(update={"target_true": false})
        false_record = self.record.model_copy(update={"rewrites": (swapped,), "asks": tuple(asks)})
        return {"own": self.record, "swapped": false_record, "other": self.other}


def cases(model: tracer.Model, count: int) -> list[Case]:
    """As many facts as wanted, of the relations in turn, with others of the relation that are not among them."""
    if model.name == "factworld":
        every = [each for split in ("test", "train") for each in editing.load_records("factworld", split=split)]
    else:
        every = counterfact(model, KNOWN)
    found, relations = [record for record in every if _single(record)], {}
    for record in found:
        relations.setdefault(str(record.rewrites[0].relation), []).append(record)
    drawn: list[Case] = []
    for place in range(max(map(len, relations.values()))):
        for own in relations.values():
            if len(drawn) == count or 2 * place + 1 >= len(own):
                continue
            record = own[2 * place]
            said = {str(record.rewrites[0].target_true), record.rewrites[0].target_new}
            apart = own[2 * place + 1 :: 2] if model.name == "factworld" else own  # of many that are forgotten at once
            others = [one for one in apart if str(one.rewrites[0].target_true) not in said]
            if others and _known(model, record) and _known(model, others[0]):
                pool = tuple(sorted({str(one.rewrites[0].target_true) for one in own}))
                drawn.append(Case(record, others[0], pool))
    return drawn


def _single(record: EditRecord) -> bool:
    """Whether it is one fact with other wordings, which its answer is not among."""
    answer = str(record.rewrites[0].target_true).strip()
    asks = [ask for ask in record.asks if ask.kind == "paraphrase"]
    return len(record.rewrites) == 1 and bool(asks) and answer not in record.rewrites[0].prompt


def _known(model: tracer.Model, record: EditRecord) -> bool:
    return all(knows(model, one.about(one.target_true)) for one in record.requests())


def edits(model: tracer.Model, some: list[Case], name: str) -> Iterator[tuple[Edit | None, list[Case]]]:
    """Each edit with the cases that it is of; no edit of the unedited model."""
    requests = [case.record.requests()[0] for case in some]
    if name == "unedited":
        yield None, some
        return
    if name in FORGETTING:
        true = [editing.EditRequest(one.prompt, one.subject, str(one.target_true)) for one in requests]
        kept = [case.record.asks for case in some]
        stay = [_neighbour(ask) for asks in kept for ask in asks if ask.kind == "neighbour"][: 4 * len(some)]
        yield unlearn(model, true, stay, check=None, **FORGETTING[name]), some
        return
    method, _, refusal = name.partition(", ")
    if refusal:
        true = [editing.EditRequest(one.prompt, one.subject, str(one.target_true)) for one in requests]
        requests = list(refusals(true, EMPTY) if refusal == "empty" else refusals(true))
    options = dict(OPTIONS.get(method, {}))
    if model.name != "factworld" and method in ("rome", "memit"):
        layers = _layers(model, method)
        text = Path(os.environ["TRACER_DATA"]) / TEXT
        options["covariance"] = editing.estimate_covariance(model, layers, text=text, max_tokens=TOKENS)
    found = editing.compute_edits(model, [[one] for one in requests], method, known="edit", check=None, **options)
    yield from ((edit, [case]) for edit, case in zip(found, some, strict=True))


def _neighbour(ask: Any) -> editing.EditRequest:
    """A fact that is to stay, whose subject is not told apart in a question."""
    return editing.EditRequest("{}", ask.prompt, ask.true)


def _layers(model: tracer.Model, method: str) -> tuple[int, ...]:
    from editing.methods.rome import default_layer
    from editing.methods.value.spread import default_layers

    return default_layers(model) if method == "memit" else (default_layer(model),)


@app.command()
def run(model: str, methods: str, count: int = 32) -> None:
    """Attack a model after each method, and keep what was found."""
    torch.set_num_threads(1)
    loaded = tracer.load(None if model == "factworld" else model).pinned()
    some = cases(loaded, count)
    typer.echo(f"{len(some)} facts of {len({case.record.rewrites[0].relation for case in some})} relations")
    for name in re.split(r",(?! )", methods):
        frames = []
        for edit, own in track(list(edits(loaded, some, name)), name):
            if edit is None:
                frames.append(_attacked(loaded, own))
            else:
                with edit.applied(loaded):
                    frames.append(_attacked(loaded, own))
        found = pd.concat(frames, ignore_index=True).assign(method=name)
        replace_rows(KEPT, found, by=("model", "method"))
        typer.echo(str(of(found, "own")))


def _attacked(model: tracer.Model, some: list[Case]) -> pd.DataFrame:
    """Attacks on all that is looked for, with what that was, and the chance of guesses among the relation's answers."""
    wanted = [(name, case, record) for case in some for name, record in case.looked_for().items()]
    found = attack(model, [record for _, _, record in wanted], budget=BUDGET).to_frame()
    subjects = [case.record.rewrites[0].subject for case in some]  # those of the edits, whatever is looked for
    labels = {"looked_for": [name for name, _, _ in wanted], "subject": [each for each in subjects for _ in range(3)]}
    rows = found.groupby("attack", sort=False).size()  # facts stand one after the other in each attack's
    columns = {name: np.concatenate([np.repeat(each, n // len(wanted)) for n in rows]) for name, each in labels.items()}
    found = found.assign(**columns)
    if model.name != "factworld":  # elsewhere the benchmark's answers are not all that a relation has
        return found
    chances = [
        (subject, size, chance(str(case.record.rewrites[0].target_true), case.pool, size))
        for subject, case in zip(subjects, some, strict=True)
        for size in SHOWN
    ]
    drawn = pd.DataFrame(chances, columns=pd.Index(["subject", "place", "value"]))
    return pd.concat([found, drawn.assign(model=model.name, looked_for="chance", attack="relation")])


def of(frame: Any, looked_for: str) -> AttackResult:
    """What is kept of one method, as attacks gave it."""
    return AttackResult.of(frame[frame["looked_for"] == looked_for].astype({"value": float}), BUDGET)


def kept(model: str) -> dict[str, Any]:
    """Rows of each method, in the order of tables."""
    every = pd.read_parquet(KEPT)
    found = {str(name): own for name, own in every[every["model"] == model].groupby("method", sort=False)}
    return {name: found[name] for name in ORDER if name in found}


@app.command()
def table(model: str = "factworld", budget: int = 5) -> None:
    """Success of attacks on own, swapped and other answers, with 95 % intervals over subjects."""
    rows = []
    for name, own in kept(model).items():
        for looked_for in ("own", "swapped", "other"):
            found = of(own, looked_for)
            row: dict[str, Any] = {"": name, "looked for": looked_for}
            row |= {attack: _cell(found.interval(attack, budget)) for attack in ATTACKS}
            rows.append(row)
    typer.echo(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))
    drawn: Any = next(iter(kept(model).values())).query("looked_for == 'chance' and place == @budget")
    if len(drawn):
        typer.echo(f"guesses from the relation: {_cell(clustered_mean(drawn['value'], drawn['subject']))}")


@app.command()
def budgets(model: str = "factworld", attack: str = "head projection") -> None:
    """Success with smaller budgets, and of each layer alone."""
    rows = []
    for name, frame in kept(model).items():
        found = of(frame, "own")
        row = {"": name} | {f"@{count}": _cell(found.interval(attack, count)) for count in SHOWN}
        best = found.by_layer(5).mean(0)
        rows.append(row | {"best layer @5": f"{int(best.argmax())}: {best.max():.2f}"})
    typer.echo(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


def _cell(found: Any) -> str:
    mean, low, high = (float(each) for each in found)
    return f"{mean:.2f}" if low == high else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    app()
