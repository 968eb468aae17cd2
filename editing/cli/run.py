"""The work of `tracer edit`: ask, edit, ask again, show, write; or take edits of a ledger back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editing.edits.edit import Edit, load_edit
from editing.health.harm import Check, HarmWarning
from editing.ledger.editor import Editor
from editing.ledger.folder import FILE, Ledger
from editing.methods.method import Method
from editing.proposal import propose
from editing.questions.outcome import Outcome, measure
from editing.questions.probes import Probes
from editing.request import EditWarning, as_requests
from tracer.cli import printing
from tracer.model import EMBEDDED, load

from . import shown
from .places import Places
from .wish import Item, Wish

if TYPE_CHECKING:
    from editing.layers.located import Located
    from editing.questions.question import Question
    from tracer.model import Model

NOTES = 3  # most warnings that are printed


@dataclass(frozen=True)
class Job:
    """Common options of every edit; see the command's.

    Attributes:
        wish: the requests and prompts.
        places: files and folders to write.
        model: name of the model; None: the default.
        device: of the model.
        force: also write facts the model says already, or a saved edit of other weights.
        undo: take the edit back at the end.
        check: handling of an edit that ruins the model.
    """

    wish: Wish
    places: Places
    model: str | None
    device: str | None
    force: bool
    undo: bool
    check: Check = "warn"


@dataclass(frozen=True)
class Computed:
    """An edit that a method finds.

    Attributes:
        method: the method.
        settings: its hyper-parameters.
        locate: kind of evidence that the layers are found by; None: the method's own layers.
    """

    method: Method
    settings: Mapping[str, Any]
    locate: str | None

    def prepare(self, job: Job) -> tuple[list[Item], str | None]:
        """The requests, checked without the model, and the model's name."""
        items = job.wish.items()
        job.wish.check(items)
        as_requests([request for request, _ in items])
        return items, job.model

    def wanted(
        self, editor: Editor, items: Sequence[Item], probes: Probes, job: Job
    ) -> tuple[Any, dict[str, Any], Located | None]:
        """The requests, how they are to be written, and the source of its layers."""
        requests = [request for request, _ in items]
        known = "edit" if job.force else "refuse"
        located = None if self.locate is None else self._located(editor.model, requests, probes, known)
        how = {"method": self.method.name, "locate": located, "known": known, "check": job.check, **self.settings}
        return requests, how, located

    def _located(self, model: Model, requests: Sequence[Any], probes: Probes, known: str) -> Located:
        from editing.localisation.choose import locate

        using: Any = self.locate
        if using != "sweep":
            return locate(model, list(requests), using)
        # neighbours are those that share the answer of the request, as in a record
        true = {q.case: (q.true or "").strip() for q in probes.questions if q.kind == "rewrite"}
        asked = [
            Probes(tuple(q for q in probes.questions if q.case == case and (q.kind != "neighbour" or _says(q, answer))))
            for case, answer in true.items()
        ]
        more: Any = {"method": self.method.name, "known": known, **self.settings}
        return locate(model, list(requests), using, questions=asked, **more)


@dataclass(frozen=True)
class Saved:
    """An edit from a file.

    Attributes:
        path: of the file.
    """

    path: Path

    def prepare(self, job: Job) -> tuple[list[Item], str | None]:
        """The requests it was made for, and the model's name; by default that of the model it was made on."""
        edit = load_edit(self.path)
        items = [(request, Probes.of(request)) for request in edit.requests]
        job.wish.check(items)
        return items, job.model or (None if edit.model == EMBEDDED else edit.model)

    def wanted(
        self, editor: Editor, items: Sequence[Item], probes: Probes, job: Job
    ) -> tuple[Edit, dict[str, Any], None]:
        """The edit.

        Raises:
            TracerError: it is of other weights, and that was not allowed.
        """
        return load_edit(self.path, editor.model, job.force), {}, None


