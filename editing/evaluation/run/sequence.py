"""Edits one after the other on one model, never undone: effect of later ones on earlier ones, and on the model."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

from editing.edits.edit import Edit
from editing.edits.state import State
from editing.health.monitor import Monitor
from editing.methods.compute import method_named
from editing.questions.answer import CaseAnswers
from tracer.errors import TracerError

from .blobs import edit_from_bytes, edit_to_bytes, state_from_blobs, state_to_blobs
from .protocol import Cell
from .worker import FIXED, Bench, Rows, add, seed_of

if TYPE_CHECKING:
    from editing.health.drift import Drifted
    from tracer.model import Model
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
    model = bench.model(cell.model)
    with _Weights(model) as weights:
        _Sequence(bench, claim, cell, model, weights).run()


class _Weights:
    """Weights and memories that are written to; with the first ones again at the end, whatever happens."""

    def __init__(self, model: Model) -> None:
        self.model, self._first = model, State({}, {})

    def __enter__(self) -> _Weights:
        return self

    def __exit__(self, *_: Any) -> None:
        self._first.write(self.model)

    def put(self, new: State) -> None:
        """Write these."""
        weights = [name for name in new.weights if name not in self._first.weights]
        fresh = State.of(self.model, weights, [name for name in new.memories if name not in self._first.memories])
        kept = {name: tensor.cpu() for name, tensor in fresh.weights.items()}
        self._first = State({**self._first.weights, **kept}, {**self._first.memories, **fresh.memories})
        new.write(self.model)

    def state(self) -> State:
        """What was written to as it is now, on the CPU."""
        now = self._first.before(self.model)
        return State({name: tensor.cpu() for name, tensor in now.weights.items()}, now.memories)

    def back_to(self, state: State) -> None:
        """What `state` says; what was first written later is as it was first."""
        weights, memories = {**self._first.weights, **state.weights}, {**self._first.memories, **state.memories}
        State(weights, memories).write(self.model)


class _Sequence:
    def __init__(self, bench: Bench, claim: Claim, cell: Cell, model: Model, weights: _Weights) -> None:
        self.bench, self.claim, self.cell, self.model, self.weights = bench, claim, cell, model, weights
        self.protocol, count = bench.protocol, len(bench.records)
        self.before: list[CaseAnswers | None] = bench.before(claim, cell.model, range(count))
        self.monitor = Monitor(model, bench.drift(cell.model), self.protocol.limits)
        self.origin = model.fingerprint()
        self.protects = "earlier" in method_named(cell.method).settings.__dataclass_fields__
        self.starts = list(range(0, count, self.protocol.step))
        self.fixed: dict[str, Any] = {}  # hyper-parameters that the first edit measured
        self.made: list[int] = []  # steps whose edits the model has
        self.earlier: list[Edit] = []
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
        edit = self.bench.edit(self.cell, cases, **self._options())
        error = edit if isinstance(edit, str) else self._make(step, cases, edit, rows, blobs)
        rows["edits"] = [self.bench.edit_row(labels, i, edit, i, len(cases)) for i in cases]
        for row in rows["edits"]:
            row["error"] = error
        state = {"fixed": self.fixed, "made": self.made, "stopped": self.stopped, "health": self.monitor.state}
        self.claim.commit(f"step {step}", rows, {**blobs, "state": json.dumps(state).encode()})

    def _make(self, step: int, cases: list[int], edit: Edit, rows: Rows, blobs: dict[str, bytes]) -> str:
        """Write an edit, measure, and check the model's health; return the reason why it was taken back, or ""."""
        try:
            new = edit.proposed(self.model)
        except TracerError as error:  # such as a weight past its number type
            return str(error)
        if not self.fixed:
            self.fixed = {name: edit.settings[name] for name in FIXED if edit.settings.get(name) is not None}
        self.monitor.watch(edit.weights)
        healthy = self.weights.state() if self.protocol.on_alarm == "rollback" else State()
        self.weights.put(new)
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
                self.weights.back_to(healthy)
                self.made.remove(step)
                gone = f"taken back: alarm of {alarm}"
                self.stopped += f", rolled back to {self._last()}"
        elif step in self._moments():
            add(rows, self._asked_again(after, self._budget()[0], seed=step))
        if self.protects and not gone:
            self.earlier.append(edit)
            blobs[f"edit {step}"] = edit_to_bytes(edit)
        blobs |= state_to_blobs(self.weights.state())
        return gone

    def _options(self) -> dict[str, Any]:
        more: dict[str, Any] = {"origin": self.origin, **self.fixed}
        return {**more, "earlier": tuple(self.earlier)} if self.protects else more

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
        self.fixed, self.made, self.stopped = state["fixed"], state["made"], state["stopped"]
        self.monitor.resume(state["health"])
        self.weights.put(state_from_blobs(self.claim.blob, self.model))
        for step in self.made if self.protects else ():
            kept = self.claim.blob(f"edit {step}")
            assert kept is not None
            self.earlier.append(edit_from_bytes(kept))
