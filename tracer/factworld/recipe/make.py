"""Make what follows from the trained model: `python -m tracer.factworld.recipe.make`.

It writes `data/records.json.gz` and `data/held_out.txt`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Annotated

import typer

from tracer.factworld import aliases, statements, training_text
from tracer.factworld.grammar import PHRASINGS, fill
from tracer.factworld.records import make_records
from tracer.model import load

from .evaluate import decodes_exactly


def main(
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path("tracer/factworld/data"),
    count: Annotated[int, typer.Option(help="how many records")] = 1500,
    seed: Annotated[int, typer.Option(help="seed of the draw")] = 0,
) -> None:
    """Write the edit records and the held-out text."""
    told = statements()
    asked = [(fill(PHRASINGS[s.relation].train[0], s.subject), s.object) for s in told]
    asked += [(fill(PHRASINGS[s.relation].held_out[0], s.subject), s.object) for s in told]
    right = decodes_exactly(load(), asked)
    known = [s for i, s in enumerate(told) if right[i] and right[i + len(told)]]
    made = make_records(known, aliases(), count=count, seed=seed)
    text = json.dumps(made, ensure_ascii=False, indent=0) + "\n"
    (out / "records.json.gz").write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))
    (out / "held_out.txt").write_text(training_text(600, seed=20_000 + seed) + "\n", encoding="utf-8")
    typer.echo(f"{len(made)} records from {len(known)} of {len(told)} facts")


if __name__ == "__main__":
    typer.run(main)
