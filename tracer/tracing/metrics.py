"""Metrics at the answer: small functions of log-probabilities.

`logprobs` is [..., k, V]: the log-probabilities at the k positions where the k tokens of an answer are due, the last
position of the prompt first. All return [...].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


@dataclass(frozen=True)
class TraceMetric:
    """Definition of a metric that a trace can be measured by; one entry of `TRACE_METRICS` is all that a metric needs.

    Attributes:
        name: as of `metric=`.
        label: in figures and tables.
        function: of log-probabilities [..., k, V] and the answer, foil and reference of a `Metric`; returns [...].
        better: "lower" where the clean run has the lowest score, as of a divergence from it.
        needs_foil: whether a wrong answer is compared with.
        needs_reference: whether the clean run's log-probabilities are.
        less_foil: whether the same of the foil is subtracted, which may stand in a text of its own.
        normalised: whether scores are put on the scale from the corrupted run, 0, to the clean run, 1.
        short: label where there is little room; "": the label.
        of_answer: label with the answer's text in place of {}; "": without it.
    """

    name: str
    label: str
    function: Callable[[Tensor, Metric], Tensor]
    better: Literal["higher", "lower"] = "higher"
    needs_foil: bool = False
    needs_reference: bool = False
    less_foil: bool = False
    normalised: bool = False
    short: str = ""
    of_answer: str = ""

    @property
    def sign(self) -> int:
        """Factor that makes an effect towards the clean run positive."""
        return -1 if self.better == "lower" else 1


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric of one fact: a function of logits [n, k, V], the read positions of n rows; differentiable.

    Attributes:
        name: one of `TRACE_METRICS`. A normalised logit difference is measured as the difference itself; see
            `normalised`.
        answer: ids of the answer, k of them.
        foil: ids of the foil, where the metric needs one.
        reference: log-probabilities [k, V] of the clean run, where it needs them.
        apart: whether the foil is read in another run than the answer, so that what is measured here lacks it.
    """

    name: str
    answer: tuple[int, ...]
    foil: tuple[int, ...] = ()
    reference: Tensor | None = None
    apart: bool = False

    def __call__(self, logits: Tensor) -> Tensor:
        """The metric of each row, [n]."""
        # some rows at a time: all their log-probabilities together take longer to get memory for than to compute
        function = TRACE_METRICS[self.name].function
        return torch.cat([function(log_probs(some), self) for some in logits.split(16)])


def _prob(logprobs: Tensor, of: Metric) -> Tensor:
    return prob(logprobs, of.answer)


def _log_prob(logprobs: Tensor, of: Metric) -> Tensor:
    return log_prob(logprobs, of.answer)


def _log_prob_diff(logprobs: Tensor, of: Metric) -> Tensor:
    own = log_prob(logprobs, of.answer)
    return own if of.apart else own - log_prob(logprobs, of.foil)


def _logit_diff(logprobs: Tensor, of: Metric) -> Tensor:
    at = parting(of.answer, of.foil)
    return logit_diff(logprobs[..., at:, :], of.answer[at], of.foil[at])


def _kl(logprobs: Tensor, of: Metric) -> Tensor:
    assert of.reference is not None
    return kl(logprobs, of.reference.to(logprobs.device))


TRACE_METRICS: dict[str, TraceMetric] = {
    metric.name: metric
    for metric in (
        TraceMetric("prob", "probability of the answer", _prob, short="probability", of_answer="p({})"),
        TraceMetric("logit_diff", "logit difference", _logit_diff, needs_foil=True),
        TraceMetric(
            "normalised_logit_diff",
            "normalised logit difference",
            _logit_diff,
            needs_foil=True,
            normalised=True,
            short="normalised",
        ),
        TraceMetric("kl", "KL divergence", _kl, better="lower", needs_reference=True),
        TraceMetric("log_prob", "log-probability of the answer", _log_prob, short="log p", of_answer="log p({})"),
        TraceMetric(
            "log_prob_diff",
            "log-probability difference",
            _log_prob_diff,
            needs_foil=True,
            less_foil=True,
            short="log p difference",
        ),
    )
}
"""Metrics of traces by name, in the order they are shown."""
NAMES = tuple(TRACE_METRICS)


def trace_metric(name: str) -> TraceMetric:
    """The definition of a metric; of one that a saved trace has and this table does not, its name as the label."""
    return TRACE_METRICS.get(name) or TraceMetric(name, name, _prob)


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
