"""The workbench without a widget: align, trace, look at a cell, edit and measure, go back, export.

Long work comes in two halves, so that it can be cancelled: `traced` and `proposed` compute and change nothing that
lasts, `take` and `commit` make it count. `trace` and `edit` do both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editing.ledger.editor import Editor, Entry
from editing.methods.compute import method_named
from editing.prepared.offered import Offer, offered
from editing.proposal import Proposal, propose
from editing.questions.probes import Probes
from editing.request import EditRequest
from tracer.errors import WorkbenchError
from tracer.facts.fact import Fact
from tracer.tracing.case import KINDS
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise
from tracer.tracing.trace import CausalTrace

from . import cells
from .export import Exported, export
from .questions import questions

if TYPE_CHECKING:
    from editing.edits.edit import Edit
    from editing.questions.outcome import Outcome
    from tracer.facts.inspection import Inspection
    from tracer.model import Model

    from .cells import Cell, Suggestion

__all__ = ["Proposal", "Session"]


class Session:
    """A model with its fact at hand, its traces, its edits and their outcomes.

    The model is the caller's own: edits are made on it, and `undo` gives the exact bits of before. Whatever goes wrong,
    or is cancelled, leaves model and session as they were.

    Args:
        model: to trace and edit.

    Attributes:
        editor: the [`editing.Editor`][] that makes the edits, with its history.
        inspection: the fact at hand in the model's tokens; None before `align`.
        traces: of the last `trace`.
        ledger: folder that the history is written to; None before `record`.
    """

    def __init__(self, model: Model) -> None:
        self.editor = Editor(model)
        self.inspection: Inspection | None = None
        self._fact: Fact | None = None
        self.traces: tuple[CausalTrace, ...] = ()
        self.ledger: Path | None = None
        self._outcomes: dict[Edit, Outcome] = {}
        self._prints: dict[Edit | None, str] = {None: self.editor.origin}
        self._suggested: dict[CausalTrace, Suggestion] = {}

    @property
    def model(self) -> Model:
        """The model, as it is now."""
        return self.editor.model

    @property
    def fingerprint(self) -> str:
        """Hash of the model's weights as the editor left them: recorded, since a large model takes seconds to hash."""
        last = self.history[self.position - 1].edit if self.position else None
        if last not in self._prints:  # an edit that was not made from here
            self._prints[last] = self.model.fingerprint()
        return self._prints[last]

    # --- the fact --------------------------------------------------------------------------------------------------
    def align(self, prompt: str, subject: str, target: str | None = None) -> Inspection:
        """Take a fact to be the one at hand, and show its subject's tokens and the place of its answer.

        Args:
            prompt: of the fact.
            subject: of the fact.
            target: the answer that is traced and that an edit replaces; None: the model's answer.

        Raises:
            TracerError: as [`tracer.Fact`][] and its `inspect` do. The fact at hand stays as it was.
        """
        fact = Fact(prompt, subject, target)
        self.inspection, self._fact = fact.inspect(self.model), fact
        return self.inspection

    @property
    def fact(self) -> Fact:
        """The fact at hand.

        Raises:
            TracerError: there is no fact.
        """
        if self._fact is None:
            raise WorkbenchError("there is no fact yet; give a prompt and its subject to align")
        return self._fact

    # --- traces ----------------------------------------------------------------------------------------------------
    def trace(self, kinds: Sequence[str] = KINDS, **settings: Any) -> tuple[CausalTrace, ...]:
        """Trace the fact at hand, once for each kind; see `traced`.

        Args:
            kinds: of states to restore.
            settings: of `traced`.
        """
        return self.take(self.traced(kinds, **settings))

    def traced(
        self, kinds: Sequence[str] = KINDS, *, window: int | None = None, corruption: Any = None, **settings: Any
    ) -> tuple[CausalTrace, ...]:
        """The traces, not taken yet: [`tracer.causal_trace`][] of each kind.

        Args:
            kinds: of states to restore.
            window: number of layers restored together; None: as for [`tracer.causal_trace`][].
            corruption: None: Gaussian noise as published.
            settings: the other arguments of [`tracer.causal_trace`][].

        Raises:
            TracerError: no fact, no kind, and as [`tracer.causal_trace`][] does.
        """
        fact = self.fact
        if isinstance(kinds, str) or not kinds:
            raise WorkbenchError(f"kinds is {kinds!r}; expected one or more of {', '.join(KINDS)}")
        noise = GaussianNoise() if corruption is None else corruption
        model = self.model.pinned()  # one hash of the weights for all kinds
        shared: dict[str, Any] = {"window": window, "corruption": noise, **settings}
        return tuple(causal_trace(model, fact, kind=kind, **shared) for kind in kinds)  # type: ignore[call-overload,misc]

    def take(self, traces: Sequence[CausalTrace]) -> tuple[CausalTrace, ...]:
        """Make traces those of the session.

        Args:
            traces: of `traced`.
        """
        model, found = self.model.pinned(), tuple(traces)
        self._suggested = {trace: cells.suggestion_of(trace, model) for trace in found}
        self.traces = found
        return found

    def cell(self, trace: CausalTrace, token: int, layer: int) -> Cell:
        """The numbers of a cell, and the layers around it; see `editing.workbench.cells.cell_of`.

        Args:
            trace: the trace.
            token: index in the prompt.
            layer: of the cell.
        """
        return cells.cell_of(trace, token, layer)

    def suggestion(self, trace: CausalTrace) -> Suggestion:
        """The layers a whole trace suggests; see `editing.workbench.cells.suggestion_of`.

        Args:
            trace: the trace.
        """
        if trace.fingerprint != self.fingerprint:
            return cells.Suggestion(reason="it is of other weights than the model has now; trace again")
        if trace not in self._suggested:
            self._suggested[trace] = cells.suggestion_of(trace, self.model)
        return self._suggested[trace]

    # --- edits -----------------------------------------------------------------------------------------------------
    def request(self, target: str) -> EditRequest:
        """The request that the fact at hand be followed by a target.

        Args:
            target: the new answer.

        Raises:
            TracerError: an invalid request.
        """
        fact = self.fact
        return EditRequest(fact.prompt, fact.subject, target, fact.target)

    def probes(
        self,
        target: str,
        paraphrases: Sequence[str] | None = None,
        neighbours: Sequence[str] | None = None,
        generate: Sequence[str] | None = None,
    ) -> Probes:
        """Questions before and after an edit; see `editing.workbench.questions.questions`.

        Args:
            target: the new answer.
            paraphrases: prompts with their subjects; None: FactWorld's.
            neighbours: prompts with their subjects; None: FactWorld's.
            generate: prompts to be continued; None: the default ones.
        """
        return questions(self.model, self.request(target), paraphrases, neighbours, generate)

    def prepared(self, method: str) -> tuple[Offer, ...]:
        """Files that a method could use: prepared for it on the weights the model came with, the newest first.

        The working folder and the user's cache are looked through; see [`editing.prepare`][].

        Args:
            method: its name.
        """
        if "prepared" not in method_named(method).needs:
            return ()
        found = offered(self.model, origin=self.editor.origin)
        return tuple(each for each in found if each.method == method_named(method).name)

    def edit(self, target: str, method: str = "rome", **settings: Any) -> Edit:
        """Edit the model so that the fact at hand is followed by a target; see `proposed`.

        Args:
            target: the new answer.
            method: its name.
            settings: of `proposed`.
        """
        return self.commit(self.proposed(target, method, **settings))

    def proposed(
        self,
        target: str,
        method: str = "rome",
        layers: Sequence[int] | None = None,
        *,
        paraphrases: Sequence[str] | None = None,
        neighbours: Sequence[str] | None = None,
        generate: Sequence[str] | None = None,
        **hparams: Any,
    ) -> Proposal:
        """The edit and its outcome, on the model as it is, which is left so.

        Args:
            target: the new answer.
            method: its name.
            layers: layers to write at; None: the method's own choice.
            paraphrases: see `probes`.
            neighbours: see `probes`.
            generate: see `probes`.
            hparams: of the method.

        Raises:
            TracerError: as `probes` and [`editing.propose`][] do.
        """
        found = method_named(method)
        if layers is not None:
            if found.layers == "none":
                raise WorkbenchError(f"{found.name} takes no layers; leave them out")
            hparams = {"layers": tuple(layers), **hparams}
        probes = self.probes(target, paraphrases, neighbours, generate)  # errors there are found before the work
        return propose(self.editor, self.request(target), probes, method=method, **hparams)

    def commit(self, proposal: Proposal) -> Edit:
        """Make the edit of a proposal.

        Args:
            proposal: of `proposed`.

        Raises:
            TracerError: the model has changed since.
        """
        proposal.commit()
        self._outcomes[proposal.edit] = proposal.outcome
        self._prints[proposal.edit] = proposal.outcome.after.fingerprint
        self._outcomes = {e.edit: self._outcomes[e.edit] for e in self.history if e.edit in self._outcomes}
        return proposal.edit

    # --- history ---------------------------------------------------------------------------------------------------
    @property
    def history(self) -> tuple[Entry, ...]:
        """Every edit in the order it was made; see [`editing.Editor.history`][]."""
        return self.editor.history

    @property
    def position(self) -> int:
        """Number of edits of the history that the model has now."""
        return self.editor.position

    def outcome(self, index: int | None = None) -> Outcome | None:
        """Outcome of an edit; None for no edit, or one made elsewhere.

        Args:
            index: of the edit; None: the last that the model has.
        """
        index = self.position if index is None else index
        return self._outcomes.get(self.history[index - 1].edit) if 1 <= index <= len(self.history) else None

    def undo(self, n: int = 1) -> None:
        """Take the last edits back, to the exact bits; see [`editing.Editor.undo`][].

        Args:
            n: number of edits.
        """
        self.editor.undo(n)

    def checkout(self, k: int) -> None:
        """Go to the model right after an edit; see [`editing.Editor.checkout`][].

        Args:
            k: number of the edit; 0: as the model was given.
        """
        self.editor.checkout(k)

    def record(self, folder: str | Path) -> None:
        """Write the history to a folder, and every change of it from now on; see [`editing.Editor.record`][].

        Args:
            folder: of the ledger.
        """
        self.editor.record(folder)
        self.ledger = Path(folder).absolute()

    def export(self, folder: str | Path, parts: Sequence[str] | None = None, overwrite: bool = False) -> Exported:
        """Write figures, numbers, edits and the ledger into a folder; see [`editing.workbench.export.export`][].

        Args:
            folder: to write into.
            parts: as of `export`; None: all.
            overwrite: put files of the same names aside.
        """
        return export(self, folder, parts, overwrite)
