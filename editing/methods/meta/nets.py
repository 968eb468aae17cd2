"""The nets of MEND and MALMEN: what becomes of x and delta of a token, by nets that matrices of one shape share.

Each is a chain of blocks of low rank around the identity, with a scale and a shift of every matrix's own. As published:

    mend       z <- z + max(0, (z A B + bias) * scale + shift)
    malmen     z <- z + max(0, z A B + bias) * scale + shift

on z = [x, delta], normalised; with B = 0 at the start, so that both are the identity then. Neither can lower what is
positive in both a request and its neighbours: what the clamp leaves has one sign at every coordinate. Here, by default:

    weighted   z <- z + (max(0, z A + threshold) B + bias) * scale + shift

with the clamp between A and B, and every token's delta times a weight between 0 and 2, read from the features of the
last block: 2 / (1 + exp(-features . token - token_bias)), 1 at the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .places import Place
from .statistics import Statistics
from .whitening import Whitening

MEND, MALMEN, WEIGHTED = RULES = ("mend", "malmen", "weighted")


@dataclass(frozen=True, eq=False)
class Nets:
    """Nets and statistics of an editor, by shape of the matrices.

    Attributes:
        places: the matrices.
        parameters: by "SHAPE/PART.BLOCK", and "rate" [places], "log_ridge" [places] where the method has them.
        statistics: by shape.
        blocks: of each net.
        rule: one of `RULES`.
        epsilon: see [`editing.methods.meta.statistics.Statistics`][].
        floor: likewise.
        whitening: of the inputs, by key of the place; none: as they are, as published.
    """

    places: tuple[Place, ...]
    parameters: Mapping[str, Tensor]
    statistics: Mapping[str, Statistics]
    blocks: int
    rule: str
    epsilon: float
    floor: float
    whitening: Mapping[str, Whitening] = field(default_factory=dict)

    def made_of(self, place: Place, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """What the net makes of x and delta, [n, in] and [n, out].

        Args:
            place: the matrix.
            x: inputs there, [n, in].
            delta: gradients there, [n, out].
        """
        rows = torch.cat([x, delta], 1)
        mean, spread = self.statistics[place.shape].mean, self.spread(place)
        z = ((rows - mean.to(rows)) / spread.to(rows)).to(self.parameters["rate"].dtype)
        same = [other for other in self.places if other.shape == place.shape]
        mode = same.index(place)
        for block in range(self.blocks):
            a, b, bias = (self.parameters[f"{place.shape}/{part}.{block}"] for part in ("A", "B", "bias"))
            scale, shift = (self.parameters[f"{place.shape}/{part}.{block}"][mode] for part in ("scale", "shift"))
            features = z @ a
            if self.rule == WEIGHTED:
                features = (features + self.parameters[f"{place.shape}/threshold.{block}"]).clamp_min(0)
                z = z + (features @ b + bias) * scale + shift
            elif self.rule == MALMEN:
                z = z + (features @ b + bias).clamp_min(0) * scale + shift
            else:
                z = z + ((features @ b + bias) * scale + shift).clamp_min(0)
        x, delta = z.split(place.width, 1)
        if self.rule == WEIGHTED:
            token, bias = (self.parameters[f"{place.shape}/{part}"][mode] for part in ("token", "token_bias"))
            delta = delta * 2 * torch.sigmoid(features @ token + bias).unsqueeze(1)
        return x, delta

    def as_key(self, place: Place, x: Tensor) -> Tensor:
        """What the net makes of inputs, whitened where that is done, in units of an input's size.

        Args:
            place: the matrix.
            x: of `made_of`, [n, in].
        """
        if place.key not in self.whitening:
            return x
        own, spread = self.whitening[place.key], self.spread(place)[: place.width[0]].to(x)
        return own.applied(x * spread) * (own.size / spread.mean())

    def spread(self, place: Place) -> Tensor:
        """What the coordinates of x and delta are divided by, [in + out].

        Args:
            place: the matrix.
        """
        return self.statistics[place.shape].spread(place.width[0], self.epsilon, self.floor)

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
    places: Sequence[Place],
    rule: str,
    rank: int,
    blocks: int,
    spread: float,
    draw: torch.Generator,
    device: torch.device,
) -> dict[str, Tensor]:
    """Parameters of nets that are the identity.

    Args:
        places: the matrices.
        rule: one of `RULES`.
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
            if rule == WEIGHTED:
                found[f"{shape}/threshold.{block}"] = torch.zeros(min(rank, width))
        if rule == WEIGHTED:
            found[f"{shape}/token"] = torch.zeros(len(own), min(rank, width))
            found[f"{shape}/token_bias"] = torch.zeros(len(own))
    return {name: tensor.to(device) for name, tensor in found.items()}
