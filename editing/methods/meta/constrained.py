"""KE's objective: say the targets as well as can be while others move by no more than a margin, by a multiplier.

    minimise over the net, maximise over the multiplier:    edit loss + multiplier (KL - margin)
"""

from __future__ import annotations

from torch import Tensor


def constrained(edit: Tensor, divergence: Tensor, multiplier: Tensor, margin: float) -> Tensor:
    """The Lagrangian, with the multiplier's gradient turned around: one optimiser goes downhill with all of it.

    Args:
        edit: loss on the targets.
        divergence: of kept rows.
        multiplier: of the constraint.
        margin: largest divergence.
    """
    over = divergence - margin
    return edit + multiplier.detach() * over - (multiplier - multiplier.detach()) * over.detach()
