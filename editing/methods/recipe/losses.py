"""RECIPE's losses: of what is retrieved, of what is said with a soft prompt in front, and of what is to stay."""

from __future__ import annotations

import torch
from torch import Tensor

HINGE = 1.2


def retrieval_losses(
    first: Tensor, second: Tensor, apart: Tensor, hinge: float = HINGE
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of similarities [queries, 1 + entries], whose first column is the sentinel's.

    Args:
        first: of queries about the entries, one each: their own entry is to win.
        second: of other queries about them: without their own entry, the sentinel is to win.
        apart: of queries about something else: the sentinel is to win.
        hinge: a sentinel that is so many times as probable as the next best is good enough, and not counted.
    """
    own = torch.arange(len(first), device=first.device)
    hit = -first.log_softmax(-1)[own, own + 1].mean()
    others = second.scatter(1, (own + 1).unsqueeze(1), -torch.inf)
    return hit, sentinel_loss(others, hinge), sentinel_loss(apart, hinge)


def sentinel_loss(similarity: Tensor, hinge: float) -> Tensor:
    """Mean of -log p of the sentinel over the queries at which it is not good enough; zero without any."""
    log_p = similarity.log_softmax(-1)
    return _mean(-log_p[:, 0], log_p[:, 0] < log_p[:, 1:].amax(-1) + torch.tensor(hinge).log())


def said_loss(logits: Tensor, target: Tensor, hinge: float = HINGE) -> Tensor:
    """Mean of -log p over the tokens of targets that are not probable enough; zero without any.

    Args:
        logits: [places, V].
        target: ids [places].
        hinge: a token that is so many times as probable as the next best is not counted.
    """
    log_p = logits.log_softmax(-1)
    own = log_p.gather(1, target.unsqueeze(1))
    other = log_p.scatter(1, target.unsqueeze(1), -torch.inf).amax(-1)
    return _mean(-own[:, 0], own[:, 0] < other + torch.tensor(hinge).log())


def kept_loss(bare: Tensor, logits: Tensor) -> Tensor:
    """Mean of KL(without the prompt, with it) over places.

    Args:
        bare: logits [places, V] without anything in front.
        logits: with it.
    """
    log_p = bare.log_softmax(-1)
    return (log_p.exp() * (log_p - logits.log_softmax(-1))).sum(-1).mean()


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp_min(1)
