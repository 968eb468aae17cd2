"""Metrics at the answer: small functions of log-probabilities.

`logprobs` is [..., k, V]: the log-probabilities at the k positions where the k tokens of an answer are due, the last
position of the prompt first. All return [...].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracer.errors import FoilError


def log_probs(logits: Tensor) -> Tensor:
    """Log-softmax over the vocabulary, in float32 at least."""
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def log_prob(logprobs: Tensor, target_ids: Sequence[int]) -> Tensor:
    """Log-probability of the whole answer: the sum over its tokens, each after those before it."""
    index = torch.tensor(list(target_ids), device=logprobs.device)
    return logprobs.gather(-1, index[:, None].expand(*logprobs.shape[:-1], 1)).squeeze(-1).sum(-1)


def prob(logprobs: Tensor, target_ids: Sequence[int]) -> Tensor:
    """Probability of the whole answer: the product over its tokens."""
    return log_prob(logprobs, target_ids).exp()


def logit_diff(logprobs: Tensor, target_id: int, foil_id: int) -> Tensor:
    """Logit of the answer less that of a foil, at the first position (log-probabilities have the same difference)."""
    return logprobs[..., 0, target_id] - logprobs[..., 0, foil_id]


def kl(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Divergence KL(reference || logprobs), summed over the k positions; `reference` [k, V] or as `logprobs`."""
    return (reference.exp() * (reference - logprobs)).sum((-2, -1))


NAMES = ("prob", "logit_diff", "normalised_logit_diff", "kl")


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric of one fact: a function of logits [n, k, V], the read positions of n rows; differentiable.

    Attributes:
        name: one of `NAMES`. A normalised logit difference is measured as the difference itself; see `normalised`.
        answer: ids of the answer, k of them.
        foil: for a logit difference, ids of the foil.
        reference: for "kl", log-probabilities [k, V] of the clean run.
    """

    name: str
    answer: tuple[int, ...]
    foil: tuple[int, ...] = ()
    reference: Tensor | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """The metric of each row, [n]."""
        # some rows at a time: all their log-probabilities together take longer to get memory for than to compute
        return torch.cat([self._of(log_probs(some)) for some in logits.split(16)])

    def _of(self, logprobs: Tensor) -> Tensor:
        if self.name == "prob":
            return prob(logprobs, self.answer)
        if self.name == "kl":
            assert self.reference is not None
            return kl(logprobs, self.reference.to(logprobs.device))
        at = parting(self.answer, self.foil)
        return logit_diff(logprobs[..., at:, :], self.answer[at], self.foil[at])


def parting(answer: Sequence[int], foil: Sequence[int]) -> int:
    """The first position at which two answers differ; both have the same tokens before it.

    Raises:
        TracerError: one is the beginning of the other, so that nothing tells them apart.
    """
    for at, (a, b) in enumerate(zip(answer, foil, strict=False)):
        if a != b:
            return at
    raise FoilError(f"foil and answer begin with the same tokens {list(foil)}; choose a foil that differs from it")


def normalised(score: Any, clean: float, corrupted: float) -> Any:
    """A score on the scale on which the corrupted run is 0 and the clean run 1.

    Raises:
        TracerError: the two runs' scores are equal.
    """
    if abs(clean - corrupted) < 1e-9:
        raise FoilError(
            f"the logit difference is {clean:.4g} in the clean run and in the corrupted one, so it cannot be "
            "normalised; choose another foil, a stronger corruption, or the metric 'logit_diff'"
        )
    return (score - corrupted) / (clean - corrupted)
