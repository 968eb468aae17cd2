"""Questions of several hops, with the edits in a memory: taken apart by a script, asked in one, and by MeLLo's loop.

    python benchmarks/hops.py factworld --count 53
    python benchmarks/hops.py smollm2-135m --count 60 --routers string,nearest,states
    python benchmarks/hops.py smollm2-135m --count 20 --loop examples.txt

FactWorld: a city that was edited, and its country. Other models: MQuAKE-hard's four hops, every one of them edited, of
records whose edits do not contradict one another; all edits of all records are in the memory. "target" puts the target
of the edit that is found in the place of the answer; "text" puts the edit in front of the hop, for the model to read.
The loop is MeLLo's own, with the examples of a file in its format.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from memory_tables import share
from routed_records import records

import editing
import tracer
from editing.memories import Memory, attached
from editing.multihop import accuracy, chain_of, consistent, finder, mello, overriding, saying, writer
from editing.questions.match import says
from tracer import Model

EMBEDDED, CITY = "factworld", "{} is a city in"
MQUAKE, COUNTERFACT = "mquake/MQuAKE-hard.json", "counterfact/counterfact-edit.json"
PREPARED = 60  # records of CounterFact that routers are measured on
TOKENS = 8
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


def chosen(model: Model, count: int) -> tuple[list[Any], list[Any], list[tuple[str, Sequence[Any]]]]:
    """Records, chains, and each record's question in one with its answers."""
    if model.name == EMBEDDED:
        some = [record for record in records(10_000) if any(one.kind == "one_hop" for one in record.asks)][:count]
        chains = [chain_of(record, CITY) for record in some]
        asked = [next(one for one in record.asks if one.kind == "one_hop") for record in some]
    else:
        path = Path(os.environ["TRACER_DATA"]) / MQUAKE
        some = consistent(editing.load_records(path, strict=False))[:count]
        chains = [chain_of(record) for record in some]
        asked = [next(one for one in record.asks if one.kind == "multi_hop") for record in some]
    return some, [chain for chain in chains if chain is not None], [(one.prompt, one.answers) for one in asked]


def prepared(model: Model) -> Any:
    """What IKE is prepared with; the embedded model has only its routers."""
    if model.name == EMBEDDED:
        return editing.prepare(model, "ike", editing.load_records("factworld", split="train")[:200])
    path = Path(os.environ["TRACER_DATA"]) / COUNTERFACT
    return editing.prepare(model, "ike", editing.load_records(path)[:PREPARED], entries=PREPARED // 2)


def memory_of(model: Model, some: Sequence[Any], router: str, made: Any) -> Memory:
    """All edits as bare texts, found by a router."""
    requests = [request for record in some for request in record.requests()]
    given: dict[str, Any] = {"variant": "bare", "router": router, "prepared": made, "known": "edit", "check": None}
    found = editing.compute_edit(model, requests, "ike", **given).memories[0].on(None)
    assert found is not None
    return found


@app.command()
def main(
    name: str,
    count: Annotated[int, typer.Option(help="Questions.")] = 53,
    routers: str = "string,nearest,states",
    loop: Annotated[Path | None, typer.Option(help="Examples of the task, for MeLLo's loop.")] = None,
    turns: int = 5,
) -> None:
    """Shares of questions that are answered right, in per cent, with 95 % intervals."""
    torch.set_num_threads(1)
    model = tracer.load(None if name == EMBEDDED else name)
    some, chains, asked = chosen(model, count)
    edits = sum(len(record.requests()) for record in some)
    typer.echo(f"{len(chains)} questions of {len(chains[0].hops)} hops, {edits} edits")
    made = prepared(model)
    if loop is not None:
        memory, examples = memory_of(model, some, "nearest", made), loop.read_text(encoding="utf-8")
        facts = [entry["prompt"] + entry["target"] for entry in memory.acts.entries(memory)]
        write, find = writer(model), finder(model, memory)
        dialogues = [mello(write, find, facts, question, examples, turns) for question, _ in asked]
        right = [one.answer is not None and says(one.answer, own[1]) for one, own in zip(dialogues, asked, strict=True)]
        ended = sum(one.answer is not None for one in dialogues)
        typer.echo(f"MeLLo's loop: {_told(right)}; {ended} of {len(asked)} came to a final answer")
        return
    rows = [{"router": "", "way": "unedited", "right": _told(accuracy(chains, saying(model, TOKENS))["right"])}]
    for router in routers.split(","):
        memory = memory_of(model, some, router, made)
        found = accuracy(chains, overriding(model, memory, TOKENS))["right"]
        rows.append({"router": router, "way": "target", "right": _told(found)})
        with attached(model, memory):
            found = accuracy(chains, saying(model, TOKENS))["right"]
            rows.append({"router": router, "way": "text", "right": _told(found)})
            said = tracer.generate(model, [prompt for prompt, _ in asked], max_new_tokens=TOKENS)
        found = [says(text, answers) for text, (_, answers) in zip(said, asked, strict=True)]
        rows.append({"router": router, "way": "asked in one", "right": _told(found)})
        typer.echo(pd.DataFrame(rows[-3:]).to_string(index=False, header=False))
    typer.echo(pd.DataFrame(rows).to_markdown(index=False))


def _told(right: Any) -> str:
    every: Any = pd.DataFrame({"value": [float(each) for each in right], "subject": range(len(right))})
    return share(every)


if __name__ == "__main__":
    app()
