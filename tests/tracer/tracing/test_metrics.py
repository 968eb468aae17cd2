"""Metrics against what they are defined as."""

from __future__ import annotations

import pytest
import torch

from tracer.tracing import metrics

LOGITS = torch.randn(5, 2, 11, generator=torch.Generator().manual_seed(0))  # rows, answer tokens, vocabulary


def test_probability_of_an_answer_is_the_product_over_its_tokens() -> None:
    p = LOGITS.softmax(-1)
    found = metrics.prob(metrics.log_probs(LOGITS), [3, 8])
    torch.testing.assert_close(found, p[:, 0, 3] * p[:, 1, 8])
    torch.testing.assert_close(metrics.prob(metrics.log_probs(LOGITS[:, :1]), [3]), p[:, 0, 3])


def test_logit_difference_needs_no_normalisation() -> None:
    expected = LOGITS[:, 0, 3] - LOGITS[:, 0, 4]
    torch.testing.assert_close(metrics.logit_diff(metrics.log_probs(LOGITS), 3, 4), expected)
    torch.testing.assert_close(metrics.logit_diff(LOGITS, 3, 4), expected)


def test_kl_is_torchs_and_nothing_for_equals() -> None:
    logprobs = metrics.log_probs(LOGITS)
    assert metrics.kl(logprobs, logprobs).abs().max() < 1e-6
    expected = torch.nn.functional.kl_div(logprobs, logprobs[0].expand_as(logprobs), log_target=True, reduction="none")
    torch.testing.assert_close(metrics.kl(logprobs, logprobs[0]), expected.sum((1, 2)))
    assert (metrics.kl(logprobs, logprobs[0])[1:] > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_log_probabilities_are_float32_at_least(dtype: torch.dtype) -> None:
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert metrics.log_probs(LOGITS.to(dtype)).dtype == expected
