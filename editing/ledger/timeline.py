"""The states that edits lead a model through, of which it has one: there and back to the bit, in full or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from editing.edits.edit import Edit
from editing.edits.state import State, memories_of
from editing.edits.weights import bits, check_editable, digest, digests, parameter
from editing.memories.change import MemoryChange, folded
from editing.memories.memory import Memory
from tracer.errors import LedgerFolderError, NoSuchState, WeightsChanged
from tracer.files import uninterrupted
from tracer.model import Model

from .folder import Base, Ledger
from .weight_history import Step, Versions


@dataclass(frozen=True, eq=False)
class _Now:
    steps: tuple[Step, ...]
    position: int
    memories: Mapping[str, Memory]  # that the model has


class Timeline:
    """The steps from a model's first state on; its weights and memories are changed in place.

    Args:
        model: as it is before the first edit.
        budget: bytes of memory for the weights between the first and the present state.

    Attributes:
        model: the model.
        base: what it was before the first edit.
        versions: the bits of weights that were written to.
        ledger: where every step is written; None: nowhere.
    """

    def __init__(self, model: Model, budget: int) -> None:
        self.model, self.base, self.versions = model, Base.of(model, model.fingerprint()), Versions(budget)
        self.ledger: Ledger | None = None
        self._first = memories_of(model)  # before the first edit
        self._now = _Now((), 0, self._first)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them, also those that were undone and can be made again."""
        return self._now.steps

    @property
    def position(self) -> int:
        """Number of steps that the model has."""
        return self._now.position

    def resume(self, ledger: Ledger, steps: tuple[Step, ...], position: int, folder: Any) -> None:
        """Bring a model as it was before its first edit to where a ledger was left, and go on writing there.

        Args:
            ledger: in the folder.
            steps: of it.
            position: where it was left.
            folder: for messages.

        Raises:
            TracerError: another model, or steps that lead to other bits. The model is left as it was.
        """
        own, its = Base.of(self.model, self.model.fingerprint(ledger.base.fingerprint)), ledger.base
        if own.fingerprint != its.fingerprint:
            raise LedgerFolderError(
                f"the ledger in {folder} begins with the weights {its.fingerprint[:12]} of {its.model} in {its.dtype}, "
                f"but {own.model} has {own.fingerprint[:12]} in {own.dtype}; give that model, as it was before the "
                "first edit"
            )
        names = dict.fromkeys(name for step in steps for name in step.edit.weights)
        check_editable(self.model, names)
        for name, original in bits(self.model, names).items():
            self.versions.keep(name, 0, original.cpu())
        self._now = _Now(steps, 0, self._first)
        self.go(position, force=False)
        if position and self.model.fingerprint(noted := steps[position - 1].fingerprint) != noted:
            self.go(0, force=False)
            raise LedgerFolderError(
                f"the ledger in {folder} notes another fingerprint after edit {position}; it was changed, take a "
                "copy of it as it was"
            )
        self.ledger = ledger

    def unchanged(self) -> Model:
        """The model with its fingerprint taken.

        Raises:
            TracerError: weights or memories that something else has changed.
        """
        model = self.model.pinned()
        noted = self.steps[self.position - 1].fingerprint if self.position else self.base.fingerprint
        if model.fingerprint(noted) != noted:
            raise WeightsChanged(self._complaint(self._changed(self.versions.names())))
        return model

    def commit(self, edit: Edit) -> None:
        """Make an edit; steps that were undone before are dropped."""
        new = edit.proposed(self.model)
        number = self.position + 1
        unknown = [name for name in new.weights if name not in self.versions]
        first = {name: t.cpu() for name, t in bits(self.model, unknown).items()}
        kept = {name: t.cpu() for name, t in new.weights.items()}
        with self._all_or_nothing(new):
            step = Step(edit, digests(self.model, new.weights), self.model.fingerprint())
            steps = (*self.steps[: self.position], step)
            self._note(_Now(steps, number, memories_of(self.model)), first, kept)

    def go(self, k: int, force: bool) -> None:
        """Give the model the weights and memories of a step; see [`editing.Editor.checkout`][]."""
        steps = self.steps
        low, high = sorted((k, self.position))
        between = dict.fromkeys(name for step in steps[low:high] for name in step.digests)
        memories = self._memories(steps[:k])
        if not force and (changed := self._changed(between)):
            raise WeightsChanged(self._complaint(changed))
        names = self.versions.names() if force else between
        target = {name: self.versions.bits(name, steps[:k], parameter(self.model, name).device) for name in names}
        touched = {change.name for step in steps[low:high] for change in step.edit.memories}
        touched |= {*memories, *memories_of(self.model)} if force else set()
        with self._all_or_nothing(State(target, {name: memories.get(name) for name in touched})):
            wrong = [name for name in names if digest(parameter(self.model, name)) != self._noted(name, k)]
            if wrong:
                raise NoSuchState(
                    f"state {k} of {self.model.name} cannot be made again: {wrong[0]!r} comes out with other bits than "
                    "it had; an edit of the history was changed. The model was left as it is"
                )
            self._note(_Now(steps, k, memories))

    def present(self) -> State:
        """All that any edit has written to, as it is now, on the CPU."""
        now = State.of(self.model, self.versions.names(), {*self._first, *memories_of(self.model)})
        return State({name: tensor.cpu() for name, tensor in now.weights.items()}, now.memories)

    def settle(self) -> None:
        """Give up the way to states other than this one, the one before and the first; with a ledger, nothing."""
        if self.ledger is None and self.position:
            *former, last = self.steps[: self.position]
            steps = (*(replace(step, edit=_light(step.edit)) for step in former), last)
            self.versions.settle(self.position)
            self._now = replace(self._now, steps=steps)

    def adopt(self, state: State, edits: Sequence[Edit]) -> None:
        """Go on from a state that edits led to elsewhere; see [`editing.Editor.adopt`][]."""
        check_editable(self.model, state.weights)
        new = {name: tensor.to(parameter(self.model, name).device) for name, tensor in state.weights.items()}
        pairs = [(self._first.get(name), memory) for name, memory in state.memories.items()]
        changes = tuple(MemoryChange.between(*pair) for pair in pairs if pair[0] is not pair[1])
        none = Edit({}, "", {}, (), self.base.fingerprint, self.model.name)
        *former, last = edits or (none,)
        unknown = [name for name in new if name not in self.versions]
        first = {name: tensor.cpu() for name, tensor in bits(self.model, unknown).items()}
        with self._all_or_nothing(State(new, state.memories)):
            steps = [Step(replace(edit, factors={}, memories=()), {}, "") for edit in former]
            whole = replace(last, factors={}, memories=changes)
            steps.append(Step(whole, digests(self.model, new), self.model.fingerprint()))
            kept = {name: tensor.cpu() for name, tensor in new.items()}
            self._note(_Now(tuple(steps), len(steps), memories_of(self.model)), first, kept)

    @contextmanager
    def as_loaded(self) -> Iterator[None]:
        """The model has the weights from before the first edit inside, and its present bits again afterwards."""
        names = self.versions.names()
        weights = {name: self.versions.bits(name, (), parameter(self.model, name).device) for name in names}
        memories = {name: self._first.get(name) for name in {*self._first, *memories_of(self.model)}}
        with State(weights, memories).applied(self.model):
            yield

    def copy(self, model: Model) -> Timeline:
        """The same history of a copy of the model, without a ledger."""
        other = Timeline.__new__(Timeline)
        other.model, other.base, other.versions, other.ledger = model, self.base, self.versions.copy(), None
        other._first, other._now = self._first, self._now
        return other

    # --- inside ----------------------------------------------------------------------------------------------------
    def _note(self, state: _Now, first: Mapping[str, Tensor] | None = None, kept: Any = None) -> None:
        """Take a state for the present one, on disk and here."""
        with uninterrupted():
            if self.ledger is not None:
                self.ledger.write(state.steps, state.position)
            for name, original in (first or {}).items():
                self.versions.keep(name, 0, original)
            if kept is not None:
                self.versions.forget_after(state.position - 1)
                for name, now in kept.items():
                    self.versions.keep(name, state.position, now)
            self._now = state

    @contextmanager
    def _all_or_nothing(self, new: State) -> Iterator[None]:
        """The model has `new` inside, and keeps it if a new state was noted by the end."""
        before, state = new.before(self.model), self._now
        try:
            new.write(self.model)
            yield
        except BaseException:
            if self._now is state:
                before.write(self.model)
            raise

    def _changed(self, names: Iterable[str]) -> list[str]:
        """Those of the named weights, and of the memories, that are not those of the present state."""
        wrong = [name for name in names if digest(parameter(self.model, name)) != self._noted(name, self.position)]
        present, noted = memories_of(self.model), self._now.memories
        own, its = ({name: memory.digest for name, memory in each.items()} for each in (present, noted))
        return [*wrong, *(f"memory {name}" for name in sorted({*own, *its}) if own.get(name) != its.get(name))]

    def _memories(self, steps: Sequence[Step]) -> dict[str, Memory]:
        """The memories of the model after these steps, made again from the first ones."""
        changes: dict[str, list[MemoryChange]] = {}
        for change in (change for step in steps for change in step.edit.memories):
            changes.setdefault(change.name, []).append(change)
        found = {**self._first, **{name: folded(self._first.get(name), each) for name, each in changes.items()}}
        return {name: memory for name, memory in found.items() if memory is not None}

    def _noted(self, name: str, k: int) -> str:
        """Digest of a weight in state `k`, as it was noted."""
        found = (step.digests[name] for step in reversed(self.steps[:k]) if name in step.digests)
        return next(found, None) or digest(self.versions.bits(name, (), parameter(self.model, name).device))

    def _complaint(self, changed: list[str]) -> str:
        which = f"{changed[0]!r}" if changed else "a weight or buffer that no edit has touched"
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        back = f"put back what edits have touched by checkout({self.position}, force=True), or " if changed else ""
        return (
            f"{self.model.name} is not as this editor left it: {which}{more} was changed from elsewhere; {back}begin "
            "anew on the weights as they are with Editor(model)"
        )


def _light(edit: Edit) -> Edit:
    """An edit without its factors; changes of memories are small."""
    return replace(edit, factors={})
