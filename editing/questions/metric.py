"""What a metric is, what it is measured of, and a value of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .answer import NAN, Answer, CaseAnswers

if TYPE_CHECKING:
    from editing.health.drift import Drifted
    from tracer.model import Model

    from .record import EditRecord
    from .text_metrics import TermWeights

Show = Literal["measures", "text", "page", "markdown", "radar"]


@dataclass(frozen=True)
class Case:
    """What the metrics of a case are made of.

    Attributes:
        record: the case.
        after: answers of the edited model.
        pairs: its answers to questions that count, each with the unedited model's.
        weights: of terms, for "consistency".
    """

    record: EditRecord
    after: CaseAnswers
    pairs: Sequence[tuple[Answer, Answer | None]]
    weights: TermWeights | None


@dataclass(frozen=True)
class Moment:
    """A model at one moment, for the metrics that need the model itself.

    Attributes:
        model: as it is.
        record: the case.
        drifted: its drift on unrelated text; None: not read.
        edited: whether it has an edit.
        attacked: by attack, the share of the record's old answers that it brings back; empty: none was made.
    """

    model: Model
    record: EditRecord
    drifted: Drifted | None
    edited: bool
    attacked: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """Definition of a metric.

    Attributes:
        name: as in the tables.
        code: short form in publications, or "".
        better: "higher", "lower", or None where neither is.
        unit: of its values.
        what: one sentence, with its source.
        of: what it is measured of: a "question", a "case", the "model" or an "edit"; "": of nothing, a name alone.
        function: of an `Answer` and the unedited model's, a `Case`, a `Moment`, or an `Edit` and the number of cases
            that share it. Its value, or that and the number of things it is a mean of; nan: not measured.
        kinds: of questions, whose mean it is.
        wordings: whether of wordings of one question the best counts, and not each.
        pooled: whether the published mean is over questions and not over cases: then a case counts as often as it has
            questions.
        show: where it is shown beside the measures: "measures" (with their two columns, in free generation alone),
            "text", "page", "markdown", "radar".
        title: in Markdown tables; "": the name.
    """

    name: str
    code: str
    better: str | None
    unit: str
    what: str
    of: Literal["question", "case", "model", "edit", ""] = ""
    function: Callable[..., Any] = field(default=lambda *_: NAN, repr=False, compare=False)
    kinds: tuple[str, ...] = ()
    wordings: bool = True
    pooled: bool = False
    show: tuple[Show, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Value:
    """A metric of one case.

    Attributes:
        metric: its name.
        value: the mean over the questions.
        n: number of questions (texts, of "fluency" and "consistency").
    """

    metric: str
    value: float
    n: int
