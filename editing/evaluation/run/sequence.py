"""Edits one after the other on one model, never undone: effect of later ones on earlier ones, and on the model."""

from __future__ import annotations

import copy
import json
import sys
from random import Random
from typing import TYPE_CHECKING, Any

from editing.edits.edit import Edit
from editing.health.monitor import Monitor
from editing.ledger.editor import Editor
from editing.methods.compute import method_named
from editing.questions.answer import CaseAnswers
from tracer.errors import TracerError

from .blobs import edit_from_bytes, edit_to_bytes, state_from_blobs, state_to_blobs
from .protocol import Cell
from .worker import Bench, Rows, add, seed_of

if TYPE_CHECKING:
    from editing.health.drift import Drifted
    from tracer.runs import Claim


def sequential(bench: Bench, claim: Claim) -> None:
    """Do the steps of a sequence that are not done; the model is as before afterwards.

    After every step the weights it wrote and the monitor's state are kept with its rows, so that a worker who takes
    over goes on with the same bits.

    Args:
        bench: the worker's state.
        claim: on the job.
    """
    cell = bench.cells[claim.job.payload["cell"]]
    editor = Editor(bench.model(cell.model), budget=sys.maxsize)  # no more than two states are kept
    try:
        _Sequence(bench, claim, cell, editor).run()
    finally:
        editor.checkout(0, anyway=True)


