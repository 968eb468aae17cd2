"""The bits a weight had after each edit: the first ones are kept for good, later ones while there is room."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.edits.edit import Edit


@dataclass(frozen=True, eq=False)
class Step:
    """One edit as it was made.

    Attributes:
        edit: the edit.
        digests: hash of the bits of every weight it wrote, after it.
        fingerprint: hash of all weights of the model, after it.
    """

    edit: Edit
    digests: Mapping[str, str]
    fingerprint: str


class Versions:
    """Bits of weights on the CPU, by name and number of the edit they come from; number 0 is as it was loaded.

    Args:
        budget: bytes for versions other than the first; those not used for longest go when it is exceeded.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._first: dict[str, Tensor] = {}
        self._later: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._held = 0  # bytes of the later ones

    def __contains__(self, name: str) -> bool:
        return name in self._first

    def names(self) -> tuple[str, ...]:
        """Every weight with a first version."""
        return tuple(self._first)

    def keep(self, name: str, number: int, bits: Tensor) -> None:
        """Remember `bits`, which nobody writes to from now on, as those of a weight after edit `number`."""
        if number == 0:
            self._first[name] = bits
            return
        self._drop((name, number))
        self._later[name, number] = bits
        self._held += bits.nbytes
        while self._held > self.budget:
            self._drop(next(iter(self._later)))

    def forget_after(self, number: int) -> None:
        """Drop the versions of edits later than `number`."""
        for key in [key for key in self._later if key[1] > number]:
            self._drop(key)

    def settle(self, number: int) -> None:
        """Drop the versions that neither state `number` nor the one before it has."""
        for name in self._first:
            own = [n for kept, n in self._later if kept == name]
            needed = {max((n for n in own if n <= state), default=0) for state in (number - 1, number)}
            for n in own:
                if n not in needed:
                    self._drop((name, n))

    @torch.no_grad()
    def bits(self, name: str, steps: Sequence[Step], device: torch.device) -> Tensor:
        """The bits of a weight after `steps`, on `device`; made again from the nearest version that is kept."""
        numbers = [0] + [number for number, step in enumerate(steps, 1) if name in step.digests]
        known = next(n for n in reversed(numbers) if n == 0 or (name, n) in self._later)
        bits = (self._first[name] if known == 0 else self._later[name, known]).to(device)
        if known:
            self._later.move_to_end((name, known))
        for number in numbers[numbers.index(known) + 1 :]:
            bits = steps[number - 1].edit.on_weight(name, bits)
            self.keep(name, number, bits.cpu())
        return bits

    def copy(self) -> Versions:
        """Another collection of the same tensors."""
        other = copy.copy(self)
        other._first, other._later = dict(self._first), OrderedDict(self._later)
        return other

    def _drop(self, key: tuple[str, int]) -> None:
        if key in self._later:
            self._held -= self._later.pop(key).nbytes
