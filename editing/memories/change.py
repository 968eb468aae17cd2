"""A change of a memory, as entries added to it, so that many changes cost what they add; and what they lead to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.errors import MemoryMisfit

from .memory import Memory
from .registry import kind_named

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class MemoryChange:
    """From the memory that a model has under a name to the next one. Made by `between`.

    Attributes:
        name: of the memory.
        kind: of the next one; "" if there is none any more.
        before: digest of the memory it begins with; "" for none.
        after: digest of the next one; "" for none, or where it is not known (of a control).
        kept: rows of the former tensors that the next ones begin with, by name.
        rows: what comes behind these in each tensor of the next one.
        header: of the next one.
        fingerprint: hash of the weights that the next one was made on.
    """

    name: str
    kind: str
    before: str
    after: str
    kept: Mapping[str, int]
    rows: Mapping[str, Tensor]
    header: Mapping[str, Any]
    fingerprint: str

    @classmethod
    def between(cls, before: Memory | None, after: Memory | None) -> MemoryChange:
        """The change from one memory to another of the same name; None for no memory.

        Args:
            before: the memory it begins with.
            after: the next one.

        Raises:
            TracerError: two names, or no memory at all.
        """
        names = {memory.name for memory in (before, after) if memory is not None}
        if len(names) != 1:
            raise MemoryMisfit(
                f"a change goes from a memory to another of its name, not between {sorted(names) or 'none and none'}; "
                "make one change for each name"
            )
        if after is None:
            return cls(names.pop(), "", before.digest if before else "", "", {}, {}, {}, "")
        former = before.tensors if before is not None and before.kind == after.kind else {}
        kept = {name: _equal_rows(former[name], tensor) for name, tensor in after.tensors.items() if name in former}
        kept = {name: count for name, count in kept.items() if count}
        rows = {
            name: tensor[kept[name] :].clone() if name in kept else tensor for name, tensor in after.tensors.items()
        }
        digest = before.digest if before is not None else ""
        return cls(names.pop(), after.kind, digest, after.digest, kept, rows, after.header, after.fingerprint)

    def on(self, before: Memory | None) -> Memory | None:
        """The memory that the change leads to; None: there is none any more.

        Args:
            before: the memory that it begins with.

        Raises:
            TracerError: it begins with another one, or leads to another one than it did.
        """
        found = before.digest if before is not None else ""
        if found != self.before:
            raise MemoryMisfit(
                f"this edit begins with {_told(self.name, self.before)}, but the model has "
                f"{_told(self.name, found)}; make the edits before it first (Editor.checkout, or apply them in order)"
            )
        after = self._step(before)
        if self.after and after is not None and after.digest != self.after:
            raise MemoryMisfit(
                f"this edit leads to {_told(self.name, after.digest)} instead of {self.after[:12]}; its file was "
                "changed, take a copy of it as it was"
            )
        return after

    def control(self, seed: int) -> MemoryChange:
        """The same change with what it adds in random directions of the same lengths.

        Args:
            seed: of the draw.
        """
        if not self.kind:
            return self
        rows = kind_named(self.kind).control(self.rows, torch.Generator().manual_seed(seed))
        return MemoryChange(self.name, self.kind, self.before, "", self.kept, rows, self.header, self.fingerprint)

    @property
    def nbytes(self) -> int:
        """Bytes that it adds."""
        return sum(tensor.nbytes for tensor in self.rows.values())

    def describe(self) -> str:
        """What it does, in a line."""
        if not self.kind:
            return f"memory {self.name!r} taken off"
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in self.rows.items() if len(tensor.shape))
        return f"memory {self.name!r} ({self.kind}): adds {shapes or 'nothing'}, {self.nbytes / 1e3:.3g} kB"

    def check(self, before: Memory | None, model: Model) -> Memory | None:
        """As `on`, and that what it leads to fits a model.

        Args:
            before: the memory that the model has.
            model: to which the next one is to be attached.
        """
        after = self.on(before)
        if after is not None:
            after.acts.check(after, model)
        return after

    # --- in a file -------------------------------------------------------------------------------------------------
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name in a file."""
        return {f"memory/{self.name}/{name}": tensor for name, tensor in self.rows.items()}

    def described(self) -> dict[str, Any]:
        """The rest, as json values."""
        names = ("name", "kind", "before", "after", "fingerprint")
        own = {name: getattr(self, name) for name in names}
        return {**own, "kept": dict(self.kept), "header": dict(self.header), "rows": list(self.rows)}

    @classmethod
    def of(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MemoryChange:
        """The change of `described` and `tensors`."""
        rows = {name: tensors[f"memory/{described['name']}/{name}"] for name in described["rows"]}
        return cls(**{**described, "rows": rows})

    def _step(self, before: Memory | None) -> Memory | None:
        if not self.kind:
            return None
        former = before.tensors if before is not None else {}
        tensors = {
            name: torch.cat([former[name][: self.kept[name]], rows]) if name in self.kept else rows
            for name, rows in self.rows.items()
        }
        return Memory(self.name, self.kind, self.fingerprint, tensors, self.header)


def folded(before: Memory | None, changes: Iterable[MemoryChange]) -> Memory | None:
    """The memory that several changes of one name lead to.

    Args:
        before: the memory that the first begins with.
        changes: in order.

    Raises:
        TracerError: a change that begins with another memory than the one before it leads to.
    """
    for change in changes:
        before = change.on(before)
    return before


def _equal_rows(one: Tensor, two: Tensor) -> int:
    """Number of rows, from the first on, that are the same bits in both."""
    if one.dtype != two.dtype or one.dim() == 0 or one.shape[1:] != two.shape[1:]:
        return 0
    count = min(len(one), len(two)) if one.numel() and two.numel() else 0
    if not count:
        return 0
    same = (one[:count].contiguous().view(torch.uint8) == two[:count].contiguous().view(torch.uint8)).reshape(count, -1)
    different = (~same.all(1)).nonzero()
    return int(different[0]) if len(different) else count


def _told(name: str, digest: str) -> str:
    return f"the memory {name!r} {digest[:12]}" if digest else f"no memory {name!r}"
