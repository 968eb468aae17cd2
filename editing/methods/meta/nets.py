"""The nets of MEND and MALMEN: what becomes of x and delta of a token, by nets that matrices of one shape share.

Each is a chain of blocks of low rank around the identity, with a scale and a shift of every matrix's own:

    MEND     z <- z + max(0, (z A B + bias) * scale + shift)
    MALMEN   z <- z + max(0, z A B + bias) * scale + shift

on z = [x, delta], normalised; with B = 0 at the start, so that both are the identity then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .places import Place
from .statistics import Statistics

PARTS = ("A", "B", "bias", "scale", "shift")


@dataclass(frozen=True, eq=False)
class Nets:
    """Nets and statistics of an editor, by shape of the matrices.

    Attributes:
        places: the matrices.
        parameters: by "SHAPE/PART.BLOCK", and "rate" [places], "log_ridge" [places] where the method has them.
        statistics: by shape.
        blocks: of each net.
        outside: scale and shift act after the clamp (MALMEN), not inside it (MEND).
        epsilon: see [`editing.methods.meta.statistics.Statistics`][].
        floor: likewise.
    """

    places: tuple[Place, ...]
    parameters: Mapping[str, Tensor]
    statistics: Mapping[str, Statistics]
    blocks: int
    outside: bool
    epsilon: float
    floor: float

    def made_of(self, place: Place, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """What the net makes of x and delta, [n, in] and [n, out].

        Args:
            place: the matrix.
            x: inputs there, [n, in].
            delta: gradients there, [n, out].
        """
        rows = torch.cat([x, delta], 1)
        own = self.statistics[place.shape]
        z = own.normalised(rows, place.width[0], self.epsilon, self.floor).to(self.parameters["rate"].dtype)
        same = [other for other in self.places if other.shape == place.shape]
        mode = same.index(place)
        for block in range(self.blocks):
            a, b, bias, scale, shift = (self.parameters[f"{place.shape}/{part}.{block}"] for part in PARTS)
            inner = z @ a @ b + bias
            if self.outside:
                z = z + inner.clamp_min(0) * scale[mode] + shift[mode]
            else:
                z = z + (inner * scale[mode] + shift[mode]).clamp_min(0)
        return z[:, : place.width[0]], z[:, place.width[0] :]

    def seeing(self, place: Place, x: Tensor, delta: Tensor, published: bool = False) -> Nets:
        """The same with statistics that have seen more tokens.

        Args:
            place: the matrix.
            x: inputs there, [n, in].
            delta: gradients there, [n, out].
            published: as of `Statistics.seen`.
        """
        own = self.statistics[place.shape].seen(torch.cat([x, delta], 1), published)
        return replace(self, statistics={**self.statistics, place.shape: own})


def new_parameters(
    places: Sequence[Place], rank: int, blocks: int, spread: float, draw: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    """Parameters of nets that are the identity.

    Args:
        places: the matrices.
        rank: of a block.
        blocks: of a net.
        spread: standard deviation of a block's features of normalised factors, at the start.
        draw: random numbers.
        device: of the parameters.
    """
    found: dict[str, Tensor] = {}
    for shape in dict.fromkeys(place.shape for place in places):
        own = [place for place in places if place.shape == shape]
        width = sum(own[0].width)
        for block in range(blocks):
            found[f"{shape}/A.{block}"] = spread / width**0.5 * torch.randn(width, min(rank, width), generator=draw)
            found[f"{shape}/B.{block}"] = torch.zeros(min(rank, width), width)
            found[f"{shape}/bias.{block}"] = torch.zeros(width)
            found[f"{shape}/scale.{block}"] = torch.ones(len(own), width)
            found[f"{shape}/shift.{block}"] = torch.zeros(len(own), width)
    return {name: tensor.to(device) for name, tensor in found.items()}
