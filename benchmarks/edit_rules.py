"""How the defaults of edits were chosen: layers, contexts and stride on SmolLM2 135M, checked on Gemma 3 270M.

    python benchmarks/edit_rules.py run smollm2-135m rome '{"layers": [3]}' '{"layers": [3], "stride": 1.0}'
    python benchmarks/edit_rules.py table

Each setting edits the first CounterFact records whose true answer the model gives by itself, one at a time, and is a
row of ``benchmarks/real/edit_rules.csv``, which ``figures/edit_rules.py`` draws. TRACER_DATA names the folder with the
records and the text for covariances.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from real_edits import TEXT, records

import editing
import tracer
from editing.datasets import EditRecord
from editing.edits.weights import applied
from editing.questions.target_scores import target_log_probs
from tracer.engine.answer import own_answer
from tracer.model.soundness import perplexity

KEPT = Path(__file__).parent / "real" / "edit_rules.csv"
TOKENS = 60_000
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


def measure(model: tracer.Model, record: EditRecord) -> dict[str, float]:
    """Of one record, as the model is: success (ES, PS, NS), the new answer's probability, and whether it is said."""
    one = record.requests()[0]
    asked = {"rewrite": [one.text], "paraphrase": [], "neighbour": []}
    for ask in (ask for ask in record.asks if ask.kind in asked):
        asked[ask.kind].append(ask.prompt)
    prompts = [prompt for own in asked.values() for prompt in own]
    likely = [target_log_probs(model, prompts, str(target)) for target in (one.target_new, one.target_true)]
    new, true = (torch.as_tensor(found.means) for found in likely)
    wins = (new > true).double().split([len(own) for own in asked.values()])
    said = own_answer(model, one.fact)
    return {
        "success": float(wins[0].mean()),
        "probability": float(new[0].exp()),
        "said": float(tuple(said) == tuple(one.fact.align(model).target_ids)),
        "paraphrase success": float(wins[1].mean()),
        "neighbour success": float(1 - wins[2].mean()),
        "perplexity": perplexity(model),
    }


@app.command()
def run(
    model: str,
    method: str,
    settings: Annotated[list[str], typer.Argument(help="Hyper-parameters as JSON.")],
    count: int = 8,
) -> None:
    """Measure settings of a method, and add a row for each."""
    loaded = tracer.load(model).pinned()
    some = records(loaded, count)
    before = pd.DataFrame([measure(loaded, record) for record in some])
    for text in settings:
        options: dict[str, Any] = json.loads(text)
        file = Path(os.environ["TRACER_DATA"]) / TEXT
        covariance = editing.estimate_covariance(loaded, options["layers"], text=file, max_tokens=TOKENS)
        began = time.process_time()
        edits = editing.compute_edits(
            loaded,
            [record.requests() for record in some],
            method,
            covariance=covariance,
            known="edit",
            check=None,
            **options,
        )
        seconds = (time.process_time() - began) / count
        after = []
        for record, edit in zip(some, edits, strict=True):
            with applied(loaded, edit.factors):
                after.append(measure(loaded, record))
        losses = [edit.evidence["loss"][..., 0] for edit in edits if edit.evidence]
        row = {"model": model, "method": method, "settings": json.dumps(options), "records": count}
        row |= {name: float(np.mean([each[name] for each in after])) for name in before.columns}
        row["perplexity"] = float(np.median([each["perplexity"] for each in after]))
        row["most perplexity"] = max(each["perplexity"] for each in after)
        row |= {f"{name} before": before[name].mean() for name in ("neighbour success", "perplexity")}
        row |= {"steps": float(np.mean([int((~loss.isnan()).sum()) for loss in losses])), "processor seconds": seconds}
        earlier = [pd.read_csv(KEPT)] if KEPT.exists() else []
        pd.concat([*earlier, pd.DataFrame([row])]).to_csv(KEPT, index=False, float_format="%.4g")
        print(row, flush=True)


@app.command()
def table() -> None:
    """What has been measured."""
    print(pd.read_csv(KEPT).to_markdown(index=False))


if __name__ == "__main__":
    app()
