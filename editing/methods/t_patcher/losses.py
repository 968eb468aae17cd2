"""What patches are trained with: when they have to be active, and when not (Huang et al. 2023, section 4.2)."""

from __future__ import annotations

import re

from torch import Tensor

from tracer.errors import HyperparameterError

_TERM = re.compile(r"(?:top(?P<top>[1-9]\d*)_)?(?P<form>exp|margin|expmargin)")


def check_term(name: str, what: str) -> None:
    """Check that a term has a name.

    Args:
        name: of the term.
        what: it is for, in the message.

    Raises:
        TracerError: another name.
    """
    if not isinstance(name, str) or not _TERM.fullmatch(name):
        raise HyperparameterError(
            f"{what} is {name!r}; expected 'exp', 'margin' or 'expmargin', or the largest of them, such as 'top5_exp'"
        )


def term(name: str, gaps: Tensor) -> Tensor:
    """One term of the loss, of how far activations are from where they should be.

    "exp" is the mean of exp(gap); "margin" and "expmargin" are the means of gap and exp(gap) where it is above zero,
    and zero without such; with "topN_" in front of either, of the N largest gaps alone.

    Args:
        name: of the term.
        gaps: of any shape; above zero where something is wrong.
    """
    found = _TERM.fullmatch(name)
    assert found is not None
    gaps = gaps.flatten()
    if found["top"]:
        gaps = gaps.topk(min(int(found["top"]), len(gaps))).values
    if found["form"] == "exp":
        return gaps.exp().mean()
    gaps = gaps[gaps > 0]
    if not len(gaps):
        return gaps.sum()
    return gaps.mean() if found["form"] == "margin" else gaps.exp().mean()


def activation_loss(name: str, active: Tensor, margin: float, repeats: int = 1) -> Tensor:
    """L_a: patches are active at their own positions.

    Args:
        name: of the term.
        active: pre-activations of each patch at its own position, [patches].
        margin: that they are to exceed.
        repeats: times that the example is in the batch.
    """
    return term(name, margin - active.expand(repeats, -1))


def memory_loss(names: str, active: Tensor, others: Tensor, margins: tuple[float, float], repeats: int = 1) -> Tensor:
    """L_m1 + L_m2: patches are less active at other states than at their own, and not active there at all.

    Args:
        names: of the two terms, with "+" between them.
        active: as of `activation_loss`.
        others: pre-activations at other states, [states, patches].
        margins: by which they are to be less active, and below which they are not active.
        repeats: times that the example is in the batch.
    """
    one, two = names.split("+")
    each = others.unsqueeze(1).expand(-1, repeats, -1)  # [states, repeats, patches]
    return term(one, each - active + margins[0]) + term(two, each - margins[1])


def smoothed(log_probs: Tensor, targets: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Loss of each token with smoothed labels, and without, [tokens] both.

    (1 - e - e') nll + e' sum_v(-log p_v) with e' = e / (V - 1), for V tokens in the vocabulary.

    Args:
        log_probs: [tokens, V].
        targets: [tokens].
        epsilon: e; 0 for labels as they are.
    """
    nll = -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if not epsilon:
        return nll, nll
    share = epsilon / (log_probs.shape[-1] - 1)
    return (1 - epsilon - share) * nll - share * log_probs.sum(-1), nll
