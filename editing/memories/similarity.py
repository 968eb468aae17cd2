"""How near a question is to an edit, from the vectors of both (Mitchell et al. 2022, section 3.2)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from tracer.errors import HyperparameterError

RULES = ("squared", "plain", "cosine")
EPS = torch.finfo(torch.float32).eps
"""What stands for a probability of 0."""


def log_similarities(
    questions: Tensor, edits: Tensor, scale: float = 1.0, rule: str = "squared", heads: int = 1, bounded: bool = False
) -> Tensor:
    """Logarithms of similarities, [questions, edits]; 0 is the same, and less is less.

    Distances are exact: differences are taken before they are squared, so that a vector is at 0 from itself.

    Args:
        questions: [questions, width].
        edits: [edits, width].
        scale: factor of the distance.
        rule: "squared": -scale |e - q|^2, as published; "plain": the distance itself; "cosine": the cosine
            less 1.
        heads: parts of the vectors that are compared by themselves; the nearest counts.
        bounded: put the vectors through tanh first.
    """
    if rule not in RULES:
        raise HyperparameterError(f"rule is {rule!r}; expected one of {', '.join(map(repr, RULES))}")
    if bounded:
        questions, edits = questions.tanh(), edits.tanh()
    q = rearrange(questions, "questions (heads width) -> questions 1 heads width", heads=heads)
    e = rearrange(edits, "edits (heads width) -> 1 edits heads width", heads=heads)
    if rule == "cosine":
        # rounding goes beyond a cosine of 1, which stops the published code
        found = scale * (torch.cosine_similarity(q, e, dim=-1) - 1).clamp_max(0.0)
    else:
        square = (q - e).square().sum(-1)
        found = -scale * (square if rule == "squared" else square.sqrt())
    return found.amax(-1)


def balanced_bce(log_similarity: Tensor, positive: Tensor) -> Tensor:
    """Mean of -log s over the positives plus mean of -log(1 - s) over the negatives; a side without any counts zero.

    Args:
        log_similarity: log s, any shape.
        positive: which of them are positives, bool of this shape.
    """
    loss = log_similarity.new_zeros(())
    if bool(positive.any()):
        loss = loss - log_similarity[positive].mean()
    if bool((~positive).any()):
        rest = 1 - log_similarity[~positive].exp()
        rest = torch.where(rest == 0, rest + EPS, rest)
        loss = loss - rest.log().mean()
    return loss


def mixed(base: Tensor, counterfactual: Tensor, similarity: float) -> Tensor:
    """Logits of a soft decision: log((1 - s) p_base + s p_counterfactual + eps), [..., V].

    Args:
        base: logits of the model, [..., V].
        counterfactual: logits of the other, of the same shape.
        similarity: s.
    """
    return ((1 - similarity) * base.softmax(-1) + similarity * counterfactual.softmax(-1) + EPS).log()
