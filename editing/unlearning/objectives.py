"""What is minimised so that a model forgets, as functions of losses or states; each with the paper it is of.

Below, `losses` are -log p of tokens, `sums` of whole answers, with n tokens each.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def grad_ascent(losses: Tensor) -> Tensor:
    """Ascent: minus the mean loss (Jang et al. 2023). It has no bound, and ends in nonsense.

    Args:
        losses: of tokens that are to be forgotten.
    """
    return -losses.mean()


def npo(sums: Tensor, before: Tensor, beta: float) -> Tensor:
    """Negative preference optimisation (Zhang et al. 2024, eq. 3): -2/b mean log sigmoid(b (l - l0)).

    At the start it has the gradient of ascent, and less the more is forgotten.

    Args:
        sums: l, losses of whole answers.
        before: l0, of the model before.
        beta: b.
    """
    return -2 / beta * logsigmoid(beta * (sums - before)).mean()


def simnpo(sums: Tensor, tokens: Tensor, beta: float, delta: float) -> Tensor:
    """The same without a reference, by token (Fan et al. 2024, eq. 4): -2/b mean log sigmoid(b (l / n - d)).

    Args:
        sums: l, losses of whole answers.
        tokens: n, of each.
        beta: b.
        delta: d.
    """
    return -2 / beta * logsigmoid(beta * (sums / tokens - delta)).mean()


def wga(losses: Tensor, beta: float) -> Tensor:
    """Weighted ascent (Wang et al. 2025): each token's loss times its probability to the power b, held fixed.

    Args:
        losses: of tokens that are to be forgotten.
        beta: b.
    """
    return -((-losses.detach() * beta).exp() * losses).mean()


def kl_to(before: Tensor, now: Tensor) -> Tensor:
    """Mean over places of KL(before || now).

    Args:
        before: log-probabilities [places, V] of the model before.
        now: those of the model that is trained.
    """
    return (before.exp() * (before - now)).sum(-1).mean()


def rmu(states: Tensor, direction: Tensor) -> Tensor:
    """Mean squared distance of states from a fixed vector (Li et al. 2024, "The WMDP benchmark", section 4).

    Args:
        states: [places, d_model] of what is to be forgotten, at its answers.
        direction: [d_model], the vector.
    """
    return (states - direction).square().mean()


def rmu_retain(states: Tensor, before: Tensor) -> Tensor:
    """Mean squared distance of the states of what is to stay from those of the model before.

    Args:
        states: [places, d_model].
        before: those of the model before.
    """
    return (states - before).square().mean()
