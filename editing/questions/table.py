"""An outcome as tables: question by question, or as shares where there are many."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tracer.text import printable

from .probes import Probes
from .question import GROUPS

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from rich.text import Text

MANY = 40  # questions; of more only shares and the worst are shown
WORST = 3  # of each group
ARROW = " → "


class Compared(Protocol):
    """Parts of an [`editing.Outcome`][] that the tables show."""

    @property
    def probes(self) -> Probes:
        """The questions."""
        ...

    @property
    def before(self) -> Any:
        """The answers before the edit."""
        ...

    @property
    def after(self) -> Any:
        """The answers after it."""
        ...

    def groups(self) -> dict[str, list[int]]:
        """Places of the questions by group."""
        ...

    def summary(self) -> pd.DataFrame:
        """One row per group."""
        ...


def tables(outcome: Compared, judged: bool = True) -> list[Table]:
    """The tables of an outcome: every question where they are few, else shares and the worst answers.

    Args:
        outcome: to show.
        judged: whether answers are judged by the aim of the edit, as those after undoing it are not.
    """
    places = [place for group in outcome.groups().values() for place in group]
    if not places:
        return []
    if outcome.probes.cases == 1 and len(places) <= MANY:
        return [questions(outcome, places, judged=judged)]
    wrong = worst(outcome) if judged else []
    found = [shares(outcome, judged)]
    return [*found, questions(outcome, wrong, f"not as meant, the worst {WORST} of each group")] if wrong else found


def questions(outcome: Compared, places: Sequence[int], title: str | None = None, judged: bool = True) -> Table:
    """One line per question below its group's name: answer, and probabilities of both targets, before and after.

    Args:
        outcome: to show.
        places: of the questions.
        title: of the table.
        judged: as of `tables`.
    """
    asked = outcome.probes.questions
    several = len({asked[place].new for place in places}) > 1
    columns = _right("p(new)", "p(true)", *["as meant"] * judged)
    filled = _table(title, "prompt", "answer", *columns)
    shown = None
    for place in places:
        question, before, after = asked[place], outcome.before, outcome.after
        if question.kind != shown:
            filled.add_row(_literal(GROUPS[question.kind], "bold"))
            shown = question.kind
        prompt = f"{question.prompt} [{(question.new or '').strip()}]" if several else question.prompt
        meant = after.as_meant[place]
        verdict = "–" if np.isnan(meant) else "yes" if meant else "no"
        filled.add_row(
            _literal("\n".join([prompt, *(f"  {route}" for route in after.each[place].routes)])),
            _literal(_changed(before.answers[place], after.answers[place])),
            _probabilities(before.new[place], after.new[place]),
            _probabilities(before.true[place], after.true[place]),
            *[verdict] * judged,
        )
    return filled


def shares(outcome: Compared, judged: bool = True) -> Table:
    """One line per group: number of prompts, the shares of those that answer as meant, and mean probabilities."""
    meant = "as meant" if judged else "as the edit meant"
    filled = _table(None, "prompts about", *_right("number", meant, "greedy answer", "p(new)", "p(true)"))
    for row in outcome.summary().to_dict("records"):
        cells = [_percent(row["before " + kind], row["after " + kind]) for kind in ("as meant", "greedy")]
        means = [_probabilities(row["before " + kind], row["after " + kind]) for kind in ("new", "true")]
        filled.add_row(GROUPS[str(row["group"])], f"{int(row['prompts']):,}", *cells, *means)
    return filled


def worst(outcome: Compared, count: int = WORST) -> list[int]:
    """Places of questions that do not answer as meant, of each group at most `count`, the clearest first."""
    found = []
    meant, margin = outcome.after.as_meant, outcome.after.new_mean - outcome.after.true_mean
    for places in outcome.groups().values():
        wrong = [place for place in places if meant[place] == 0]
        sign = 1 if wrong and outcome.probes.questions[wrong[0]].wants_new else -1
        found += sorted(wrong, key=lambda place: sign * np.nan_to_num(margin[place]))[:count]
    return found


def written(outcome: Compared) -> list[tuple[str, str, str]]:
    """Prompt, and the continuations before and after, in one line each."""
    texts = zip(outcome.probes.generate, outcome.before.texts, outcome.after.texts, strict=True)
    return [(prompt, before.strip(), after.strip()) for prompt, before, after in texts]


def as_text(outcome: Compared) -> str:
    """The tables and the written texts as plain text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=150, highlight=False, color_system=None, force_jupyter=False)
    for table in tables(outcome):
        console.print(table)
    for lines in written(outcome):
        for title, text in zip(("", "before: ", "after:  "), lines, strict=True):
            console.print(_literal(f"{title}{text}"), soft_wrap=True)
    output: Any = console.file
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def _changed(before: str, after: str) -> str:
    return after if before == after else f"{before}{ARROW}{after}"


def _probabilities(before: float, after: float) -> str:
    """As "0.0012 → 0.9834"; a dash where it was not measured."""
    if np.isnan(before) and np.isnan(after):
        return "–"
    return ARROW.join("–" if np.isnan(each) else f"{each:.4f}" for each in (before, after))


def _percent(before: float, after: float) -> str:
    return ARROW.join("–" if np.isnan(each) else f"{100 * each:.1f} %" for each in (before, after))


def _table(title: str | None, *columns: Any) -> Table:
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="")


def _right(*names: str) -> Iterable[Any]:
    from rich.table import Column

    return [Column(name, justify="right", no_wrap=True) for name in names]


def _literal(text: str, style: str = "") -> Text:
    """Text as it is, without markup."""
    from rich.text import Text

    return Text(printable(text), overflow="fold", style=style)
