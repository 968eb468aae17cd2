"""Mean and spread of inputs and gradients, coordinate by coordinate, by which an editor's nets see them normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

NAMES = ("count", "mean", "squares")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of the rows [x, delta] of the matrices of one shape, in float64.

    Attributes:
        count: tokens seen.
        mean: [in + out].
        squares: sum of squared differences from the mean, [in + out].
    """

    count: float
    mean: Tensor
    squares: Tensor

    @classmethod
    def none(cls, width: int) -> Self:
        """Of no tokens.

        Args:
            width: in + out.
        """
        return cls(0.0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64))

    def seen(self, rows: Tensor, published: bool = False) -> Statistics:
        """Those of more tokens.

        Args:
            rows: [n, in + out].
            published: as MALMEN's code has it, where the squares of n tokens count n / (n - 1) times.
        """
        rows = rows.detach().to("cpu", torch.float64)
        if not len(rows):
            return self
        n, total = len(rows), self.count + len(rows)
        mean = rows.mean(0)
        squares = (rows - mean).square().sum(0) * (n / (n - 1) if published else 1.0)
        apart = mean - self.mean
        return Statistics(
            total, self.mean + apart * (n / total), self.squares + squares + apart.square() * (self.count * n / total)
        )

    def spread(self, width: int, epsilon: float, floor: float) -> Tensor:
        """What coordinates are divided by: their standard deviations, [in + out].

        Args:
            width: in; where the gradients begin.
            epsilon: added to the standard deviations.
            floor: the least of them, as a share of the median over inputs, or over gradients; so that a coordinate that
                never moved does not decide all when it first does.
        """
        spread = (self.squares / max(self.count - 1, 1)).sqrt()
        parts = spread.split((width, len(spread) - width))
        return torch.cat([part.clamp_min(floor * float(part.median())) for part in parts]) + epsilon

    def tensors(self, shape: str) -> dict[str, Tensor]:
        """As tensors of an artefact, float32.

        Args:
            shape: of the matrices.
        """
        values = (torch.tensor([self.count]), self.mean, self.squares)
        return {f"{shape}/{name}": value.float() for name, value in zip(NAMES, values, strict=True)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], shape: str) -> Self:
        """Back from `tensors`.

        Args:
            tensors: of an artefact.
            shape: of the matrices.
        """
        count, mean, squares = (tensors[f"{shape}/{name}"].double() for name in NAMES)
        return cls(float(count), mean, squares)