def make(job: Job, source: Computed | Saved) -> dict[str, Any]:
    """Edit, show the changes, and write the files. Nothing is printed or written before all is known.

    Returns:
        What is shown, as values.
    """
    places = job.places
    with noted() as caught:
        items, name = source.prepare(job)
        with places.writable():
            editor = _editor(places.ledger, name, job.device)
            model = editor.model
            probes = job.wish.probes(model, items)
            requests, how, located = source.wanted(editor, items, probes, job)
            proposal = propose(editor, requests, probes, force=True, **how)
            edit, outcome = proposal.edit, proposal.outcome
            shown.show_edit(model, edit, probes)
            notes = _print_notes(caught)
            if located is not None:
                shown.show_located(located)
            shown.show_outcome(outcome)
            written = printing.wrote(places.write(edit, outcome, editor))
            if places.ledger is not None:
                proposal.commit(force=True)
                if not (places.ledger / FILE).exists():
                    editor.record(places.ledger)
                printing.say(f"edit {editor.position} of the ledger {places.ledger}")
            elif job.undo:
                proposal.commit(force=True)
                editor.undo()  # compares the bits itself
                if model.fingerprint() == outcome.before.fingerprint:
                    printing.say(f"undone: all weights have the bits they had ({outcome.before.fingerprint[:12]})")
            kept = None if places.ledger is None else {"folder": places.ledger, "edits": editor.position}
            told = {"edit": shown.edit_values(edit), "located": located, **shown.outcome_values(outcome)}
            return {**told, "notes": notes, "ledger": kept, "wrote": written}


def _says(question: Question, answer: str) -> bool:
    return (question.true or "").strip() == answer


def take_back(wish: Wish, places: Places, count: int, name: str | None, device: str | None) -> dict[str, Any]:
    """Undo the last edits of a ledger, and show the model's answers to their requests again.

    Args:
        wish: the texts of the command.
        places: with the ledger.
        count: number of edits.
        name: of the model.
        device: of the model.

    Returns:
        What is shown, as values.
    """
    assert places.ledger is not None
    if not (places.ledger / FILE).exists():
        Ledger.open(places.ledger)  # TracerError, before a folder is made
    with noted(), places.writable():
        editor = _editor(places.ledger, name, device)
        active = [entry.edit for entry in editor.history if entry.active]
        undone = active[len(active) - count :] if 0 < count <= len(active) else []
        if not undone:
            editor.undo(count)  # TracerError: as many there are not
        requests = list(dict.fromkeys(request for edit in undone for request in edit.requests))
        probes = wish.probes(editor.model, [(request, Probes.of(request)) for request in requests])
        before = measure(editor.model, probes)
        editor.undo(count)
        outcome = Outcome(before, measure(editor.model, probes))
        printing.say(shown.title(requests, probes), style="bold")
        methods = list(dict.fromkeys(edit.method for edit in undone))
        edits = "1 edit" if count == 1 else f"{count} edits"
        left = f"{editor.position} left; the weights have the bits they had ({outcome.after.fingerprint[:12]})"
        printing.say(f"took back {edits} ({', '.join(methods)}) of the ledger {places.ledger}; {left}")
        shown.show_outcome(outcome, judged=False)
        kept = {"folder": places.ledger, "edits": editor.position}
        written = printing.wrote(places.report(outcome))
        return {
            "took_back": [edit.method for edit in undone],
            **shown.outcome_values(outcome),
            "ledger": kept,
            "wrote": written,
        }


def _editor(ledger: Path | None, name: str | None, device: str | None) -> Editor:
    """An editor of the named model; where there is a ledger, with its edits made, and by default of its model."""
    if ledger is None or not (ledger / FILE).exists():
        return Editor(load(name, device=device))
    if name is None and device is None:
        return Editor.open(ledger)
    base = Ledger.open(ledger)[0].base
    own = None if base.model == EMBEDDED else base.model
    return Editor.open(ledger, load(name or own, device=device, dtype=base.dtype))


@contextmanager
def noted() -> Iterator[list[warnings.WarningMessage]]:
    """Context in which warnings about edits are kept for print; all others are given as usual, at the end."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", EditWarning)
            yield caught
    finally:
        for each in caught:
            if not issubclass(each.category, EditWarning):
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _print_notes(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """Print the first warnings about edits; all of them."""
    # that an edit does harm is in its note
    about = [each for each in caught if issubclass(each.category, EditWarning) and each.category is not HarmWarning]
    texts = list(dict.fromkeys(str(each.message) for each in about))
    printing.notes(texts[:NOTES])
    if len(texts) > NOTES:
        printing.notes([f"and {len(texts) - NOTES} more like these"])
    return texts
