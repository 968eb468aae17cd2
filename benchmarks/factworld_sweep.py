"""What ten methods do to the embedded model: the measurements behind README's tables, notebook 06 and a figure.

    tracer sweep factworld --split test --draw 300 --methods rome,memit,alphaedit,emmet \\
        --modes single --controls --workers 2 --out alone.sqlite
    tracer sweep factworld --split test --draw 300 --methods rome,memit,alphaedit,emmet \\
        --modes batch,sequential --workers 2 --out many.sqlite
    tracer sweep factworld --split test --draw 300 --methods r_rome,pmet,ft_l,ft_m,lora,kn \\
        --modes batch,single,sequential --workers 2 --out others.sqlite
    python benchmarks/factworld_sweep.py alone.sqlite many.sqlite others.sqlite

takes hours, goes on where it was interrupted, and writes ``factworld_sweep.parquet`` beside this file: one row per case
and metric. Methods that none of the files has stay there as they were measured before. Without files, the tables are
printed from that.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from results import replace_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from editing.evaluation import Evaluation, join
from editing.report import as_markdown

KEPT = Path(__file__).with_name("factworld_sweep.parquet")
METHODS = ("unedited", "rome", "r_rome", "memit", "emmet", "alphaedit", "pmet", "ft_l", "ft_m", "lora", "kn")
METRICS = (
    "rewrite success",
    "paraphrase success",
    "neighbour success",
    *(
        f"{measure} ({how})"
        for measure in ("reliability", "generalisation", "locality")
        for how in ("forced", "generated")
    ),
    "same_subject generated",
    "portability (forced)",
    "portability (generated)",
    "kl drift",
    "edit norm",
)
COLUMNS = ("score S", "reliability", "generalisation", "locality", "other facts of the subject")


def main(
    runs: Annotated[list[Path] | None, typer.Argument(help="Files of runs over the same records.")] = None,
    controls: Annotated[bool, typer.Option(help="Also print random layers and directions.")] = False,
) -> None:
    if runs:
        keep(join([Evaluation.load(run) for run in runs]))
    print(as_markdown(kept(), columns=COLUMNS, controls=controls))


def keep(evaluation: Evaluation) -> None:
    """Write the metrics of ``METRICS``, methods in the order of ``METHODS``; those not measured now stay."""
    found = evaluation.metrics
    found = found[found["metric"].isin(METRICS) & found["method"].isin(METHODS)]
    replace_rows(KEPT, found, by=("method", "mode", "control"), order=METHODS)


def kept() -> Evaluation:
    """What is there of the measurements."""
    return Evaluation.of(metrics=pd.read_parquet(KEPT).astype({"value": "float64"}))


if __name__ == "__main__":
    typer.run(main)
