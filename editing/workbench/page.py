"""The page: its panels put together, one job at a time, and every error as a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tracer.errors import WorkbenchError

from . import parts, texts
from .edit_panel import EditPanel
from .fact_panel import FactPanel
from .heat_panel import HeatPanel
from .history_panel import ExportPanel, HistoryPanel, OutcomePanel
from .jobs import Job
from .questions import known_to_factworld
from .session import Session
from .status import Status

if TYPE_CHECKING:
    from tracer.model import Model


class Workbench:
    """The page of a `Session`. Leave it as the last line of a notebook's cell to see it.

    Attributes:
        session: the session; also usable from other cells, while no job runs.
        job: the last `Job` that was begun, or None.
        box: the widget.
    """

    def __init__(self, model: Model) -> None:
        parts.library()
        self.session = Session(model)
        self.job: Job | None = None
        self._title, self._working = "", False
        self.status = Status(self.cancel)
        self.fact = FactPanel(self.session, self._fact_changed, self.trace)
        self.edit_panel = EditPanel(self.session, self.edit)
        self.heat = HeatPanel(self.session, self.edit_panel.suggest)
        self.outcome = OutcomePanel(self.session)
        self.history = HistoryPanel(self.session, self.undo, self.checkout)
        self.export_panel = ExportPanel(self.export)
        panels = (self.fact, self.heat, self.edit_panel, self.outcome, self.history, self.export_panel)
        self._controls = [control for panel in panels for control in getattr(panel, "controls", ())]
        head = texts.shown(f"{model.name}: {model.n_layers} layers of width {model.d_model}")
        title = (
            f'<div><b>Workbench</b> <span class="tw-quiet">{head}. Edits are made on this model itself.</span></div>'
        )
        self.box = parts.column(parts.markup(parts.STYLE + title), *(panel.box for panel in panels), classes=("tw",))
        self._fact_changed()
        self._settle()

    def _repr_mimebundle_(self, **settings: Any) -> Any:
        return self.box._repr_mimebundle_(**settings)

    # --- actions of the buttons --------------------------------------------------------------------------------------
    def trace(self) -> None:
        """Begin to trace the fact typed in."""

        def begin() -> None:
            self.fact.align()
            settings = self.fact.settings()
            self._begin("tracing", lambda: self.session.traced(**settings), self._traced, self.session.take)

        self._guarded(self.fact.slot, begin)

    def edit(self) -> None:
        """Begin to compute, measure and make the edit that is typed in."""

        def begin() -> None:
            self.fact.align()
            settings = self.edit_panel.settings()
            self._begin("editing", lambda: self.session.proposed(**settings), self._edited, self.session.commit)

        self._guarded(self.edit_panel.slot, begin)

    def undo(self) -> None:
        """Take the last edit back."""
        self._go("undone: the model has the exact bits of before", lambda: self.session.undo())

    def checkout(self) -> None:
        """Go to the state that is chosen."""
        state = self.history.state.value
        self._go(f"the model has the exact bits of state {state}", lambda: self.session.checkout(state))

    def export(self) -> None:
        """Write files."""

        def begin() -> None:
            settings = self.export_panel.settings()
            self._begin("writing", lambda: None, self._exported, lambda _: self.session.export(**settings))

        self._guarded(self.export_panel.slot, begin)

    def cancel(self) -> None:
        """Ask the job at work to stop, and leave everything as it was before it."""
        if self.job is not None:
            self.job.cancel()
            self.status.cancel.disabled = True
            self.status.tell(self._title, self.job)

    @property
    def busy(self) -> bool:
        """Whether a job is at work, or has not been shown yet."""
        return self._working

    # --- jobs --------------------------------------------------------------------------------------------------------
    def _begin(
        self,
        title: str,
        work: Callable[[], Any],
        done: Callable[[Any], str],
        commit: Callable[[Any], Any] | None = None,
    ) -> None:
        """Start a job. `done` shows its result and describes it in a sentence."""

        def ended(job: Job) -> None:
            self._working = False
            try:
                said = done(job.value) if job.state == "done" else ""
                message = texts.report(job, said)
            except Exception as error:  # in showing the result; the result itself stands
                message = texts.failure(error)
            self._settle()
            self.status.end(message)

        self._title, self._working = title, True
        self.job = Job(
            self.session.model, work, commit, progressed=lambda job: self.status.tell(title, job), ended=ended
        )
        for control in self._controls:
            control.disabled = True
        self.status.begin(title)
        try:
            self.job.start()
        except BaseException:  # no thread available
            self._working = False
            raise

    def _go(self, said: str, move: Callable[[], None]) -> None:
        def done(_: Any) -> str:
            self._states_changed()
            return said[0].upper() + said[1:] + "."

        def begin() -> None:
            self._begin("restoring weights", lambda: None, done, lambda _: move())

        self._guarded(self.history.slot, begin)

    def _guarded(self, slot: Any, begin: Callable[[], None]) -> None:
        """Begin, with the status line in `slot`; errors become messages there."""
        if self.busy:
            error = WorkbenchError("there is work going on; wait for its end, or cancel it")
            self.status.message.value = texts.failure(error)
            return
        self.status.stand_in(slot)
        try:
            begin()
        except Exception as error:
            self.status.end(texts.failure(error))
            self._settle()

    def _settle(self) -> None:
        """Set every control to its state without a job."""
        for control in self._controls:
            control.disabled = self.busy
        self.history.undo.disabled = self.busy or not self.session.position
        self.history.go.disabled = self.busy or not self.session.history

    # --- display -----------------------------------------------------------------------------------------------------
    def _fact_changed(self) -> None:
        def begin() -> None:
            self.fact.align()
            known = known_to_factworld(self.session.model, self.session.fact)
            self.edit_panel.known(known and (len(known.group("paraphrase")), len(known.group("neighbour"))))
            self.status.end("")

        if not self.busy:
            self._guarded(self.fact.slot, begin)

    def _traced(self, traces: Any) -> str:
        self.heat.show(traces)
        first, seconds = traces[0], self.job.seconds if self.job else 0
        return (
            f"Traced {first.answer.strip()!r} in {seconds:.1f} s: {first.clean:.3f} in the clean run, "
            f"{first.corrupted:.3f} with the subject corrupted.{first.note and ' ' + first.note}"
        )

    def _edited(self, edit: Any) -> str:
        self._states_changed()
        return f"Edit {self.session.position} is made: {texts.edit_line(edit)}."

    def _states_changed(self) -> None:
        self.outcome.refresh()
        self.history.refresh()
        self.heat.refresh()

    def _exported(self, found: Any) -> str:
        notes = "".join(f" ({note})" for note in found.notes)
        return f"Written to {found.folder}: {', '.join(found.names)}.{notes}"
