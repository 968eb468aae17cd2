"""What edits do to the embedded model: efficacy, paraphrases, neighbours and the subject's other facts, by method.

    python benchmarks/factworld_edits.py single --methods rome,r_rome --count 200
    python benchmarks/factworld_edits.py batch --methods memit,alphaedit,emmet --count 100
    python benchmarks/factworld_edits.py single --methods rome --set layers=3 --set kl_factor=1

``single`` makes every edit alone on the model as it was, ``batch`` all of them at once, no subject twice (with
``--repeated`` as drawn). Shares are of prompts, with a 95 % interval from resampling records: ES and PS, where the new
object is more probable per token than the true one (the rewrite, and wordings never trained); NS, where it is not, for
other subjects with the same object; greedy, where decoding gives the new object of the rewrite exactly; other facts,
which of the subject's other facts decoding still gives.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tracer
from editing.cli.hparams import read
from editing.compute import compute_edits, method_named
from editing.edit import Edit
from editing.request import EditWarning
from editing.scores import target_log_probs
from editing.weights import applied
from tracer.factworld.evaluate import decodes_exactly
from tracer.progress import track

COLUMNS = ("ES", "PS", "NS", "greedy", "other facts")
Scores = dict[str, list[float]]


def scored(model: tracer.Model, records: list[dict[str, Any]]) -> list[Scores]:
    """Per record the outcome of every prompt, by column."""
    asked: list[tuple[int, str, str, str, str]] = []
    for place, record in enumerate(records):
        rewrite = record["requested_rewrite"]
        new, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
        texts = {"ES": [rewrite["prompt"].replace("{}", rewrite["subject"])]}
        texts |= {"PS": record["paraphrase_prompts"], "NS": record["neighborhood_prompts"]}
        asked += [(place, column, text, new, true) for column, prompts in texts.items() for text in prompts]
    prompts = [text for _, _, text, _, _ in asked]
    both = target_log_probs(model, [*prompts, *prompts], [a[3] for a in asked] + [a[4] for a in asked]).means
    found: list[Scores] = [{column: [] for column in COLUMNS} for _ in records]
    for (place, column, *_), new, true in zip(asked, both[: len(asked)], both[len(asked) :], strict=True):
        found[place][column].append(float(true > new if column == "NS" else new > true))
    rewrites = [(a[2], a[3]) for a in asked if a[1] == "ES"]
    for own, right in zip(found, decodes_exactly(model, rewrites), strict=True):
        own["greedy"].append(float(right))
    others = [(p, o["prompt"], o["target"]) for p, r in enumerate(records) for o in r["same_subject_prompts"]]
    if others:
        for (place, *_), right in zip(others, decodes_exactly(model, [o[1:] for o in others]), strict=True):
            found[place]["other facts"].append(float(right))
    return found


def interval(found: list[Scores], column: str) -> str:
    """Share of prompts with its interval, records resampled."""
    parts = [own[column] for own in found if own[column]]
    if not parts:
        return "-"
    rng = np.random.default_rng(0)
    sums, counts = np.array([sum(part) for part in parts]), np.array([len(part) for part in parts])
    drawn = rng.integers(len(parts), size=(2000, len(parts)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return f"{sums.sum() / counts.sum():.3f} [{low:.3f}, {high:.3f}]"


def after(model: tracer.Model, edits: list[Edit], records: list[dict[str, Any]], mode: str) -> list[Scores]:
    """Scores of every record, with its edit in the model."""
    if mode == "batch":
        with applied(model, edits[0].factors):
            return scored(model, records)
    found = []
    for edit, record in track(list(zip(edits, records, strict=True)), "asking"):
        with applied(model, edit.factors):
            found += scored(model, [record])
    return found


def line(name: str, cells: Sequence[str], seconds: str) -> str:
    """One row of the table."""
    return f"{name:10}" + "".join(f"{cell:22}" for cell in cells) + seconds


def main(
    mode: Annotated[str, typer.Argument(help="single or batch")] = "single",
    methods: Annotated[str, typer.Option(help="names, with commas between")] = "rome,r_rome",
    count: Annotated[int, typer.Option(help="records")] = 200,
    split: Annotated[str, typer.Option(help="validation or test")] = "test",
    settings: Annotated[list[str] | None, typer.Option("--set", help="hyper-parameter=value")] = None,
    repeated: Annotated[bool, typer.Option("--repeated", help="let records of a batch share subjects")] = False,
    threads: Annotated[int, typer.Option(help="processor threads")] = 2,
) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", EditWarning)  # subjects repeat in the records
    model = tracer.load()
    every = tracer.factworld.records(split)  # type: ignore[arg-type]
    drawn = Random(0).sample(every, len(every))
    if mode == "batch" and not repeated:  # two requests about one subject write to one key
        drawn = list({record["requested_rewrite"]["subject"]: record for record in reversed(drawn)}.values())[::-1]
    records = drawn[:count]
    groups: list[Any] = [[record] for record in records] if mode == "single" else [records]
    typer.echo(f"{mode}, {count} {split} records {' '.join(settings or [])}")
    typer.echo(line("method", COLUMNS, "seconds per edit"))
    typer.echo(line("none", [interval(scored(model, records), column) for column in COLUMNS], ""))
    for name in methods.split(","):
        hparams = read(method_named(name), settings or [], None, None)
        edits = compute_edits(model, groups, name, known="edit", **hparams)
        found = after(model, edits, records, mode)
        seconds = sum(edit.seconds for edit in edits) / count
        typer.echo(line(name, [interval(found, column) for column in COLUMNS], f"{seconds:.2f}"))


if __name__ == "__main__":
    typer.run(main)
