"""Editors that keep the weights, side by side: what they say, when they say it, and what it costs.

    python benchmarks/memories.py run grace,t_patcher --count 100    # into runs/memories, one file for each method
    python benchmarks/memories.py keep                               # all of it, into memories.parquet beside this file
    python benchmarks/memories.py table

FactWorld's test records, one edit after another, then every record is asked again with all of them in place. Four
routers decide on which prompts a memory acts: its own; an oracle, which lets the edited prompt, its paraphrases and
aliases be answered as the edited prompt is, and nothing else; a match of strings, by which every prompt that names an
edited subject is answered so; and none, which is the unedited model. "random keys" are keys of the same lengths in
random directions, with the values of the edits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from results import replace_rows

import editing
import tracer
from editing.datasets import EditRecord
from editing.memories import Memory, directed
from editing.questions.answer import CaseAnswers
from editing.questions.asking_records import ask_records
from editing.questions.metrics import case_metrics
from editing.questions.negation import denied
from tracer.engine.memories import remembering
from tracer.facts.fact import SLOT, Fact
from tracer.plots.export import replacing
from tracer.statistics import clustered_mean

KEPT = Path(__file__).with_name("memories.parquet")
RUNS = Path("runs") / "memories"
MEANT = ("rewrite", "paraphrase", "subject_alias")
ROUTERS = ("own", "oracle", "string match", "none", "random keys")
SHOWN = {
    "rewrite generated": "rewrite",
    "paraphrase generated": "paraphrases",
    "neighbour generated": "neighbours",
    "same_subject generated": "other facts of the subject",
    "portability (generated)": "portability",
    "hit rate": "hit rate",
    "false alarm rate": "false alarms",
}
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


def records(count: int) -> list[EditRecord]:
    """So many of the 300 test records of the other tables, in their order."""
    every = editing.load_records("factworld", split="test")
    drawn = [every[i] for i in sorted(Random(0).sample(range(len(every)), 300))]
    return [drawn[i] for i in sorted(Random(1).sample(range(300), 100))][:count]


def asked(model: tracer.Model, some: Sequence[EditRecord]) -> Iterator[tuple[EditRecord, str, str, tuple[int, ...]]]:
    """Every question of the records: its record, kind, text and tokens; rewrites denied are of the kind "negation"."""
    for record in some:
        texts = [(one.kind, one.prompt) for one in record.questions()]
        texts += [("negation", text) for request in record.requests() if (text := denied(request)) is not None]
        for kind, text in texts:
            yield record, kind, text, tuple(Fact(SLOT, text).align(model).input_ids)


def as_the_edit(model: tracer.Model, some: Sequence[EditRecord], router: str) -> dict[tuple[int, ...], Any]:
    """For each prompt, the edited prompt that it is answered as, or None."""
    first = {record.case_id: tuple(record.requests()[0].fact.align(model).input_ids) for record in some}
    latest = {record.rewrites[0].subject: first[record.case_id] for record in some}
    found: dict[tuple[int, ...], Any] = {}
    for record, kind, text, ids in asked(model, some):
        if router == "oracle":
            if kind in MEANT:
                found[ids] = first[record.case_id]
        else:
            found[ids] = next((ids for subject, ids in latest.items() if subject in text), None)
    return found


@contextmanager
def at_random_keys(model: tracer.Model, memory: Memory) -> Iterator[None]:
    """Context in which a memory's keys point elsewhere."""
    keys = memory.tensors["keys"]
    drawn = torch.randn(keys.shape, generator=torch.Generator().manual_seed(0))
    drawn = drawn / drawn.norm(dim=-1, keepdim=True) * keys.norm(dim=-1, keepdim=True)
    with remembering(model, [replace(memory, tensors={**memory.tensors, "keys": drawn.to(keys)})]):
        yield


