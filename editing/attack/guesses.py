"""Lists of guesses: which tokens an attack would try, in which order, and when the right one is among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guesses:
    """Guesses of one attack on one fact.

    Attributes:
        tokens: the first token of each, in the order in which they are made.
        needed: how many there are up to the right one; infinite where it is not among them.
    """

    tokens: tuple[int, ...]
    needed: float

    @classmethod
    def of(cls, orders: Sequence[Sequence[int]], answers: Sequence[int], whole: Sequence[bool], budget: int) -> Guesses:
        """The first tokens of all lists, then the second ones, and so on; none is guessed twice.

        Args:
            orders: lists of tokens, each from the most to the least promising.
            answers: of each list, the first token of the right answer.
            whole: of each list, whether the model goes on from that token to the whole answer.
            budget: number of guesses.
        """
        found: list[int] = []
        seen: set[tuple[int, bool]] = set()
        needed = math.inf
        for place in range(max(map(len, orders), default=0)):
            for order, answer, says in zip(orders, answers, whole, strict=True):
                if place >= len(order) or len(found) == budget:
                    continue
                guess = order[place], order[place] == answer and says
                if guess in seen:
                    continue
                seen.add(guess)
                found.append(guess[0])
                if guess[1]:
                    needed = min(needed, len(found))
        return cls(tuple(found), needed)


def most_probable(log_probs: Tensor, budget: int) -> list[list[int]]:
    """Tokens of the head projection, from the last layer to the first, the most probable ones first.

    Args:
        log_probs: [layers, V].
        budget: tokens of each layer.
    """
    return log_probs.flip(0).topk(min(budget, log_probs.shape[-1])).indices.tolist()


def most_changed(log_probs: Tensor, layer: int, budget: int) -> list[list[int]]:
    """Tokens of the probability delta: what rises most from the layer before to this one, and what falls most.

    Args:
        log_probs: [layers, V].
        layer: from 1 on.
        budget: tokens of each list.
    """
    change = log_probs[layer].exp() - log_probs[layer - 1].exp()
    return torch.stack([change, -change]).topk(min(budget, len(change))).indices.tolist()


def places_of(log_probs: Tensor, token: int) -> list[int]:
    """In each layer, the number of tokens that are at least as probable as a token, itself among them.

    Args:
        log_probs: [layers, V].
        token: its id.
    """
    return (log_probs >= log_probs[:, token, None]).sum(-1).tolist()
