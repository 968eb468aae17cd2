"""Edits as texts in front of questions: IKE and the bare fact, routed and by an oracle, each edit alone.

    python benchmarks/in_context.py factworld factworld --learnt 200 --count 40
    python benchmarks/in_context.py smollm2-135m counterfact-edit.json --learnt 60 --count 20 --demonstrations 8

The first so many records are demonstrated with and set the router; those that are edited come behind them, and share no
subject with them. `right` is the new target where that is wanted, or what the unedited model says where it is not;
`probable`, that the new target is more probable than the old one, or less where it should be (Meng et al. 2022).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

import editing
import tracer
from editing.memories import attached, directed
from editing.questions.match import says
from tracer import Fact, Model
from tracer.engine import Line
from tracer.engine.follow import follow
from tracer.facts.spacing import spaced

KINDS = ("rewrite", "paraphrase", "neighbour")
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


def found(records: str) -> Any:
    file = Path(os.environ.get("TRACER_DATA", ".")) / "counterfact" / records
    return editing.load_records("factworld", split="train") if records == "factworld" else editing.load_records(file)


def likelier(model: Model, prompt: str, new: str, true: str) -> bool:
    """Whether the new target is more probable than the old one, per token."""
    ids = tuple(Fact("{}", prompt).align(model).input_ids)
    targets = tuple(
        tuple(Fact("{}", prompt, spaced(prompt, each.strip())).align(model).target_ids) for each in (new, true)
    )
    (one,) = follow(model, [Line(ids, targets)])
    return bool(np.mean(one.log_probs[0]) > np.mean(one.log_probs[1]))


def rows(
    model: Model, asked: list[Any], record: Any, head: dict[str, Any], before: dict[str, str]
) -> list[dict[str, Any]]:
    request, said = record.requests()[0], []
    texts = tracer.generate(model, [one.prompt for one in asked], max_new_tokens=6)
    for one, text in zip(asked, texts, strict=True):
        likely = likelier(model, one.prompt, request.target_new, request.target_true or "")
        right = says(text, one.answers) if one.wants_new else text == before[one.prompt]
        said.append({**head, "kind": one.kind, "right": right, "probable": likely == one.wants_new})
    return said


@app.command()
def main(
    name: str,
    records: str,
    learnt: Annotated[int, typer.Option(help="Records that are demonstrated with.")] = 60,
    count: Annotated[int, typer.Option(help="Records that are edited.")] = 20,
    demonstrations: Annotated[int | None, typer.Option(help="At most; 32 by default.")] = None,
) -> None:
    """Measure IKE and its controls on a model."""
    torch.set_num_threads(1)
    model, every = tracer.load(None if name == "factworld" else name), found(records)
    first = every[:learnt]
    subjects = {record.rewrites[0].subject for record in first}
    rest = editing.load_records("factworld", split="test") if records == "factworld" else every[learnt:]
    some = [record for record in rest if record.rewrites[0].subject not in subjects][:count]
    began = time.process_time()
    prepared = editing.prepare(model, "ike", first, entries=learnt // 2)
    best = prepared.header["measured"]["states"]
    layer = prepared.header["routers"]["states"]["settings"]["layer"]
    told = {key: round(value, 3) for key, value in best.items()}
    print(f"prepared in {time.process_time() - began:.0f} s: layer {layer} of {model.n_layers}, {told}", flush=True)
    shares = {key: round(value, 3) for key, value in prepared.header["measured"]["overlap"].items()}
    print(f"shared tokens: {shares}", flush=True)
    table: list[dict[str, Any]] = []
    for record in some:
        kinds = [next((one for one in record.questions() if one.kind == kind), None) for kind in KINDS]
        asked = [one for one in kinds if one is not None]
        texts = [one.prompt for one in asked]
        before = dict(zip(texts, tracer.generate(model, texts, max_new_tokens=6), strict=True))
        table += rows(model, asked, record, {"edit": "none", "router": ""}, before)
        for variant in ("bare", "original"):
            count_of = {"demonstrations": demonstrations} if variant == "original" else {}
            more: dict[str, Any] = {"prepared": prepared, "known": "edit", "check": None, **count_of}
            edit = editing.compute_edit(model, list(record.requests()), "ike", variant=variant, **more)
            memory = edit.memories[0].on(None)
            assert memory is not None
            ids = [tuple(Fact("{}", one.prompt).align(model).input_ids) for one in asked]
            routes = memory.routes(model, ids)
            with attached(model, memory):
                own = rows(model, asked, record, {"edit": variant, "router": "states"}, before)
                like = {each: ids[0] for each, one in zip(ids, asked, strict=True) if one.wants_new}
                with directed(model, memory.name, like):
                    table += rows(model, asked, record, {"edit": variant, "router": "oracle"}, before)
            table += [{**row, "routed": route.hit} for row, route in zip(own, routes, strict=True)]
            if variant == "original" and record is some[0]:
                print(f"{edit.note or 'all demonstrations fit'}", flush=True)
    frame = pd.DataFrame(table)
    frame["routed"] = pd.to_numeric(frame["routed"], errors="coerce")
    means: Any = frame.groupby(["edit", "router", "kind"], sort=False)[["right", "probable", "routed"]].mean()
    print((100 * means).round(1))


if __name__ == "__main__":
    app()
