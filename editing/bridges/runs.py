"""Result folders of the ROME and MEMIT repositories as evaluations, to be summarised, drawn and compared with ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editing.evaluation import Evaluation
from editing.evaluation.result.schema import UNEDITED
from tracer.errors import EvaluationFileError

from .names import METHOD_NAMES

CASE = re.compile(r"(?:(\d+)_edits-)?case_(\d+)\.json")
KINDS = {"rewrite": "rewrite", "paraphrase": "paraphrase", "neighborhood": "neighbour"}
TEXTS = {"ngram_entropy": "fluency", "reference_score": "consistency", "essence_score": "essence perplexity"}
TIMES = ("pre", "post")
SHAPE = "expected files such as case_17.json or 100_edits-case_17.json, as the ROME and MEMIT repositories write them"


def read_run(folder: str | Path, method: str | None = None, model: str = "") -> Evaluation:
    """Read a result folder, such as `results/ROME/run_000`.

    `rewrite`, `paraphrase` and `neighbour` have success and magnitude where targets were compared (CounterFact), and
    accuracy where tokens were (zsRE); texts have fluency, consistency and essence perplexity. Cases edited together are
    of the mode "batch", others "single"; what was measured before an edit is the unedited model's.

    Args:
        folder: with one file per case.
        method: that was measured; None: by the name of the folder above.
        model: that was edited; the files do not say.

    Raises:
        TracerError: no such files, or one that cannot be read.
    """
    folder = Path(folder)
    files = {file: CASE.fullmatch(file.name) for file in folder.glob("*.json")} if folder.is_dir() else {}
    cases = sorted((int(found[2]), int(found[1] or 1), file) for file, found in files.items() if found)
    if not cases:
        raise EvaluationFileError(f"{folder} holds no cases; {SHAPE}")
    told = method or METHOD_NAMES.get(folder.absolute().parent.name.upper(), folder.absolute().parent.name)
    rows: list[dict[str, Any]] = []
    for position, (number, edits, file) in enumerate(cases):
        case = _case(file)
        labels = {"model": model, "control": "", "layers": "", "seed": 0, "case_id": str(number)}
        labels |= {"subject": str(case["requested_rewrite"]["subject"]), "position": position}
        after = {"method": told, "mode": "batch" if edits > 1 else "single", "after": edits}
        own = {"pre": {"method": UNEDITED, "mode": "", "after": 0}, "post": after}
        for time in TIMES:
            for metric, value, count in _measured(file, case.get(time) or {}):
                rows.append({**labels, **own[time], "metric": metric, "value": value, "n": count})
        if "time" in case:
            rows.append({**labels, **after, "metric": "seconds", "value": float(case["time"]) / edits, "n": 1})
    return Evaluation.of({"read from": str(folder)}, metrics=rows)


def _case(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        str(found["requested_rewrite"]["subject"])
        return found
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EvaluationFileError(f"{file} is no case of a run: {error!r}; {SHAPE}") from error


def _measured(file: Path, told: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Metrics of a case before or after its edit: name, value, number of questions."""
    try:
        for theirs, ours in KINDS.items():
            losses = told.get(f"{theirs}_prompts_probs")
            if losses:
                yield from _compared(ours, losses)
            correct = told.get(f"{theirs}_prompts_correct")
            if correct:
                yield f"{ours} accuracy", float(np.mean(correct)), len(correct)
        for theirs, ours in TEXTS.items():
            if theirs in told:
                yield ours, float(told[theirs]), 1
    except (TypeError, ValueError, KeyError) as error:
        raise EvaluationFileError(f"{file} has a measurement that cannot be read: {error!r}; {SHAPE}") from error


def _compared(kind: str, losses: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, float, int]]:
    """Success and magnitude, of the new target's loss and the true one's; a neighbour is to keep the true one."""
    new, true = (np.array([float(each[name]) for each in losses]) for name in ("target_new", "target_true"))
    wanted, other = (true, new) if kind == "neighbour" else (new, true)
    yield f"{kind} success", float(np.mean(wanted < other)), len(losses)
    yield f"{kind} magnitude", float(np.mean(np.exp(-wanted) - np.exp(-other))), len(losses)
