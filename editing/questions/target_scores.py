"""Probability of a target after a prompt, and whether greedy decoding gives it.

All scores are teacher-forced: token j of a target is predicted after the prompt and the target's own tokens before it,
t_1 ... t_{j-1}. With p_j = p(t_j | prompt, t_<j) and k tokens, as in the published evaluation of CounterFact:

- nll: -(1/k) sum_j log p_j, the mean per token; exp(-nll) is the geometric mean of the p_j
- prefers: nll of one target below that of another, strictly
- greedy: every t_j is the most probable token at its place, so that greedy decoding would write the target

Targets are tokenised as [`tracer.Fact`][] says: as they continue the prompt, with a space where one belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.engine.follow import follow
from tracer.engine.line import Line
from tracer.errors import OneOfSeveral, QuestionError, TracerError
from tracer.facts.fact import SLOT, Fact

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class TargetScores:
    """Scores of n targets, each after its prompt. Made by `target_log_probs`.

    Attributes:
        log_probs: for each target [k] float64, log p_j of its k tokens (natural logarithm).
        hits: for each target [k] bool, whether t_j is the most probable token at its place.
    """

    log_probs: tuple[np.ndarray, ...]
    hits: tuple[np.ndarray, ...]

    @property
    def tokens(self) -> np.ndarray:
        """Number of tokens k of each target, [n]."""
        return np.array([len(each) for each in self.log_probs], dtype=int)

    @property
    def sums(self) -> np.ndarray:
        """Log-probability of the whole target, [n]."""
        return np.array([each.sum() for each in self.log_probs])

    @property
    def means(self) -> np.ndarray:
        """Log-probability per token, `-nll`, [n]."""
        return np.array([each.mean() for each in self.log_probs])

    @property
    def greedy(self) -> np.ndarray:
        """Whether greedy decoding would write the whole target, [n] bool."""
        return np.array([each.all() for each in self.hits], dtype=bool)

    @property
    def accuracy(self) -> np.ndarray:
        """Share of the target's tokens that are the most probable at their places, [n]."""
        return np.array([each.mean() for each in self.hits])


def target_log_probs(
    model: Model,
    prompts: str | Sequence[str],
    targets: str | Sequence[str],
    *,
    space: bool | Sequence[bool | None] | None = None,
    max_rows: int | None = None,
) -> TargetScores:
    """Score targets after prompts, pair by pair; a single text goes with all of the other side.

    Prompts of similar length share a forward, filled up on the right, where a causal model never looks (those of a
    masked model, which hold its mask, share one only with prompts of their own length); targets of a prompt that begin
    alike share a row, so that all of one token cost no more than the prompt; logits are made where a target's token is
    predicted, and nowhere else.

    The model is left as it was found.

    Args:
        model: to ask.
        prompts: one text, or n.
        targets: one text, or n.
        space: whether a space stands between them, for all or pair by pair; None: as [`tracer.Fact`][] finds.
        max_rows: most rows in a forward; by default as many as fit `tracer.engine.sweep.BUDGET_BYTES`. No effect on
            numbers.

    Raises:
        TracerError: sides of different length, a pair that cannot be tokenised or is too long (naming it), and logits
            that are not numbers.
    """
    places: dict[tuple[tuple[int, ...], int], dict[tuple[int, ...], list[int]]] = {}
    count = 0
    pairs = _pairs(prompts, targets)
    spaces = [space] * len(pairs) if space is None or isinstance(space, bool) else list(space)
    if len(spaces) != len(pairs):
        raise QuestionError(f"there are {len(pairs)} pairs and {len(spaces)} values of space; give one for each pair")
    for index, (prompt, target) in enumerate(pairs):
        try:
            # in the slot, so that a text with braces stays as it is
            found = Fact(SLOT, prompt, target, spaces[index]).align(model)
        except TracerError as error:
            raise OneOfSeveral(f"pair {index}: {error}") from error
        places.setdefault((found.input_ids, found.answer_position), {}).setdefault(found.target_ids, []).append(index)
        count += 1
    log_probs: list[Any] = [None] * count
    hits: list[Any] = [None] * count
    lines = [Line(ids, tuple(of), first=first) for (ids, first), of in places.items()]
    for line, indices, found in zip(
        lines, places.values(), follow(model, lines, max_rows=max_rows, description="scoring"), strict=True
    ):
        for target, values, best in zip(line.targets, found.log_probs, found.best, strict=True):
            for index in indices[target]:
                log_probs[index], hits[index] = values, best == np.array(target)
    return TargetScores(tuple(log_probs), tuple(hits))


def prefers(
    model: Model,
    prompts: str | Sequence[str],
    new: str | Sequence[str],
    true: str | Sequence[str],
    *,
    max_rows: int | None = None,
) -> np.ndarray:
    """Whether the new target has a lower nll than the true one after each prompt, [n] bool (ROME's efficacy, strictly).

    A text alone goes with every prompt.

    Args:
        model: to ask.
        prompts: one text, or n.
        new: one target, or n.
        true: one target, or n.
        max_rows: most rows in a forward.

    Raises:
        TracerError: as `target_log_probs` does.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    sides = [[each] * len(texts) if isinstance(each, str) else list(each) for each in (new, true)]
    if any(len(side) != len(texts) for side in sides):
        found = " and ".join(str(len(side)) for side in sides)
        raise QuestionError(f"there are {len(texts)} prompts and {found} targets; give one of each for every prompt")
    means = target_log_probs(model, texts * 2, sides[0] + sides[1], max_rows=max_rows).means
    return means[: len(texts)] > means[len(texts) :]


def _pairs(prompts: str | Sequence[str], targets: str | Sequence[str]) -> list[tuple[str, str]]:
    if isinstance(prompts, str):
        prompts = [prompts] * (1 if isinstance(targets, str) else len(targets))
    if isinstance(targets, str):
        targets = [targets] * len(prompts)
    if len(prompts) != len(targets):
        raise QuestionError(f"there are {len(prompts)} prompts and {len(targets)} targets; give one target for each")
    return list(zip(prompts, targets, strict=True))
