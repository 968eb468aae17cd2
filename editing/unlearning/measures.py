"""How well something was forgotten, from losses: the measures of TOFU (Maini et al. 2024) and of open-unlearning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from editing.methods.training import read_logits
from editing.tasks.lessons import SOME, lessons_of, losses_of
from tracer.checks import installed
from tracer.engine.hooks import evaluating
from tracer.errors import StatisticsError

if TYPE_CHECKING:
    from tracer.model import Model


def truth_ratio(model: Model, right: Any, wrong: Sequence[Any], floor: float = 0.0) -> np.ndarray:
    """Probability of wrong answers over that of the right one, per token, [questions] (Maini et al. 2024, eq. 1).

    Args:
        model: that answers.
        right: requests with the true answer in other words, one for each question.
        wrong: several lists of requests, each with a wrong answer to each question; their geometric mean counts.
        floor: added to the probability of the right answer. (Published by open-unlearning: 1e-10, which draws ratios
            to 0 where both answers have become improbable, as after ascent.)

    Raises:
        TracerError: lists of different lengths.
    """
    rows = lessons_of(model, right)[0]
    true = losses_of(model, rows).numpy()
    false = [losses_of(model, lessons_of(model, some)[0]).numpy() for some in wrong]
    if not false or any(len(each) != len(true) for each in false):
        counts = ", ".join(str(len(each)) for each in false) or "no"
        raise StatisticsError(
            f"there are {len(true)} right answers, and wrong ones to {counts} questions; give lists of one wrong "
            "answer to each question"
        )
    return np.exp(-np.mean(false, axis=0)) / (np.exp(-true) + floor) if floor else np.exp(true - np.mean(false, axis=0))


def closer_to_one(ratios: np.ndarray) -> float:
    """Mean of the smaller of R and 1 / R: 1 where right and wrong are as probable; of what is to be forgotten.

    Args:
        ratios: truth ratios.
    """
    return float(np.minimum(ratios, 1 / np.maximum(ratios, 1e-38)).mean())


def right_share(ratios: np.ndarray) -> float:
    """Mean of 1 / (1 + R), the share of the right answer among both; of what is to stay.

    Args:
        ratios: truth ratios.
    """
    return float((1 / (1 + ratios)).mean())


def forget_quality(ratios: np.ndarray, retrained: np.ndarray) -> float:
    """P-value of a two-sample Kolmogorov-Smirnov test between truth ratios: high where nothing tells the models apart.

    Args:
        ratios: of the model that unlearned.
        retrained: of one that has never learnt it.

    Raises:
        TracerError: no ratios, or some that are not numbers.
    """
    stats = installed("scipy.stats", "unlearning", "the Kolmogorov-Smirnov test", kind=StatisticsError)
    for name, given in (("ratios", ratios), ("retrained", retrained)):
        if not len(given) or not np.isfinite(given).all():
            raise StatisticsError(f"{name} has {len(given)} values, or some that are not finite; give finite ones")
    result: Any = stats.ks_2samp(ratios, retrained)
    return float(result.pvalue)


def memorised(model: Model, items: Any) -> np.ndarray:
    """Share of the tokens of each text or answer that are the most probable ones, [items] (exact memorisation).

    Args:
        model: that is asked.
        items: texts, or requests whose targets are read.
    """
    return np.array([float(each.mean()) for each in _right(model, items)])


def extracted(model: Model, items: Any) -> np.ndarray:
    """Share of each text or answer that the model completes from what stands before it, [items] (extraction strength).

    1 - k / n with k the fewest first tokens behind which all others are the most probable ones (Carlini et al. 2021).
    Published, k is at most n - 1, so that a single token counts as extracted whatever the model says; here it is n
    where not even the last one is right.

    Args:
        model: that is asked.
        items: texts, or requests whose targets are read.
    """
    found = []
    for right in _right(model, items):
        wrong = np.flatnonzero(~right)
        found.append(1 - (wrong[-1] + 1 if len(wrong) else 0) / len(right))
    return np.array(found)


def least_probable(model: Model, items: Any, share: float = 0.2) -> np.ndarray:
    """Mean log-probability of each item's least probable tokens, [items]: the Min-K % attack (Shi et al. 2024).

    What was trained on has fewer improbable tokens, so that higher values speak for it.

    Args:
        model: that is asked.
        items: texts, or requests whose targets are read.
        share: of the tokens, at least one.
    """
    from editing.methods.training import token_losses

    rows, found = lessons_of(model, items)[0], []
    with torch.no_grad(), evaluating(model):
        for row in rows:
            losses = token_losses(read_logits(model, [row]), [row]).cpu().double()
            found.append(-float(losses.topk(max(1, int(share * len(losses)))).values.mean()))
    return np.array(found)


def _right(model: Model, items: Any) -> list[np.ndarray]:
    """Which tokens of each item are the most probable ones."""
    rows, found = lessons_of(model, items)[0], []
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(rows), SOME):
            some = rows[start : start + SOME]
            best = read_logits(model, some).argmax(-1).cpu()
            target = torch.tensor([token for row in some for token in row.target])
            found += [part.numpy() for part in (best == target).split([len(row.target) for row in some])]
    return found
