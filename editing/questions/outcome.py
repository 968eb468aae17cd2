"""Edit outcomes: the same questions, asked before and after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.engine.generation import TOKENS, generate
from tracer.errors import OtherQuestions
from tracer.html_table import html_of
from tracer.moved import former

from .answers import Answers, mean
from .asking import ask
from .probes import Probes
from .question import GROUPS
from .table import as_text

if TYPE_CHECKING:
    import pandas as pd

    from tracer.model import Model

SENTENCES = 2  # most in a continuation
__getattr__ = former(__name__, {"Measured": Answers})


def measure(
    model: Model,
    probes: Probes,
    *,
    seed: int | None = None,
    max_new_tokens: int = TOKENS,
    max_rows: int | None = None,
) -> Answers:
    """Ask the model every question, and let it continue the prompts of `probes.generate`.

    The model is left as it was found.

    Args:
        model: to ask.
        probes: the questions.
        seed: draw continuations from this seed; None: greedy.
        max_new_tokens: most tokens of a continuation.
        max_rows: most rows in a forward; None: by memory.

    Raises:
        TracerError: as [`editing.questions.asking.ask`][] and [`tracer.generate`][] do.
    """
    answers = ask(model, probes, write="short", max_rows=max_rows)
    texts: list[str] = []
    if probes.generate:
        settings = {"max_new_tokens": max_new_tokens, "seed": seed, "sentences": SENTENCES, "max_rows": max_rows}
        texts = generate(model, probes.generate, **settings)
    return replace(answers, probes=probes, texts=tuple(texts), fingerprint=model.fingerprint())


@dataclass(frozen=True, eq=False)
class Outcome:
    """Answers before and after an edit (or before and after it was undone).

    Attributes:
        before: answers of the model before.
        after: answers of the model after.

    Raises:
        TracerError: the two are of different questions.
    """

    before: Answers
    after: Answers

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
                "after ...": new, true (probabilities), new_mean, true_mean, answer, as_meant; of a model with memories
                also memories, how they decided.
        """
        import pandas as pd

        asked = self.probes.questions
        columns: dict[str, Any] = {
            "case": [q.case for q in asked],
            "group": [q.kind for q in asked],
            "prompt": [q.prompt for q in asked],
            "target_new": [q.new for q in asked],
            "target_true": [q.true for q in asked],
        }
        for when in ("before", "after"):
            one: Answers = getattr(self, when)
            for name in ("new", "true", "new_mean", "true_mean"):
                columns[f"{when} {name}"] = getattr(one, name)
            columns |= {f"{when} answer": list(one.answers), f"{when} as_meant": one.as_meant}
            if any(each.routes for each in one.each):
                columns[f"{when} memories"] = ["; ".join(map(str, each.routes)) for each in one.each]
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
                one: Answers = getattr(self, when)
                row[f"{when} as meant"] = mean(one.as_meant[places])
                row[f"{when} greedy"] = mean(one.as_meant_greedy[places])
                row[f"{when} new"], row[f"{when} true"] = mean(one.new[places]), mean(one.true[places])
            rows.append(row)
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return html_of(f"outcome of an edit of {self.model}", self.summary())
