"""Records that editors which keep the weights are asked about: FactWorld's, and CounterFact's of other models."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from real_edits import ASKED, FILE, OTHER

import editing
import tracer
from editing.datasets import EditRecord

EMBEDDED = "factworld"
ALONE = "logical_generalisation"  # of real records: a paraphrase without the sentence before it


def records(model: tracer.Model, count: int, start: int = 0) -> list[EditRecord]:
    """So many of the 300 test records of the other tables, in their order; of other models those of CounterFact."""
    if model.name != EMBEDDED:
        return real_records(start, count)
    every = editing.load_records("factworld", split="test")
    drawn = [every[i] for i in sorted(Random(0).sample(range(len(every)), 300))]
    return [drawn[i] for i in sorted(Random(1).sample(range(300), min(count, 300)))]


def real_records(start: int, count: int) -> list[EditRecord]:
    """Records of CounterFact with three neighbours and another fact of the subject.

    Its paraphrases stand behind an unrelated sentence; each is there without it too, as the kind "logical
    generalisation", so that the two are counted apart.
    """
    folder = Path(os.environ["TRACER_DATA"])
    some = editing.load_records(folder / FILE)[start : start + count]
    further = {record.case_id: record.asks for record in editing.load_records(folder / OTHER)}
    found = []
    for record in some:
        subject, by = record.rewrites[0].subject, {kind: [] for kind in (*ASKED, ALONE)}
        for ask in (*record.asks, *further.get(record.case_id, ())):
            if ask.kind in ASKED:
                by[ask.kind].append(ask)
            alone = ask.prompt.rsplit(". ", 1)[-1]
            if ask.kind == "paraphrase" and subject in alone != ask.prompt:
                by[ALONE].append(ask.model_copy(update={"kind": ALONE, "prompt": alone}))
        asks = (*by["paraphrase"], *by[ALONE], *by["neighbour"][:3], *by["same_subject"][:1])
        found.append(record.model_copy(update={"asks": asks, "generate": ()}))
    return found
