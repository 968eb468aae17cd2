"""An edit with its outcome, before it is made: ask, compute, ask again with the edit in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from editing.edits.edit import Edit
from editing.ledger.editor import Editor
from editing.questions.outcome import Outcome, measure
from editing.questions.probes import Probes
from editing.request import EditRequest


@dataclass(frozen=True, eq=False)
class Proposal:
    """An edit that was computed and measured, and not made yet.

    Attributes:
        edit: the edit.
        outcome: answers before and after it.
        editor: makes it.
    """

    edit: Edit
    outcome: Outcome
    editor: Editor = field(repr=False)

    def commit(self, anyway: bool = False) -> Edit:
        """Make the edit.

        Args:
            anyway: as of [`editing.Editor.apply`][].

        Raises:
            TracerError: the model has changed since.
        """
        self.editor.apply(self.edit, anyway)
        return self.edit


def propose(
    editor: Editor, requests: Any, questions: Probes | None = None, *, anyway: bool = False, **how: Any
) -> Proposal:
    """An edit and its outcome on the editor's model as it is, which is left so.

    Args:
        editor: of the model.
        requests: as of [`editing.compute_edit`][], or an [`editing.Edit`][] that exists already.
        questions: asked before and after; None: the requests' own and those that their records bring along, with the
            model's present answers where none is known.
        anyway: also an edit of other weights than the model has.
        how: method and hyper-parameters, as of [`editing.Editor.compute`][].

    Returns:
        The proposal; its `commit` makes the edit.

    Raises:
        TracerError: as [`editing.compute_edit`][] and [`editing.measure`][] do.
    """
    model = editor.model
    if questions is None:
        given: Any = requests.requests if isinstance(requests, Edit) else requests
        given = [given] if isinstance(given, EditRequest | Mapping) else list(given)
        questions = Probes.joined(map(Probes.of, given)).completed(model)
    before = measure(model, questions)
    edit = requests if isinstance(requests, Edit) else editor.compute(requests, **how)
    with editor.preview(edit, anyway=anyway):
        after = measure(model, questions)
    return Proposal(edit, Outcome(before, after), editor)
