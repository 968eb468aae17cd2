"""Editors that keep the weights, side by side: what they say, when they say it, and what it costs.

    python benchmarks/memories.py run grace,melo,serac,wise,t_patcher,calinet     # into runs/memories, a file for each
    python benchmarks/memories.py run grace,t_patcher --mode batch
    python benchmarks/memories.py run grace,melo --model smollm2-135m --mode single --count 60
    python benchmarks/memories.py keep                               # all of it, into memories.parquet beside this file
    python benchmarks/memory_tables.py routers                       # tables, as Markdown
    python benchmarks/memory_tables.py modes

FactWorld's 300 test records of the other tables, or so many of them; of other models, CounterFact's records of
``real_edits.py``. One after another ("sequential") or in one edit ("batch"), every record is asked again with all of
them in place; "single" asks each with its own edit alone. Five routers decide on which prompts a memory acts: its own;
an oracle, which lets the edited prompt, its paraphrases and aliases be answered as the edited prompt is, and nothing
else; a match of strings, by which every prompt that names an edited subject is answered so; none, which is the unedited
model; and "random keys", keys of the same lengths in random directions, with the values of the edits. What a memory
stays out of has the bits of the unedited model, and is not asked again.

Alone, a sweep is quicker, since it shares what edits need:

    tracer sweep factworld --split test --draw 300 --methods grace,serac --modes single \\
        --option canary_tokens=0 --option answer_cases=0 --out alone.sqlite
    python benchmarks/memories.py keep alone.sqlite
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import pandas as pd
import torch
import typer
from memory_records import ALONE, EMBEDDED, records
from memory_tables import ALONE_HIT, AT_ONCE, BEHIND_HIT, KEPT, SHOWN, UNCHANGED
from results import replace_rows

import editing
import tracer
from editing.datasets import EditRecord
from editing.evaluation import Evaluation
from editing.health.drift import Drift
from editing.memories import Memory, directed
from editing.methods.context import EditContext
from editing.questions.answer import CaseAnswers
from editing.questions.asking_records import ask_records
from editing.questions.metrics import case_metrics
from editing.questions.negation import KIND, denied
from editing.questions.question import MEASURES
from editing.questions.routing import routes_of
from tracer.engine.memories import acting, deciding_once, remembering
from tracer.facts.fact import SLOT, Fact
from tracer.plots.export import replacing
from tracer.progress import track

HERE = Path(__file__).parent
RUNS = Path("runs") / "memories"
MEANT = ("rewrite", "paraphrase", "subject_alias", ALONE)
ROUTERS = ("own", "oracle", "string match", "none", "random keys")
KEYS = ("keys", "centres", "routes")  # names of what is compared with a prompt's state, by kind
FIRST, PREPARED = 200, 60  # records that SERAC is prepared with, of a real model
KEPT_METRICS = (
    *SHOWN,
    f"{ALONE} generated",
    "reliability (forced)",
    "generalisation (forced)",
    "locality (forced)",
    "neighbour generated",
)
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


# --- routers ---------------------------------------------------------------------------------------------------------
def prompts_of(model: tracer.Model, record: EditRecord) -> list[tuple[str, str, tuple[int, ...]]]:
    """Every prompt of a record: its kind, text and tokens; rewrites denied are of the kind "negation", at the end."""
    texts = [(one.kind, one.prompt) for one in record.questions()]
    texts += [(KIND, text) for request in record.requests() if (text := denied(request)) is not None]
    return [(kind, text, tuple(Fact(SLOT, text).align(model).input_ids)) for kind, text in texts]


def as_the_edit(model: tracer.Model, some: Sequence[EditRecord], router: str) -> dict[tuple[int, ...], Any]:
    """For each prompt, the edited prompt that it is answered as, or None."""
    first = {record.case_id: tuple(record.requests()[0].fact.align(model).input_ids) for record in some}
    latest = {record.rewrites[0].subject: first[record.case_id] for record in some}
    found: dict[tuple[int, ...], Any] = {}
    for record in some:
        for kind, text, ids in prompts_of(model, record):
            if router != "oracle":
                found[ids] = next((own for subject, own in latest.items() if subject in text), None)
            elif kind in MEANT:
                found[ids] = first[record.case_id]
    return found


def routed(
    model: tracer.Model, router: str, memory: Memory, some: Sequence[EditRecord]
) -> AbstractContextManager[Any] | None:
    """Context in which a router decides, or None where the memory has no keys to be drawn."""
    if router in ("oracle", "string match"):
        return directed(model, memory.name, as_the_edit(model, some, router))
    if router != "random keys":
        return nullcontext()
    name = next((name for name in KEYS if name in memory.tensors), None)
    if name is None:
        return None
    keys = memory.tensors[name].float()
    drawn = torch.randn(keys.shape, generator=torch.Generator().manual_seed(0))
    drawn = drawn / drawn.norm(dim=-1, keepdim=True) * keys.norm(dim=-1, keepdim=True)
    return remembering(model, [replace(memory, tensors={**memory.tensors, name: drawn.to(memory.tensors[name])})])


def answers_of(
    model: tracer.Model, some: Sequence[EditRecord], bare: Sequence[CaseAnswers]
) -> Iterator[tuple[EditRecord, CaseAnswers, CaseAnswers]]:
    """Each record, its answers now and before; only those questions are asked again on which a memory acts."""
    with deciding_once(model):
        prompts = [prompts_of(model, record) for record in some]
        every = [ids for own in prompts for _, _, ids in own]
        acts, routes = iter(acting(model, every)), iter(routes_of(model, every))
        left, before, places = [], [], []
        for record, own, old in zip(some, prompts, bare, strict=True):
            asked, number = [next(acts) for _ in own], len(record.rewrites)
            kept = [place for place, (kind, _, _) in enumerate(own) if asked[place] or kind in ("rewrite", KIND)]
            asks = tuple(ask for place, ask in enumerate(record.asks, number) if asked[place])
            left.append(record.model_copy(update={"asks": asks}))
            before.append(replace(old, answers=tuple(old.answers[place] for place in kept)))
            places.append(kept)
        found = ask_records(model, left, texts=False, before=before)
    for record, own, old, new, kept in zip(some, prompts, bare, found, places, strict=True):
        answers = list(old.answers)
        for place, answer in zip(kept, new.answers, strict=True):
            answers[place] = answer
        told = [replace(answer, routes=next(routes)) for answer, _ in zip(answers, own, strict=True)]
        yield record, replace(old, answers=tuple(told)), old


# --- measuring -------------------------------------------------------------------------------------------------------
@app.command()
def run(
    methods: str,
    model: Annotated[str, typer.Option(help="Name of the model; the embedded one by default.")] = EMBEDDED,
    mode: Literal["sequential", "batch", "single"] = "sequential",
    count: Annotated[int, typer.Option(help="Records.")] = 300,
    asked: Annotated[int, typer.Option(help="Records that are asked, of these; all by default.")] = 0,
    only: Annotated[str, typer.Option(help="Routers, with commas between; all by default.")] = ",".join(ROUTERS),
    published: Annotated[str, typer.Option(help="Constants of this model, by editing.published.")] = "",
    name: Annotated[str, typer.Option(help="Of the rows; the method's by default.")] = "",
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the method, as json.")] = None,
) -> None:
    """Measure methods; one whose file is there is left out."""
    torch.set_num_threads(1)
    loaded = tracer.load(None if model == EMBEDDED else model)
    some = records(loaded, count)
    chosen = sorted(Random(2).sample(range(len(some)), asked)) if asked else list(range(len(some)))
    bare = ask_records(loaded, [some[place] for place in chosen], texts=False)
    pure = _milliseconds(loaded, some)
    drift = Drift.recorded(loaded)
    RUNS.mkdir(parents=True, exist_ok=True)
    for method in methods.split(","):
        path = RUNS / f"{loaded.name}-{name or method}-{mode}-{count}.parquet"
        if path.exists():
            continue
        given: dict[str, Any] = dict(editing.published(method, published)) if published else {}
        given |= {key: json.loads(value) for key, value in (each.split("=", 1) for each in option or ())}
        given |= {"known": "edit", "check": None}
        if method == "serac" and model != EMBEDDED:
            given["prepared"] = editing.prepare(loaded, method, records(loaded, PREPARED, FIRST), answers="self")
            typer.echo(f"serac: {given['prepared'].note}")
        measure = _alone if mode == "single" else _together
        found, costs, failed = measure(loaded, some, chosen, bare, method, mode, only.split(","), drift, given)
        head = {"model": loaded.name, "method": name or method, "mode": mode}
        costs["ms per question, unedited"] = pure
        rows = [{**head, **row} for row in found]
        blank = {"router": "own", "case_id": "", "subject": ""}
        rows += [{**head, **blank, "metric": key, "value": value} for key, value in costs.items()]
        with replacing(path) as temporary:
            pd.DataFrame(rows).to_parquet(temporary, index=False)
        typer.echo(f"{name or method}, {mode}: {costs['seconds']:.2f} s an edit; {failed}")


def _together(
    model: tracer.Model,
    some: Sequence[EditRecord],
    chosen: Sequence[int],
    bare: Sequence[CaseAnswers],
    method: str,
    mode: str,
    routers: Sequence[str],
    drift: Drift,
    given: dict[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, float], str]:
    """Rows, costs and the first failure of edits that are all in place at the end."""
    editor, failed, seconds, rows = editing.Editor(model), "", 0.0, []
    requests = [list(record.requests()) for record in some]
    groups = [[one for each in requests for one in each]] if mode == "batch" else requests
    for place, group in enumerate(track(groups, f"{method}, {mode}", len(groups))):
        began = time.process_time()
        try:
            editor.edit(group, method, **given)
        except tracer.TracerError as error:
            failed = failed or str(error)
        seconds += time.process_time() - began
        if mode == "sequential" and place in chosen and model.name == EMBEDDED:
            rewrite = some[place].model_copy(update={"asks": ()})
            said = ask_records(model, [rewrite], texts=False)[0].answers[0].match
            rows.append({**_head(some[place], "own"), "metric": AT_ONCE, "value": said})
    memory = next(each for each in model.memories if isinstance(each, Memory))
    again = [some[place] for place in chosen]
    for router in routers:
        context = routed(model, router, memory, some)
        if context is None:
            continue
        with context:
            told = zip(again, bare, bare, strict=True) if router == "none" else answers_of(model, again, bare)
            rows += [row for case in told for row in _rows(router, *case)]
    drifted = drift.read(model)
    costs = {
        "seconds": seconds / len(some),
        "ms per question": _milliseconds(model, some),
        "bytes per edit": memory.nbytes / len(some),
        "bytes compared": _compared(memory),
        "kl drift": drifted.kl,
        "false alarms (text)": drifted.hits,
    }
    editor.checkout(0)
    return rows, costs, failed


def _alone(
    model: tracer.Model,
    some: Sequence[EditRecord],
    chosen: Sequence[int],
    bare: Sequence[CaseAnswers],
    method: str,
    mode: str,
    routers: Sequence[str],
    drift: Drift,
    given: dict[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, float], str]:
    """Rows, costs and the first failure of edits that are in place one at a time; costs are of the last one."""
    rows, failed, seconds, sizes = [], "", 0.0, []
    costs: dict[str, float] = {}
    context = EditContext(model)
    for place, record in enumerate(track([some[place] for place in chosen], f"{method}, {mode}", len(chosen))):
        began = time.process_time()
        try:
            (edit,) = editing.compute_edits(model, [list(record.requests())], method, context=context, **given)
        except tracer.TracerError as error:
            failed = failed or str(error)
            continue
        seconds += time.process_time() - began
        own = [record], [bare[place]]
        with edit.applied(model):
            memory = next(each for each in model.memories if isinstance(each, Memory))
            sizes.append(memory.nbytes)
            for router in routers:
                way = routed(model, router, memory, [record])
                if way is None:
                    continue
                with way:
                    told = zip(*own, [bare[place]], strict=True) if router == "none" else answers_of(model, *own)
                    rows += [row for case in told for row in _rows(router, *case)]
            if place + 1 == len(chosen):
                drifted = drift.read(model)
                costs |= {"ms per question": _milliseconds(model, some), "bytes compared": _compared(memory)}
                costs |= {"kl drift": drifted.kl, "false alarms (text)": drifted.hits}
    costs |= {"seconds": seconds / len(chosen), "bytes per edit": sum(sizes) / max(1, len(sizes))}
    return rows, costs, failed


def _head(record: EditRecord, router: str) -> dict[str, Any]:
    return {"router": router, "case_id": record.case_id, "subject": record.rewrites[0].subject}


def _rows(router: str, record: EditRecord, after: CaseAnswers, before: CaseAnswers) -> list[dict[str, Any]]:
    values = case_metrics(record, after, before)
    head = _head(record, router)
    rows = [{**head, "metric": one.metric, "value": one.value} for one in values if one.metric in KEPT_METRICS]
    pairs = [pair for pair in zip(after.answers, before.answers, strict=True) if pair[0].kind in MEASURES["locality"]]
    same = [one.generated == other.generated for one, other in pairs]
    told = {UNCHANGED: sum(same) / len(same)} if same else {}
    for kind, name in ((ALONE, ALONE_HIT), ("paraphrase", BEHIND_HIT)):
        hits = [route.hit for one in after.answers if one.kind == kind for route in one.routes]
        told |= {name: sum(hits) / len(hits)} if hits else {}
    return [*rows, *({**head, "metric": name, "value": value} for name, value in told.items())]


def _compared(memory: Memory) -> float:
    """Bytes that a question is compared with."""
    keys = memory.acts.keys(memory)
    return float("nan") if keys is None else float(keys.nbytes)


def _milliseconds(model: tracer.Model, some: Sequence[EditRecord], count: int = 20) -> float:
    """Processor time of a question, asked one by one for its next token, in milliseconds."""
    every = [one for record in some[:count] for one in record.questions()]
    prompts = [one.prompt for one in every if one.kind in ("rewrite", "neighbour")][:count]
    tracer.generate(model, prompts[:1], max_new_tokens=1)
    began = time.process_time()
    for prompt in prompts:
        tracer.generate(model, [prompt], max_new_tokens=1)
    return 1000 * (time.process_time() - began) / len(prompts)


@app.command()
def keep(
    sweeps: Annotated[list[Path] | None, typer.Argument(help="Runs of `tracer sweep` over edits alone.")] = None,
) -> None:
    """Write what was measured beside this file."""
    found = [pd.read_parquet(path) for path in sorted(RUNS.glob("*.parquet"))]
    for path in sweeps or ():
        rows: Any = Evaluation.load(path).metrics
        rows = rows[rows["metric"].isin(KEPT_METRICS) & (rows["control"] == "") & (rows["mode"] == "single")]
        found.append(rows.assign(model=EMBEDDED, router="own")[list(found[0].columns)])
    replace_rows(KEPT, pd.concat(found, ignore_index=True), by=("model", "method", "mode"))


if __name__ == "__main__":
    app()
