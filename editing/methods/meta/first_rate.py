"""The step size that an editor's training begins with: the one that lowers the loss most before any training.

How far a step has to go depends on the model: on the sizes of its weights, inputs and gradients. At a rate of another
model's nothing happens, or every neighbour is lost, and training spends its steps on that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

FACTOR = 2.0  # between two rates that are tried
MOST = 24  # rates: a range of 2^24


def lowest(loss: Callable[[float], float], first: float) -> float:
    """The size, among the first one times powers of two, beyond which the loss rises on either side.

    Args:
        loss: by size; one that is not finite is never the lowest.
        first: size that is tried first.
    """
    known: dict[int, float] = {}

    def at(power: int) -> float:
        if power not in known:
            found = loss(first * FACTOR**power)
            known[power] = found if math.isfinite(found) else math.inf
        return known[power]

    best = 0
    for way in (-1, 1):
        while len(known) < MOST and at(best + way) < at(best):
            best += way
    return first * FACTOR**best
