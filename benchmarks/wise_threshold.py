"""Where WISE's threshold should lie: the scores that an edit's own route gives to questions about it, and to others.

    python benchmarks/wise_threshold.py --records 120
    python benchmarks/wise_threshold.py --model smollm2-135m --records 60

The score of a question is what the edit's whitened key gives at its last token, 1 at the edit's own prompt. A
row for each threshold: the shares of questions of each kind that it would route to an edit that stands alone. Records
are FactWorld's test records; of other models, those of ``memories.py``.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from memory_records import ALONE, EMBEDDED, records

import tracer
from editing.covariance.states import states_over_text
from editing.memories.wise import SITES
from editing.methods.wise.keys import Whitening
from editing.methods.wise.settings import WISESettings
from tracer import Fact
from tracer.engine.prompt_states import prompt_states
from tracer.progress import track

KINDS = {"paraphrase": "paraphrases", ALONE: "without the sentence before", "neighbour": "neighbours"}
KINDS |= {"same_subject": "other facts of the subject"}
THRESHOLDS = np.arange(0.2, 0.95, 0.05)


def main(
    model: Annotated[str, typer.Option(help="Its name; the embedded one by default.")] = EMBEDDED,
    count: Annotated[int, typer.Option("--records", help="Of the model's set.")] = 60,
    layer: Annotated[int, typer.Option(help="Of the projection; -1: the last.")] = -1,
) -> None:
    """Print the table as Markdown."""
    torch.set_num_threads(1)
    loaded, settings = tracer.load(None if model == EMBEDDED else model), WISESettings()
    at, read = layer % loaded.n_layers, SITES[settings.site][0]
    whitening = Whitening.of(states_over_text(loaded, at, settings.tokens, kind=read), settings.damping)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for record in track(records(loaded, count), "records"):
        asks = [ask for ask in record.asks if ask.kind in KINDS]
        texts = [record.requests()[0].text, *(ask.prompt for ask in asks)]
        prompts = [tuple(Fact(text, text).align(loaded).input_ids) for text in texts]
        states = prompt_states(loaded, prompts, [(read, at)])[read, at].double().cpu()
        route = whitening.solve(states[:1].T)[:, 0]
        scores = states @ route / (states[0] @ route)
        for ask, score in zip(asks, scores[1:].tolist(), strict=True):
            found[ask.kind].append(score)
    rows = [
        {"threshold": f"{threshold:.2f}"}
        | {title: f"{np.mean(np.array(found[kind]) >= threshold):.1%}" for kind, title in KINDS.items() if found[kind]}
        for threshold in THRESHOLDS
    ]
    typer.echo(f"{model}, layer {at}, {count} records: " + ", ".join(f"{len(found[k])} {t}" for k, t in KINDS.items()))
    typer.echo(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    typer.run(main)
