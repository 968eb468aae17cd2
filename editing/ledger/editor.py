"""The editor: a model, its edits, and the way back from each of them to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

from editing.covariance.covariance import Covariance
from editing.edits.edit import Edit
from editing.edits.state import State
from editing.memories.baking import bake
from editing.methods.context import EditContext, Measured, Start
from editing.prepared.prepared import Prepared
from tracer.checks import one_of
from tracer.errors import HyperparameterError, LedgerFolderError, NoSuchState, TracerError
from tracer.former import renamed
from tracer.inference import ordinary
from tracer.model import EMBEDDED, Model, load, save

from .folder import Ledger
from .timeline import Timeline

BUDGET = 1 << 30
Measure = Literal["once", "each"]


@dataclass(frozen=True, eq=False)
class Entry:
    """One line of an editor's history.

    Attributes:
        index: 1 for the first edit; `checkout(index)` gives the model right after it.
        edit: the edit.
        active: whether the model has it now.
    """

    index: int
    edit: Edit
    active: bool


class Editor:
    """Edits on one model, made in place, with their history.

    The model is the caller's own and is changed by `edit`, `apply`, `undo` and `checkout`, each of which is made in
    full or not at all; `fork` gives a copy to edit instead. The bits of every weight that was written to are kept, so
    that going back gives the same bits, and every state's hash is compared with the one recorded when it was made.

    Args:
        model: the model to edit.
        folder: write a ledger there as it goes, for `open`; see `record`.
        budget: bytes of memory for the weights between the first and the present state. A state that does not fit is
            computed again from the edits when it is asked for.
        measure: when hyper-parameters that are left out are measured (context templates, sizes of weights): "once", on
            the weights before the first edit, as the published code does and an evaluation too, so that an edit does
            not depend on what earlier edits make the model write; or "each" time, on the weights as they are.
        prepared: what was prepared for methods on the model ([`editing.prepare`][]), one value or several, for every
            edit; an edit may be given its own.

    Raises:
        TracerError: `folder` holds a ledger already; another `measure`.
    """

    def __init__(
        self,
        model: Model,
        folder: str | Path | None = None,
        *,
        budget: int = BUDGET,
        measure: Measure = "once",
        prepared: Prepared | Sequence[Prepared] = (),
    ) -> None:
        one_of("measure", measure, get_args(Measure), kind=HyperparameterError)
        if type(model) is not Model:  # a pinned one would not see its weights change
            model = Model(**{field.name: getattr(model, field.name) for field in fields(Model) if field.init})
        self.model = model
        self._timeline = Timeline(model, budget)
        self._measure, self._measured = measure, Measured()
        self._prepared = (prepared,) if isinstance(prepared, Prepared) else tuple(prepared)
        if folder is not None:
            self.record(folder)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: Model | None = None,
        *,
        budget: int = BUDGET,
        measure: Measure = "once",
        prepared: Prepared | Sequence[Prepared] = (),
    ) -> Editor:
        """The editor of a ledger, where it was left, with the same bits; it goes on writing there.

        Args:
            folder: of the ledger.
            model: the model as it was before the first edit, which is changed in place; None: loaded by the name it was
                loaded by when the ledger was begun.
            budget: as of the editor.
            measure: as of the editor.
            prepared: as of the editor.

        Raises:
            TracerError: no ledger, a damaged one, one of another model, or one whose edits lead to other bits. The
                model is left as it was.
        """
        ledger, steps, position = Ledger.open(folder)
        if model is None:
            name = ledger.base.model
            try:
                model = load(None if name == EMBEDDED else name, dtype=ledger.base.dtype)
            except TracerError as error:
                raise LedgerFolderError(
                    f"the model {name!r} of the ledger in {folder} cannot be loaded ({error})"
                ) from error
        editor = cls(model, budget=budget, measure=measure, prepared=prepared)
        editor._timeline.resume(ledger, steps, position, folder)
        return editor

    # --- history ---------------------------------------------------------------------------------------------------
    @property
    def history(self) -> tuple[Entry, ...]:
        """Every edit in the order it was made, also those that were undone and can be checked out again."""
        return tuple(Entry(i, step.edit, i <= self.position) for i, step in enumerate(self._timeline.steps, 1))

    @property
    def position(self) -> int:
        """Number of edits of the history that the model has; 0 as it was loaded."""
        return self._timeline.position

    @property
    def origin(self) -> str:
        """Fingerprint of the model before the first edit."""
        return self._timeline.base.fingerprint

    def __repr__(self) -> str:
        return f"Editor({self.model.name}, {len(self._timeline.steps)} edits, at {self.position})"

    # --- edits -----------------------------------------------------------------------------------------------------
    @ordinary()
    def edit(self, requests: Any, method: str = "rome", **hparams: Any) -> Edit:
        """Compute an edit on the model as it is now, make it, and return it.

        Edits that were undone before are dropped from the history. Methods that use a covariance take that of the model
        as loaded, unless one of the model as it is now is given. Whatever goes wrong, model and history stay as they
        were; a Ctrl-C that comes while weights and ledger are being written takes effect right after, with the edit
        made.

        Args:
            requests: as of [`editing.compute_edit`][].
            method: its name.
            hparams: of the method.

        Raises:
            TracerError: as [`editing.compute_edit`][] does; weights that are not finite in the model's number type;
                weights that something else has changed since the last edit.
        """
        edit = self.compute(requests, method, **hparams)
        self._timeline.commit(edit)
        return edit

    def compute(self, requests: Any, method: str = "rome", **hparams: Any) -> Edit:
        """The edit that `edit` would make, without making it.

        Methods that weigh old keys are given the weights before the first edit (`origin`), since the covariance is of
        those; methods that protect earlier edits (AlphaEdit) are given those the model has (`earlier`).

        Args:
            requests: as of [`editing.compute_edit`][].
            method: its name.
            hparams: of the method; may override `origin` and `earlier`.
        """
        from editing.methods.compute import compute_edit

        context = self.context(hparams.get("covariance"))
        return compute_edit(context.model, requests, method, context=context, **hparams)

    def context(self, covariance: Covariance | None = None) -> EditContext:
        """What methods are served with here: the covariance of the model as loaded, earlier edits, what was measured.

        Args:
            covariance: that is going to be used; one of the model as it is now is what it is.

        Raises:
            TracerError: weights that something else has changed since the last edit.
        """
        model = self._timeline.unchanged()
        current = covariance is not None and covariance.fingerprint == model.fingerprint(covariance.fingerprint)
        return EditContext(
            model,
            origin=None if current else self.origin,
            earlier=tuple(step.edit for step in self._timeline.steps[: self.position]),
            prepared=self._prepared,
            measured=self._measured,
            start=Start(self.origin, self.model, self._timeline.as_loaded) if self._measure == "once" else None,
        )

    @ordinary()
    @renamed(anyway="force")
    def apply(self, edit: Edit, force: bool = False) -> None:
        """Make an edit that exists already. Edits that were undone before are dropped from the history.

        Args:
            edit: to be made.
            force: also if it was computed on other weights than the model has now.

        Raises:
            TracerError: an edit of other weights; weights that something else has changed since the last edit.
        """
        model = self._timeline.unchanged()
        if not force:
            edit.check(model)
        self._timeline.commit(edit)

    @renamed(anyway="force")
    @contextmanager
    def preview(self, requests: Any, method: str = "rome", force: bool = False, **hparams: Any) -> Iterator[Edit]:
        """Context in which the model has an edit, which is returned; afterwards it has the exact bits of before.

        Args:
            requests: as of `edit`, or an [`editing.Edit`][].
            method: its name.
            force: as in `apply`.
            hparams: of the method.

        Raises:
            TracerError: as `edit` and `apply` do.
        """
        model = self._timeline.unchanged()
        edit = requests if isinstance(requests, Edit) else self.compute(requests, method, **hparams)
        if not force:
            edit.check(model)
        with edit.applied(self.model):
            yield edit

    # --- there and back --------------------------------------------------------------------------------------------
    @ordinary()
    @renamed(anyway="force")
    def undo(self, n: int = 1, force: bool = False) -> None:
        """Take the last edits back; they stay in the history. See `checkout`.

        Args:
            n: number of edits.
            force: as in `checkout`.

        Raises:
            TracerError: fewer edits than that; and as `checkout` does.
        """
        if not _is_count(n) or not 1 <= n <= self.position:
            raise NoSuchState(
                f"cannot undo {n!r} edits: the model has {self.position} of them; give a number from 1 to that"
            )
        self.checkout(self.position - n, force)

    @ordinary()
    @renamed(anyway="force")
    def checkout(self, k: int, force: bool = False) -> None:
        """Give the model the weights and memories it had right after an edit.

        Later edits stay in the history, to be checked out again, until a new edit is made from here.

        Args:
            k: number of the edit; 0: what it was loaded with.
            force: put all that was ever edited at its state, overwriting changes made elsewhere.

        Raises:
            TracerError: no such edit; weights that something else has changed; bits that are not those recorded when
                the edit was made. The model stays as it was.
        """
        steps = self._timeline.steps
        if not _is_count(k) or not 0 <= k <= len(steps):
            raise NoSuchState(
                f"there is no state {k!r}; give 0 for the model as loaded, or an edit from 1 to {len(steps)}"
            )
        self._timeline.go(k, force)

    def reset(self) -> None:
        """Give the model the weights it was loaded with: `checkout(0)`."""
        self.checkout(0)

    def fork(self) -> Editor:
        """An editor of a copy of the model, with the same history and no ledger. Takes the model's memory again."""
        other = copy.copy(self)
        other.model = replace(self.model, hf=copy.deepcopy(self.model.hf))
        other._timeline = self._timeline.copy(other.model)
        return other

    # --- long sequences --------------------------------------------------------------------------------------------
    @property
    def present(self) -> State:
        """All that any edit has written to, as it is now, on the CPU; for `adopt`."""
        return self._timeline.present()

    def settle(self) -> None:
        """Give up the way to states other than this one, the one before and that of the model as loaded.

        For sequences of many large edits: the factors of the former ones are dropped, and the bits between. With a
        ledger, which keeps them, nothing is given up.
        """
        self._timeline.settle()

    def adopt(self, state: State, edits: Sequence[Edit] = ()) -> None:
        """Go on from a state that edits led to elsewhere, of which the bits are known.

        Args:
            state: `present` of the other editor.
            edits: that led to them, for methods that protect earlier edits; their factors are not used.

        Raises:
            TracerError: a weight that cannot be edited.
        """
        self._timeline.adopt(state, edits)

    # --- on disk ---------------------------------------------------------------------------------------------------
    def record(self, folder: str | Path) -> None:
        """Write the history to a folder, and every change of it from now on, so that `open` finds it again.

        A process that is killed at any instant leaves the ledger as it was before the edit at hand, or after.

        Args:
            folder: of the ledger.

        Raises:
            TracerError: the folder holds a ledger already, or cannot be written.
        """
        line = self._timeline
        line.ledger = Ledger.create(folder, line.base, line.steps, line.position)

    def save_pretrained(self, folder: str | Path, overwrite: bool = False, baked: bool = False) -> Path:
        """Write the model as it is, with its tokenizer, as a Hugging Face folder, whole or not at all; return it.

        Memories are written beside the weights: `tracer.load` attaches them, plain transformers has the model without
        them.

        Args:
            folder: to write into.
            overwrite: replace the contents of the folder.
            baked: make the memories a part of the weights instead, see [`editing.memories.bake`][].

        Raises:
            TracerError: the folder is not empty, or cannot be written; memories that cannot be a part of the weights.
        """
        return bake(self.model, folder, overwrite) if baked else save(self.model, folder, overwrite)


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
