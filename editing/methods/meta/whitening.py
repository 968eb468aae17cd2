"""Inputs whitened by what kept facts have there, so that a change leaves alone what these have in common.

ROME and MEMIT do so with the keys of text. A matrix of second moments C of the inputs where answers of kept rows are
read says more of neighbours: a neighbour's key and the edit's share what their relation and their old answer are. Its
strongest directions are kept apart, and the others taken to be alike: C = V diag(strength) V^T + rest (I - V V^T).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

NAMES = ("directions", "strength")
LEAST = 1e-2  # of the mean square of an input: what directions that were never seen are taken to have


@dataclass(frozen=True, eq=False)
class Whitening:
    """Second moments of the inputs of one matrix.

    Attributes:
        directions: V, orthonormal, [in, r].
        strength: second moments along them, [r], and of any other direction, last.
    """

    directions: Tensor
    strength: Tensor

    @classmethod
    def of(cls, inputs: Tensor, count: int) -> Self:
        """Of some inputs.

        Args:
            inputs: [n, in].
            count: directions, at most.
        """
        exact = inputs.detach().to("cpu", torch.float64)
        values, vectors = torch.linalg.eigh(exact.T @ exact / len(exact))
        count = min(count, len(values) - 1, len(exact))
        others = values[: len(values) - count]
        rest = others.mean().clamp_min(LEAST * values.mean())
        strongest = values[len(others) :].clamp_min(rest)
        return cls(vectors[:, len(others) :].float(), torch.cat([strongest, rest.unsqueeze(0)]).float())

    @property
    def size(self) -> float:
        """Mean second moment of a coordinate."""
        wide, r = self.directions.shape
        return float((self.strength[:-1].sum() + self.strength[-1] * (wide - r)) / wide)

    def applied(self, rows: Tensor) -> Tensor:
        """Rows times C^-1, in the graph.

        Args:
            rows: [..., in].
        """
        directions, strength = (each.to(rows) for each in (self.directions, self.strength))
        less = 1 / strength[-1] - 1 / strength[:-1]
        return rows / strength[-1] - ((rows @ directions) * less) @ directions.T

    def tensors(self, key: str) -> dict[str, Tensor]:
        """As tensors of an artefact, the directions in half precision.

        Args:
            key: of the place.
        """
        return {f"{key}/directions": self.directions.half(), f"{key}/strength": self.strength}

    @classmethod
    def kept(cls, tensors: Mapping[str, Tensor], key: str) -> Self:
        """Back from `tensors`.

        Args:
            tensors: of an artefact.
            key: of the place.
        """
        directions, strength = (tensors[f"{key}/{name}"] for name in NAMES)
        return cls(torch.linalg.qr(directions.double())[0].float(), strength.float())