class _Sequence:
    def __init__(self, bench: Bench, claim: Claim, cell: Cell, editor: Editor) -> None:
        self.bench, self.claim, self.cell, self.editor, self.model = bench, claim, cell, editor, editor.model
        self.protocol, count = bench.protocol, len(bench.records)
        self.before: list[CaseAnswers | None] = bench.before(claim, cell.model, range(count))
        self.monitor = Monitor(self.model, bench.drift(cell.model), self.protocol.limits)
        self.protects = "earlier" in method_named(cell.method).needs
        self.starts = list(range(0, count, self.protocol.step))
        self.made: list[int] = []  # steps whose edits the model has
        self.stopped: str = ""

    def run(self) -> None:
        """All that is left."""
        self._resume()
        for step, start in enumerate(self.starts):
            if f"step {step}" not in self.claim.done:
                self._step(step, self._cases(start))
        if "end" not in self.claim.done:
            self.claim.commit("end", self._asked_again(self._last(), self._budget()[1], seed="end", kept=True))

    # --- one step --------------------------------------------------------------------------------------------------
    def _step(self, step: int, cases: list[int]) -> None:
        labels = self.cell.labels()
        if self.stopped:
            none = [self.bench.edit_row(labels, i, self.stopped, position=i) for i in cases]
            self.claim.commit(f"step {step}", {"edits": none})
            return
        rows: Rows = {}
        blobs: dict[str, bytes] = {}
        edit = self.bench.edit(self.cell, cases, self.editor)
        error = edit if isinstance(edit, str) else self._make(step, cases, edit, rows, blobs)
        rows["edits"] = [self.bench.edit_row(labels, i, edit, i, len(cases)) for i in cases]
        for row in rows["edits"]:
            row["error"] = error
        state = {"made": self.made, "stopped": self.stopped, "health": self.monitor.state}
        self.claim.commit(f"step {step}", rows, {**blobs, "state": json.dumps(state).encode()})

    def _make(self, step: int, cases: list[int], edit: Edit, rows: Rows, blobs: dict[str, bytes]) -> str:
        """Write an edit, measure, and check the model's health; return the reason why it was taken back, or ""."""
        health = copy.deepcopy(self.monitor.state)
        self.monitor.watch(edit.weights)
        try:
            self.editor.apply(edit)
        except TracerError as error:  # such as a weight past its number type
            self.monitor.resume(health)
            return str(error)
        self.editor.settle()
        self.made.append(step)
        now = self.bench.drifted(self.cell.model, self.model)
        add(rows, self._measured_now(edit, cases, now))
        readings = self.monitor.read(now)
        after = cases[-1] + 1
        rows["health"] = [{**self.cell.labels(), "after": after, **reading.row()} for reading in readings]
        alarm = next((reading.measure for reading in readings if reading.alarm), None)
        gone = ""
        if alarm is not None and self.protocol.on_alarm != "record":
            self.stopped = f"not made: alarm of {alarm} after {after} edits"
            if self.protocol.on_alarm == "rollback":
                self.editor.undo()
                self.made.remove(step)
                gone = f"taken back: alarm of {alarm}"
                self.stopped += f", rolled back to {self._last()}"
        elif step in self._moments():
            add(rows, self._asked_again(after, self._budget()[0], seed=step))
        if self.protects and not gone:
            blobs[f"edit {step}"] = edit_to_bytes(edit)
        blobs |= state_to_blobs(self.editor.present)
        return gone

    def _measured_now(self, edit: Edit, cases: list[int], now: Drifted | None) -> Rows:
        """Rows of the cases of a step right after it."""
        answers = self.bench.asked(self.model, cases, [self.before[i] for i in cases])
        rows: Rows = {}
        for case, one in zip(cases, answers, strict=True):
            if not isinstance(one, str):
                old, after = self.before[case], cases[-1] + 1
                own = self.bench.measured(self.model, case, now, edit, len(cases))
                more = self.bench.rows(self.cell.labels(), case, one, old, own, position=case, after=after)
                add(rows, more)
        return rows

    # --- earlier ones again ----------------------------------------------------------------------------------------
    def _asked_again(self, after: int, budget: int, *, seed: Any, kept: bool = False) -> Rows:
        """Rows of earlier cases, drawn to a budget; those measured at this very moment are left out."""
        latest = set(self._cases(self.starts[self.made[-1]])) if self.made else set()
        earlier = [i for step in self.made for i in self._cases(self.starts[step]) if i not in latest]
        if len(earlier) > budget:
            earlier = sorted(Random(seed_of(self.cell.seed, seed)).sample(earlier, budget))
        rows: Rows = {"metrics": [], "answers": []}
        if not earlier:
            return rows
        answers = self.bench.asked(self.model, earlier, [self.before[i] for i in earlier], texts=False)
        for case, one in zip(earlier, answers, strict=True):
            if not isinstance(one, str):
                old = self.before[case]
                more = self.bench.rows(self.cell.labels(), case, one, old, position=case, after=after, kept=kept)
                add(rows, more)
        return rows

    def _budget(self) -> tuple[int, int]:
        """Cases asked again at every moment, and at the end."""
        count, moments = len(self.bench.records), len(self._moments())
        total = 3 * count if self.protocol.retention is None else self.protocol.retention
        last = min(count, total)
        return (total - last) // max(1, moments), last

    def _moments(self) -> set[int]:
        """Steps after which earlier cases are asked again, besides the end."""
        steps, wanted = len(self.starts), self.protocol.moments
        return {round(steps * k / wanted) - 1 for k in range(1, wanted)} - {-1, steps - 1}

    def _last(self) -> int:
        """Number of edits the model has seen."""
        return self._cases(self.starts[self.made[-1]])[-1] + 1 if self.made else 0

    def _cases(self, start: int) -> list[int]:
        return list(range(start, min(start + self.protocol.step, len(self.bench.records))))

    # --- taking over -----------------------------------------------------------------------------------------------
    def _resume(self) -> None:
        blob = self.claim.blob("state")
        if blob is None:
            return
        state = json.loads(blob)
        self.made, self.stopped = state["made"], state["stopped"]
        self.monitor.resume(state["health"])
        made = [self.claim.blob(f"edit {step}") for step in self.made] if self.protects else []
        state = state_from_blobs(self.claim.blob, self.model)
        if state.weights or state.memories:
            self.editor.adopt(state, [edit_from_bytes(blob) for blob in made if blob is not None])
