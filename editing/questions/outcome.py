"""Edit outcomes: the same questions, asked before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.engine.answer import own_answer
from tracer.engine.generation import TOKENS, generate
from tracer.errors import OtherQuestions, QuestionError, ResultArrayError
from tracer.facts.readout import answer_text
from tracer.facts.sentences import answer_of
from tracer.html_table import html_of

from .probes import GROUPS, Probes, Question
from .table import as_text
from .target_scores import target_log_probs

if TYPE_CHECKING:
    import pandas as pd

    from tracer.model import Model

ARRAYS = ("new", "true", "new_mean", "true_mean", "says_new", "says_true")
SENTENCES = 2  # most in a continuation


@dataclass(frozen=True, eq=False)
class Measured:
    """Answers of a model to Q questions. Made by [`editing.measure`][]; missing measurements are nan, never zero.

    Attributes:
        probes: the questions.
        new: [Q], probability of the whole new target after the prompt: the product over its tokens.
        true: [Q], the same of the true answer; nan where it is not known.
        new_mean: [Q], log-probability of the new target per token, which the published scores compare.
        true_mean: [Q], the same of the true answer.
        says_new: [Q], 1 where greedy decoding writes the new target, else 0.
        says_true: [Q], the same of the true answer; nan where it is not known.
        answers: Q texts of greedy decoding: one of the targets, or about as many tokens as they have.
        texts: continuations of `probes.generate`, without the prompts.
        model: the model's name.
        fingerprint: hash of its weights.
    """

    probes: Probes
    new: np.ndarray
    true: np.ndarray
    new_mean: np.ndarray
    true_mean: np.ndarray
    says_new: np.ndarray
    says_true: np.ndarray
    answers: tuple[str, ...]
    texts: tuple[str, ...]
    model: str
    fingerprint: str

    def __post_init__(self) -> None:
        count = len(self.probes.questions)
        for name in ARRAYS:
            array = np.array(getattr(self, name), dtype=float)
            if array.shape != (count,):
                raise ResultArrayError(
                    f"{name} has the shape {array.shape}; expected one number for each of {count} questions"
                )
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if len(self.answers) != count or len(self.texts) != len(self.probes.generate):
            raise QuestionError(
                f"there are {len(self.answers)} answers to {count} questions, and {len(self.texts)} texts for "
                f"{len(self.probes.generate)} prompts; give one each"
            )

    @property
    def as_meant(self) -> np.ndarray:
        """Success of each question [Q]: 1 where the target that an edit should leave on top is preferred, else 0.

        Targets are compared per token, strictly. Of a rewrite and a paraphrase it is the new target, of others the true
        one (CounterFact's ES, PS and NS). Where the true answer is not known, whether greedy decoding writes the new
        one; nan for questions that are to keep it.
        """
        wants = np.array([question.wants_new for question in self.probes.questions], dtype=bool)
        unknown = np.isnan(self.true_mean)
        with np.errstate(invalid="ignore"):
            found = np.where(wants, self.new_mean > self.true_mean, self.true_mean > self.new_mean).astype(float)
        return np.where(unknown, np.where(wants, self.says_new, np.nan), found)

    @property
    def as_meant_greedy(self) -> np.ndarray:
        """The same [Q], by whether greedy decoding writes that target."""
        wants = np.array([question.wants_new for question in self.probes.questions], dtype=bool)
        return np.where(wants, self.says_new, self.says_true)


def measure(
    model: Model,
    probes: Probes,
    *,
    seed: int | None = None,
    max_new_tokens: int = TOKENS,
    max_rows: int | None = None,
) -> Measured:
    """Ask the model every question, and let it continue the prompts of `probes.generate`.

    The model is left as it was found.

    Args:
        model: to ask.
        probes: the questions.
        seed: draw continuations from this seed; None: greedy.
        max_new_tokens: most tokens of a continuation.
        max_rows: most rows in a forward; None: by memory.

    Raises:
        TracerError: as [`editing.questions.target_scores.target_log_probs`][] and
            [`tracer.generate`][] do.
    """
    asked = probes.questions
    known = [place for place, question in enumerate(asked) if question.true is not None]
    prompts = [question.prompt for question in asked] + [asked[place].prompt for place in known]
    targets = [question.new for question in asked] + [str(asked[place].true) for place in known]
    spaces = [question.space for question in asked] + [asked[place].space for place in known]
    scores = target_log_probs(model, prompts, targets, space=spaces, max_rows=max_rows) if asked else None
    columns: dict[str, np.ndarray] = {}
    for kind, values in (("", "sums"), ("_mean", "means"), ("says_", "greedy")):
        every = np.array([]) if scores is None else getattr(scores, values).astype(float)
        every = np.exp(every) if kind == "" else every
        true = np.full(len(asked), np.nan)
        true[known] = every[len(asked) :]
        names = ("says_new", "says_true") if kind == "says_" else (f"new{kind}", f"true{kind}")
        columns |= dict(zip(names, (every[: len(asked)], true), strict=True))
    lengths = np.zeros(len(asked), dtype=int)
    if scores is not None:
        lengths[:] = scores.tokens[: len(asked)]
        lengths[known] = np.maximum(lengths[known], scores.tokens[len(asked) :])
    return Measured(
        probes=probes,
        **columns,
        answers=_answers(model, asked, columns, lengths, max_rows),
        texts=_texts(model, probes.generate, seed, max_new_tokens, max_rows),
        model=model.name,
        fingerprint=model.fingerprint(),
    )


@dataclass(frozen=True, eq=False)
class Outcome:
    """Answers before and after an edit (or before and after it was undone).

    Attributes:
        before: answers of the model before.
        after: answers of the model after.

    Raises:
        TracerError: the two are of different questions.
    """

    before: Measured
    after: Measured

    def __post_init__(self) -> None:
        if self.before.probes != self.after.probes:
            raise OtherQuestions("before and after were asked different questions; measure both with the same probes")

    @property
    def probes(self) -> Probes:
        """The questions."""
        return self.before.probes

    @property
    def model(self) -> str:
        """The model's name."""
        return self.before.model

    def groups(self) -> dict[str, list[int]]:
        """Places of the questions of each group that has any, in the order of `GROUPS`."""
        return {name: places for name in GROUPS if (places := self.probes.group(name))}

    def to_frame(self) -> pd.DataFrame:
        """One row per question.

        Returns:
            The columns case, group, prompt, target_new, target_true (None where it is not known), then "before ..." and
                "after ...": new, true (probabilities), new_mean, true_mean, answer, as_meant.
        """
        import pandas as pd

        asked = self.probes.questions
        columns: dict[str, Any] = {
            "case": [q.case for q in asked],
            "group": [q.group for q in asked],
            "prompt": [q.prompt for q in asked],
            "target_new": [q.new for q in asked],
            "target_true": [q.true for q in asked],
        }
        for when in ("before", "after"):
            one: Measured = getattr(self, when)
            for name in ("new", "true", "new_mean", "true_mean"):
                columns[f"{when} {name}"] = getattr(one, name)
            columns |= {f"{when} answer": list(one.answers), f"{when} as_meant": one.as_meant}
        return pd.DataFrame(columns)

    def summary(self) -> pd.DataFrame:
        """One row per group that was asked.

        "... as meant": CounterFact's ES, PS and NS; "... greedy": share of prompts where greedy decoding writes the
        target that is meant; "... new", "... true": mean probabilities.

        Returns:
            The columns group, prompts, judged (those whose targets can be compared), and shares (nan where nothing was
                judged) before and after.
        """
        import pandas as pd

        rows = []
        for name, places in self.groups().items():
            judged = int(np.isfinite(self.after.as_meant[places]).sum())
            row: dict[str, Any] = {"group": name, "prompts": len(places), "judged": judged}
            for when in ("before", "after"):
                one: Measured = getattr(self, when)
                row[f"{when} as meant"] = _mean(one.as_meant[places])
                row[f"{when} greedy"] = _mean(one.as_meant_greedy[places])
                row[f"{when} new"], row[f"{when} true"] = _mean(one.new[places]), _mean(one.true[places])
            rows.append(row)
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return html_of(f"outcome of an edit of {self.model}", self.summary())


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are not nan."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _answers(
    model: Model,
    asked: Sequence[Question],
    columns: dict[str, np.ndarray],
    lengths: np.ndarray,
    max_rows: int | None,
) -> tuple[str, ...]:
    """Greedy decoding after each question."""
    said: list[str | None] = []
    for place, question in enumerate(asked):
        targets = {"says_new": question.new, "says_true": question.true}
        written = [str(target).strip() for name, target in targets.items() if columns[name][place] == 1]
        said.append(max(written, key=len, default=None))
    for length in {int(lengths[place]) for place, answer in enumerate(said) if answer is None}:
        places = [i for i, answer in enumerate(said) if answer is None and lengths[i] == length]
        prompts = [asked[i].prompt for i in places]
        for i, text in zip(places, _next(model, prompts, asked, places, length, max_rows), strict=True):
            said[i] = text
    return tuple(str(text) for text in said)


def _next(
    model: Model,
    prompts: Sequence[str],
    asked: Sequence[Question],
    places: Sequence[int],
    length: int,
    max_rows: int | None,
) -> list[str]:
    if not model.causal:  # the predictions at the masks of the new target
        facts = [asked[i].fact(asked[i].new) for i in places]
        return [answer_text(model, own_answer(model, fact)).strip() for fact in facts]
    written = generate(model, prompts, max_new_tokens=length, sentences=None, max_rows=max_rows)
    return [answer_of(text.strip()) for text in written]


def _texts(
    model: Model, prompts: Sequence[str], seed: int | None, max_new_tokens: int, max_rows: int | None
) -> tuple[str, ...]:
    if not prompts:
        return ()
    settings = {"max_new_tokens": max_new_tokens, "seed": seed, "sentences": SENTENCES, "max_rows": max_rows}
    return tuple(generate(model, prompts, **settings))
