"""Validation of patches as published: a rate that is lowered on a plateau, and an end by states kept aside."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

FACTOR, PATIENCE, THRESHOLD = 0.5, 1, 0.05
"""Of the rate; how often the target's loss may fail to fall; and by which share it has to fall."""
LEAST = 1e-3
"""By how much the terms at states kept aside have to fall."""
ASIDE = 5  # one of so many states is kept aside


class Plateau:
    """What validations of a group of patches have shown.

    Args:
        adam: whose rates are lowered.
    """

    def __init__(self, adam: torch.optim.Optimizer) -> None:
        self.rate = ReduceLROnPlateau(adam, factor=FACTOR, patience=PATIENCE, threshold=THRESHOLD)
        self.losses: list[float] = []

    def ends(self, target: float, aside: float | None) -> bool:
        """Note a validation, and whether training ends with it.

        Args:
            target: loss of the target.
            aside: terms of the loss at states kept aside; None while the target is not said, or it is too early.
        """
        self.rate.step(target)
        if aside is None:
            return False
        self.losses.append(aside)
        best = 0
        for place, loss in enumerate(self.losses):
            if loss < self.losses[best] - LEAST:
                best = place
        return best < len(self.losses) - 1
