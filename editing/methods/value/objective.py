"""The loss that a search for a value goes down, where it ends, and how far that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LIKELY = 1.0  # an NLL below which the target's log-odds are followed, and what its mean over contexts hides is little

LEAST = 1e-4  # an NLL that a search is never meant to go below


@dataclass(frozen=True)
class Objective:
    """Loss per request: NLL of the target + kl_factor * KL(now || before) + weight decay.

    Settings that are None are measured by the effect on the answer, request by request. The gradient says how long a
    step would make the target certain if the NLL went on falling as it does: NLL / |gradient|, Polyak's step (1987) to
    a minimum of zero. With a `v_lr` of None every update goes down the gradient, `stride` of such a step, and never
    further than the first one: values end less than half as long as Adam's at the same NLL, since Adam moves every
    coordinate alike, also those that do little. Near the end the NLL falls ever more slowly, but the target's log-odds
    go on as they did, so that the step is then the one to the log-odds of half of `stop`.

    Attributes:
        v_steps: number of losses computed, so that at most v_steps - 1 updates are made.
        v_lr: learning rate of Adam; None: steps measured on the gradient.
        v_weight_decay: the weight decay is v_weight_decay * |delta| / |init|^2 (the norm itself, over a squared norm,
            as published); None: it costs 0.15 at the clamp.
        kl_factor: factor of the KL divergence.
        clamp: the vector's norm stays below clamp * |init|; None: `reach` of the first measured steps.
        stop: a loss below it ends the search; where the weight decay is measured, an NLL below it.
        loss_layer: block whose output the target is read from; None: the last.
        nll_factor: factor of the NLL.
        ease: once every target token is the most probable one, the NLL counts this many times `nll_factor` (PMET).
        kl_stop: likewise, the search ends if kl_factor * KL is at most this (PMET).
        patience: a search whose NLL has not fallen by a fiftieth in that many updates, while the target is unlikely,
            starts anew at a third of the rate or stride: with too long a first step a value may land where every
            gradient vanishes. None: never.
        reach: the measured clamp, in measured first steps.
        stride: length of an update, in measured steps.
    """

    v_steps: int
    v_lr: float | None
    v_weight_decay: float | None
    kl_factor: float
    clamp: float | None
    stop: float = 5e-2
    loss_layer: int | None = None
    nll_factor: float = 1.0
    ease: float = 1.0
    kl_stop: float = -1.0
    patience: int | None = None
    reach: float = 6.0
    stride: float = 0.5


def remaining(nll: Tensor | float, stop: float) -> Tensor:
    """How much an NLL would have to fall, at the rate it falls now, until a search that ends at `stop` may end.

    With f = -log p the log-odds of the target are m = -f - log(1 - e^-f), and dm = -df / (1 - e^-f).

    Args:
        nll: at present, in nats; any number of them.
        stop: at which the search ends.
    """
    nll = nll if isinstance(nll, Tensor) else torch.tensor(nll, dtype=torch.float64)
    unlikely = -torch.expm1(-nll)
    wanted = -math.log(math.expm1(max(stop, LEAST) / 2))
    odds = torch.maximum(nll, (wanted + nll + unlikely.log()) * unlikely)
    return torch.where((nll > 0) & (nll < LIKELY), odds, nll)
