"""Every answer, packed for the page: each text once, and numbers as short as they may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editing.evaluation.result.schema import LABELS, UNEDITED, Frame
from editing.evaluation.result.series import Series, divided, series_of
from editing.evaluation.result.stages import staged
from editing.questions.answer import Routed

if TYPE_CHECKING:
    from editing.evaluation.result.evaluation import Evaluation

NUMBERS = ("nll", "nll_against", "accuracy", "exact", "match")


def packed(evaluation: Evaluation, limit: int | None = None) -> dict[str, Any]:
    """Data of single cases for the page.

    Args:
        evaluation: the measurements.
        limit: number of cases, the first ones; None: all.

    Returns:
        A dict. texts: every text once; others are places among them, -1 for a missing one. cases: case_id, subject, and
            questions as kind, prompt, answer, against. series: name, place of the series that was asked before the edit
            (-1: no such series), whether it can be chosen, and of each case (by place) its answers as question,
            `NUMBERS`, generated, and how memories decided.
    """
    import pandas as pd

    texts: dict[str, int] = {}

    def place(text: Any) -> int:
        return -1 if text is None else texts.setdefault(text, len(texts))

    asked = _asked(evaluation)
    chosen = list(dict.fromkeys(asked["case_id"]))[:limit]
    asked = asked[asked["case_id"].isin(chosen)]
    subjects = dict(zip(evaluation.metrics["case_id"], evaluation.metrics["subject"], strict=True))
    cases: list[dict[tuple[int, ...], int]] = [{} for _ in chosen]
    numbers = {case: index for index, case in enumerate(chosen)}
    # with the names they have in the page's other tables
    columns = [*LABELS, "stage", "after"]
    every = series_of(pd.concat([staged(evaluation.metrics)[columns], asked[columns]]))
    of = {each: rows for each, rows in zip(every, divided(asked, every), strict=True) if len(rows)}
    made = []
    routes = _routes(evaluation)
    for each, own in of.items():
        answers: dict[int, list[list[Any]]] = {}
        seen: dict[tuple[int, ...], int] = {}
        columns = [own[name].tolist() for name in ("case_id", "kind", "prompt", "answer", "against", "generated")]
        values = [[_short(value) for value in own[name].tolist()] for name in NUMBERS]
        for (case, *question, generated), measured in zip(
            zip(*columns, strict=True), zip(*values, strict=True), strict=True
        ):
            index = numbers[case]
            key = tuple(place(text) for text in question)
            again = seen[(index, *key)] = seen.get((index, *key), -1) + 1  # the same question may be asked twice
            row = cases[index].setdefault((*key, again), len(cases[index]))
            after = None if each.stage == "before" else routes.get((each.key, case, question[1]))
            answers.setdefault(index, []).append([row, *measured, place(generated), place(after)])
        made.append({"name": each.name, "shown": each.stage != "before", "answers": answers})
    for each, one in zip(of, made, strict=True):
        one["before"] = _before(each, list(of))
    return {
        "texts": list(texts),
        "cases": [
            [case, subjects.get(case, ""), [list(key[:4]) for key in questions]]
            for case, questions in zip(chosen, cases, strict=True)
        ],
        "series": made,
    }


def _asked(evaluation: Evaluation) -> Frame:
    """Answers with their stage: those of `staged`, and "before", answers that edited series gave before."""
    import pandas as pd

    key = [*LABELS, "case_id"]
    places = pd.concat([evaluation.edits[[*key, "position"]], evaluation.metrics[[*key, "position"]]])
    answers = evaluation.answers.merge(places.drop_duplicates(key), how="left", on=key)
    answers["position"] = answers["position"].fillna(0).astype("int64")
    before = answers[(answers["method"] != UNEDITED) & (answers["after"] == 0)]
    return pd.concat([staged(answers), before.assign(stage="before")], ignore_index=True)


def _routes(evaluation: Evaluation) -> dict[tuple[Any, ...], str]:
    """How memories decided, as text, by series, case and prompt; of several moments the last."""
    found: dict[tuple[Any, ...], dict[str, str]] = {}
    names = ("memory", "hit", "entry", "score", "threshold", "runner_up", "runner_up_score")
    for row in evaluation.routes.sort_values("after", kind="stable").to_dict("records"):
        key = (tuple(row[name] for name in LABELS), row["case_id"], row["prompt"])
        found.setdefault(key, {})[row["memory"]] = str(Routed(*(row[name] for name in names)))
    return {key: "; ".join(texts.values()) for key, texts in found.items()}


def _before(series: Series, all_series: Sequence[Series]) -> int:
    """Place of the baseline of a series: its own answers before, else the unedited model's."""
    if series.stage in (UNEDITED, "before"):
        return -1
    model, seed = (LABELS.index(name) for name in ("model", "seed"))
    ranks = []
    for index, each in enumerate(all_series):
        if each.stage == "before" and each.key == series.key:
            ranks.append((0, index))
        elif each.method == UNEDITED and each.key[model] == series.key[model]:
            ranks.append((1 + (each.key[seed] != series.key[seed]), index))
    return min(ranks, default=(0, -1))[1]


def _short(value: float) -> float | int | None:
    """At most five digits; a whole number as one; None for nan."""
    if value != value or value in (float("inf"), float("-inf")):
        return None
    value = float(f"{value:.5g}")
    return int(value) if value == int(value) else value