@app.command()
def run(
    methods: str,
    count: Annotated[int, typer.Option(help="Records.")] = 100,
    batch: Annotated[bool, typer.Option(help="All in one edit instead of one after another.")] = False,
    published: Annotated[str, typer.Option(help="Constants of this model, by editing.published.")] = "",
    name: Annotated[str, typer.Option(help="Of the rows; the method's by default.")] = "",
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the method, as json.")] = None,
) -> None:
    """Measure methods on the embedded model."""
    torch.set_num_threads(1)
    model, some = tracer.load(), records(count)
    bare = ask_records(model, some, texts=False)
    pure = _milliseconds(model, some)
    RUNS.mkdir(parents=True, exist_ok=True)
    for method in methods.split(","):
        hparams = editing.published(method, published) if published else {}
        hparams |= {key: json.loads(value) for key, value in (each.split("=", 1) for each in option or ())}
        editor = editing.Editor(model)
        requests = [list(record.requests()) for record in some]
        failed = ""
        began = time.process_time()
        for each in [[one for some in requests for one in some]] if batch else requests:
            try:
                editor.edit(each, method, known="edit", check=None, **hparams)
            except tracer.TracerError as error:
                failed = failed or str(error)
        seconds = (time.process_time() - began) / count
        rows = []
        memory = next((each for each in model.memories if isinstance(each, Memory)), None)
        for router in ROUTERS:
            context: Any = nullcontext()
            if router != "own" and (memory is None or (router == "random keys" and "keys" not in memory.tensors)):
                continue
            if router == "random keys" and memory is not None:
                context = at_random_keys(model, memory)
            elif router in ("oracle", "string match") and memory is not None:
                context = directed(model, memory.name, as_the_edit(model, some, router))
            with context:
                answers = bare if router == "none" else ask_records(model, some, texts=False, before=bare)
            rows += _rows(name or method, "batch" if batch else "sequential", router, some, answers, bare)
        cost = {
            "seconds": seconds,
            "ms per question": _milliseconds(model, some),
            "ms per question, unedited": pure,
            "bytes per edit": (memory.nbytes if memory is not None else 0) / count,
        }
        head = {"method": name or method, "mode": "batch" if batch else "sequential", "router": "own"}
        rows += [{**head, "case_id": "", "subject": "", "metric": key, "value": value} for key, value in cost.items()]
        editor.checkout(0)
        path = RUNS / f"{name or method}-{head['mode']}-{count}.parquet"
        with replacing(path) as temporary:
            pd.DataFrame(rows).to_parquet(temporary, index=False)
        typer.echo(f"{name or method}: {seconds:.2f} s an edit; {failed}")


def _rows(
    method: str,
    mode: str,
    router: str,
    some: Sequence[EditRecord],
    answers: Sequence[CaseAnswers],
    bare: Sequence[CaseAnswers],
) -> list[dict[str, Any]]:
    rows = []
    for record, after, before in zip(some, answers, bare, strict=True):
        head = {"method": method, "mode": mode, "router": router}
        head |= {"case_id": record.case_id, "subject": record.rewrites[0].subject}
        values = case_metrics(record, after, before)
        rows += [{**head, "metric": one.metric, "value": one.value} for one in values if one.metric in SHOWN]
    return rows


def _milliseconds(model: tracer.Model, some: Sequence[EditRecord], count: int = 20) -> float:
    """Processor time of a question, asked one by one for its next token, in milliseconds."""
    prompts = [text for _, kind, text, _ in asked(model, some) if kind in ("rewrite", "neighbour")][:count]
    tracer.generate(model, prompts[:1], max_new_tokens=1)
    began = time.process_time()
    for prompt in prompts:
        tracer.generate(model, [prompt], max_new_tokens=1)
    return 1000 * (time.process_time() - began) / len(prompts)


@app.command()
def keep() -> None:
    """Write what was measured beside this file."""
    found = pd.concat([pd.read_parquet(path) for path in sorted(RUNS.glob("*.parquet"))], ignore_index=True)
    replace_rows(KEPT, found, by=("method", "mode"))


@app.command()
def table() -> None:
    """Means with 95 % intervals over subjects, in per cent; and costs."""
    print(rows().to_markdown(index=False))


def rows() -> pd.DataFrame:
    """The table, as text."""
    found = pd.read_parquet(KEPT).astype({"value": "float64"})
    lines = []
    for key, own in found.groupby(["method", "mode", "router"], sort=False):
        method, mode, router = map(str, key if isinstance(key, tuple) else (key,))
        line = {"method": method, "mode": mode, "router": router}
        for metric, title in SHOWN.items():
            values = own[own["metric"] == metric]
            if len(values):
                mean, low, high = (100 * float(each) for each in clustered_mean(values["value"], values["subject"]))
                line[title] = f"{mean:.0f}" if high - low < 0.5 else f"{mean:.0f} [{low:.0f}, {high:.0f}]"
            else:
                line[title] = ""
        costs = own[own["case_id"] == ""].set_index("metric")["value"]
        line["s an edit"] = f"{costs['seconds']:.2f}" if len(costs) else ""
        both = costs[["ms per question", "ms per question, unedited"]].tolist() if len(costs) else []
        line["ms more a question"] = f"{both[0] - both[1]:.1f}" if both else ""
        line["kB an edit"] = f"{costs['bytes per edit'] / 1e3:.1f}" if len(costs) else ""
        lines.append(line)
    return pd.DataFrame(lines)


if __name__ == "__main__":
    app()
