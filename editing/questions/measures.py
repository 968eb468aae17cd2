"""Success of an edit: reliability, generalisation and locality of its questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tracer.errors import QuestionError

from .probes import Probes
from .target_scores import MEASURE_OF, MEASURES, By, target_log_probs

if TYPE_CHECKING:
    from tracer.model import Model


def edit_scores(
    model: Model, probes: Sequence[Probes], by: By = "preferred", *, max_rows: int | None = None
) -> dict[str, np.ndarray]:
    """Reliability, generalisation and locality of n edits in the model as it is.

    "reliability margin" and so on are means of exp(-nll) of the wanted answer less that of the other (CounterFact's EM,
    PM and NM); where the true answer is not known, of the wanted one alone.

    Args:
        model: as it is.
        probes: the questions about each edit. "reliability" is of the edited prompt itself, "generalisation" of its
            paraphrases, "locality" of its neighbours (of those whose true answer is known). The wanted answer is the
            new target, of a neighbour the true one.
        by: criterion. "preferred": the share of prompts where the wanted answer has the lower nll of the two
            (CounterFact's ES, PS and NS). "greedy": where greedy decoding writes the wanted answer.
        max_rows: most rows in a forward; None: by memory.

    Returns:
        Arrays [n] by measure, nan where there is no question for it.

    Raises:
        TracerError: a true answer that is needed and unknown; as `target_log_probs` does.
    """
    if by not in ("preferred", "greedy"):
        raise QuestionError(f"by is {by!r}; expected 'preferred' or 'greedy'")
    places: dict[tuple[str, int], list[int]] = {}
    asked: list[tuple[str, str, str | None]] = []  # prompt, the wanted answer, the other
    spaces: list[bool | None] = []
    for index, each in enumerate(probes):
        for question in each.questions:
            wanted, other = question.new, question.true
            if not question.wants_new:
                wanted, other = other, wanted
            if question.group not in MEASURE_OF or wanted is None:
                continue
            if other is None and by == "preferred":
                raise QuestionError(
                    f"the true answer to {question.prompt!r} is not known, and there is nothing to compare the new one "
                    "with; give target_true, or score by='greedy'"
                )
            places.setdefault((MEASURE_OF[question.group], index), []).append(len(asked))
            asked.append((question.prompt, wanted, other))
            spaces.append(question.space)
    prompts = [prompt for prompt, _, _ in asked]
    targets = [wanted for _, wanted, _ in asked] + [other or wanted for _, wanted, other in asked]
    found = target_log_probs(model, prompts * 2, targets, space=spaces * 2, max_rows=max_rows)
    wanted_means, others = found.means[: len(asked)], found.means[len(asked) :]
    share = wanted_means > others if by == "preferred" else found.greedy[: len(asked)]
    margin = np.exp(wanted_means) - np.where([other is not None for *_, other in asked], np.exp(others), 0.0)
    results = {name: np.full(len(probes), np.nan) for name in (*MEASURES, *(f"{name} margin" for name in MEASURES))}
    for (name, index), some in places.items():
        results[name][index], results[f"{name} margin"][index] = share[some].mean(), margin[some].mean()
    return results
