"""What is measured at the answer: small functions of log-probabilities.

``logprobs`` is [..., k, V]: the log-probabilities at the k positions where the k tokens of an answer are due, the last
position of the prompt first. All return [...].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
    """KL(reference || logprobs), summed over the k positions; ``reference`` [k, V] or as ``logprobs``."""
    return (reference.exp() * (reference - logprobs)).sum((-2, -1))
