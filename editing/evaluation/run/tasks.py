"""The jobs of a run, on one worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from editing.edits.edit import Edit
from editing.evaluation.result.schema import UNEDITED

from .blobs import answers_to_bytes, edit_from_bytes, edit_to_bytes
from .controls import random_layers
from .protocol import RANDOM_DIRECTION, RANDOM_LAYER, Cell
from .sequence import sequential
from .worker import Bench, Rows, add, seed_of

if TYPE_CHECKING:
    from tracer.model import Model
    from tracer.runs import Claim


def worker(settings: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Callable[[Claim], None]:
    """Function that does the jobs of a run.

    Args:
        settings: of the run.
        given: models and hyper-parameters to use instead of loading them.
    """
    bench = Bench(settings, given)
    tasks = {UNEDITED: unedited, "single": single, "edit": edit_batch, "batch": ask_batch, "sequential": sequential}

    def work(claim: Claim) -> None:
        tasks[claim.job.payload["task"]](bench, claim)

    return work


def unedited(bench: Bench, claim: Claim) -> None:
    """Ask the model as it is."""
    name, cases = claim.job.payload["model"], claim.job.payload["cases"]
    model = bench.model(name)
    labels = {"model": name, "method": UNEDITED, "control": "", "layers": "", "seed": 0, "mode": ""}
    drifted = bench.drifted(name, model)
    for case, answers in zip(cases, bench.asked(model, cases), strict=True):
        item = bench.records[case].case_id
        if item in claim.done:
            continue
        if isinstance(answers, str):  # no other job will ask it
            claim.commit(item, {"edits": [bench.edit_row(labels, case, answers)]})
        else:
            rows = bench.rows(labels, case, answers, None, bench.measured(model, case, drifted), after=0)
            claim.commit(item, rows, {f"answers {case}": answers_to_bytes(answers)})


def single(bench: Bench, claim: Claim) -> None:
    """Edit each case alone."""
    cell, cases = bench.cells[claim.job.payload["cell"]], claim.job.payload["cases"]
    model = bench.model(cell.model)
    edits = bench.edits(cell, cases)
    before = bench.before(claim, cell.model, cases)
    controlled = [i for i in cases if i < bench.protocol.control_cases]
    elsewhere = _elsewhere(bench, cell, model, controlled, edits)
    for case, edit, old in zip(cases, edits, before, strict=True):
        item = bench.records[case].case_id
        if item in claim.done:
            continue
        row = bench.edit_row(cell.labels(), case, edit)
        rows: Rows = {"edits": [row]}
        tried = {"": edit, RANDOM_LAYER: elsewhere.get(case)}
        if isinstance(edit, Edit) and case in controlled and RANDOM_DIRECTION in bench.protocol.controls:
            tried[RANDOM_DIRECTION] = edit.control(seed_of(cell.seed, item))
        for control, one in tried.items():
            if isinstance(one, Edit):
                more, error = bench.tried(cell, model, case, one, old, control)
                add(rows, more)
                row["error"] = row["error"] or (error if not control else "")
        claim.commit(item, rows)


def _elsewhere(
    bench: Bench, cell: Cell, model: Model, cases: list[int], edits: list[Edit | str]
) -> dict[int, Edit | str]:
    """The same method at random layers, the same ones for all cases of a job."""
    used = next((edit.settings.get("layers") for edit in edits if isinstance(edit, Edit)), None)
    if RANDOM_LAYER not in bench.protocol.controls or not cases or not isinstance(used, list | tuple):
        return {}
    able = next((stack for stack in model.stacks.values() if set(used) <= set(stack)), range(model.n_layers))
    if len(used) >= len(able):
        return {}
    layers = random_layers(able, used, seed_of(cell.seed, cases[0]))
    return dict(zip(cases, bench.edits(cell, cases, layers=layers), strict=True))


def edit_batch(bench: Bench, claim: Claim) -> None:
    """Make one edit for all cases of a batch, and keep it."""
    cell, cases = bench.cells[claim.job.payload["cell"]], claim.job.payload["cases"]
    bench.model(cell.model)
    edit = bench.edit(cell, cases)
    rows = [bench.edit_row(cell.labels(), case, edit, share=len(cases)) for case in cases]
    claim.commit("edit", {"edits": rows}, {"edit": edit_to_bytes(edit)} if isinstance(edit, Edit) else {})


def ask_batch(bench: Bench, claim: Claim) -> None:
    """Ask some cases of a batch, with the edit of all."""
    payload = claim.job.payload
    cell, cases = bench.cells[payload["cell"]], payload["cases"]
    model = bench.model(cell.model)
    kept = claim.blob_of(payload["edit"], "edit")
    if kept is None:  # it could not be made: nothing was measured
        for case in cases:
            if (item := bench.records[case].case_id) not in claim.done:
                claim.commit(item)
        return
    edit, before = edit_from_bytes(kept), bench.before(claim, cell.model, cases)
    found: dict[int, Rows] = {}
    parts = {"": (edit, cases)}
    if RANDOM_DIRECTION in bench.protocol.controls:
        some = [i for i in cases if i < bench.protocol.control_cases]
        parts[RANDOM_DIRECTION] = (edit.control(seed_of(cell.seed, payload["edit"])), some)
    for control, (one, some) in parts.items():
        old = [before[cases.index(i)] for i in some]
        with one.applied(model):
            answers = bench.asked(model, some, old) if some else []
            drifted = bench.drifted(cell.model, model) if some else None
            further = {
                i: bench.measured(model, i, drifted, one, payload["size"])
                for i, new in zip(some, answers, strict=True)
                if not isinstance(new, str)
            }
        for case, new, was in zip(some, answers, old, strict=True):
            if not isinstance(new, str):
                labels, kept_too = cell.labels(control), not control
                rows = bench.rows(labels, case, new, was, further[case], after=payload["size"], kept=kept_too)
                add(found.setdefault(case, {}), rows)
    for case in cases:
        if (item := bench.records[case].case_id) not in claim.done:
            claim.commit(item, found.get(case, {}))
