"""The table of metrics, and what measures them. Nothing here averages over cases.

Where the published codes differ from the names of their metrics, the definition says what is computed. A metric that
could not be measured has no row. One entry of the table is all that a metric needs: it is measured by what it is `of`,
and tables, reports and figures show it where it says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from editing.health.drift import WORSE
from tracer.errors import OtherQuestions

from . import case_functions as of_case
from .answer import NAN, Answer, CaseAnswers
from .metric import Case, Metric, Moment, Show, Value
from .negation import KIND as NEGATION
from .question import KINDS, MEASURES
from .question_metrics import QUESTION_METRICS, mean_of
from .record import EditRecord
from .text_metrics import TermWeights

if TYPE_CHECKING:
    from editing.edits.edit import Edit

HITS, FALSE_ALARMS = "hit rate", "false alarm rate"
EDITS, INSTANCES, CHAINS = "edit-wise accuracy", "instance-wise accuracy", "multi-hop accuracy"
HOWS = {"forced": "accuracy", "generated": "generated"}
"""Two ways to ask whether an answer is right, and the metric of a question by each: "reliability (forced)"."""
ATTACKS = {
    "output": "the most probable tokens after the prompt",
    "head projection": "the most probable tokens of every layer through the unembedding, in turn",
    "probability delta": "the tokens whose probability rises or falls most from a layer to the next, in turn",
    "rephrasing": "the most probable tokens after other wordings of the prompt, in turn",
    "sampling": "texts drawn after the prompt and its other wordings, in turn, as a probability",
}
"""Ways to guess the old answer of a fact (Patil et al. 2024), and what is guessed by each."""
_CODES = {
    f"{kind} {name}": letter + what
    for kind, letter in {"rewrite": "E", "paraphrase": "P", "neighbour": "N"}.items()
    for name, what in {"success": "S", "magnitude": "M", "accuracy": "A"}.items()
} | {
    # the criteria of Cohen et al., "Evaluating the Ripple Effects of Knowledge Editing in Language Models", 2024; their
    # RS, relation specificity, is left to the consistency of Meng et al.
    "logical_generalisation generated": "LG",
    "composition_one generated": "CI",
    "composition_two generated": "CII",
    "subject_alias generated": "SA",
    "forgetfulness generated": "PV",
}


# --- the table -------------------------------------------------------------------------------------------------------
def _made() -> Iterator[Metric]:
    for measure, kinds in MEASURES.items():
        of = ", ".join(kind.replace("_", " ") for kind in kinds)
        for how, name in HOWS.items():
            what = {
                "forced": "Share of the answers' tokens that are the argmax, teacher forced, mean over questions",
                "generated": "Share of questions whose free greedy generation names the answer",
            }[how]
            yield replace(QUESTION_METRICS[name], name=f"{measure} ({how})", what=f"{what} ({of}).", kinds=kinds)
    for kind in KINDS:
        for name, metric in QUESTION_METRICS.items():
            full = f"{kind} {name}"
            yield replace(metric, name=full, code=_CODES.get(full, ""), kinds=(kind,))
    hit = replace(QUESTION_METRICS["hit"], show=("page", "markdown"))
    meant = ("rewrite", "paraphrase", "subject_alias")
    what = "Share of rewrites, paraphrases and aliases on which an entry of a memory acts."
    yield replace(hit, name=HITS, kinds=meant, better="higher", what=what)
    what = "Share of prompts that are to keep their answers (those of locality) on which an entry of a memory acts."
    yield replace(hit, name=FALSE_ALARMS, kinds=MEASURES["locality"], better="lower", what=what)
    yield Metric(
        EDITS,
        "",
        "higher",
        "share",
        "Share of the facts written that free greedy generation names, or an alias, mean over facts (edit-wise success "
        "of Zhong et al. 2023).",
        pooled=True,
        of="case",
        function=of_case.edits,
        show=("measures", "page", "markdown"),
    )
    yield Metric(
        INSTANCES,
        "",
        "higher",
        "share",
        "Share of cases of which every step of the chain is named, or an alias (instance-wise accuracy of Zhong et al. "
        "2023).",
        of="case",
        function=of_case.instances,
        show=("measures", "page", "markdown"),
    )
    yield Metric(
        CHAINS,
        "",
        "higher",
        "share",
        "Share of multi-hop questions of which one wording is answered, with the answer or an alias (Zhong et al. "
        "2023).",
        of="case",
        function=of_case.chains,
        show=("measures", "page", "markdown"),
    )
    yield Metric(
        "fluency",
        "GE",
        "higher",
        "bits",
        "Weighted entropy of bigrams and trigrams of continued texts (Meng et al. 2022).",
        of="case",
        function=of_case.fluency,
        show=("text", "page", "markdown", "radar"),
    )
    yield Metric(
        "consistency",
        "RS",
        "higher",
        "cosine",
        "TF-IDF cosine of continued texts and texts on subjects for which the new target is true (Meng et al. 2022).",
        of="case",
        function=of_case.consistent,
        show=("text", "page", "radar"),
    )
    yield Metric(
        "essence perplexity",
        "",
        "lower",
        "perplexity",
        "Perplexity of texts about the subject, 100 tokens at most (essence drift of Meng et al. 2022).",
        of="model",
        function=of_case.essence,
    )
    yield Metric(
        NEGATION,
        "",
        "lower",
        "nats",
        "How much the edit raises the log-probability per token of the new target after the denied prompt, 'It is not "
        "true that ...' (probes after Kassner and Schütze 2020); 0: not at all.",
        of="case",
        function=of_case.negation,
    )
    yield Metric(
        "known",
        "",
        None,
        "share",
        "Of the unedited model: whether it gives the true answer to the rewrite's prompt by itself (to all of "
        "several). Where it does not, there is no old answer to replace.",
        of="model",
        function=of_case.is_known,
    )
    for attack, guessed in ATTACKS.items():
        yield Metric(
            f"attack success ({attack})",
            "",
            "lower",
            "share",
            f"Share of old answers that B guesses bring back, B of a run's option `attack`: {guessed} (after Patil et "
            "al. 2024).",
            of="model",
            function=of_case.attacked(attack),
            show=("text", "page", "markdown") if attack == "head projection" else ("page",),
        )
    yield Metric(
        "perplexity",
        "",
        "lower",
        "perplexity",
        "Perplexity per token of unrelated text.",
        of="model",
        function=of_case.drift("perplexity"),
        show=("text",),
    )
    yield Metric(
        "kl drift",
        "",
        "lower",
        "nats",
        "Mean of KL(before || after) of next tokens over unrelated text.",
        of="model",
        function=of_case.drift("kl", edited=True),
        show=("text", "markdown"),
        title="KL drift",
    )
    yield Metric(
        "false alarms (text)",
        "",
        "lower",
        "share",
        "Share of beginnings of unrelated text, of different lengths, on which an entry of a memory acts.",
        of="model",
        function=of_case.drift("hits", edited=True),
    )
    yield Metric(
        "ruined",
        "",
        "lower",
        "share",
        f"Whether perplexity of unrelated text is more than {WORSE:g} times that of the unedited model.",
        of="model",
        function=of_case.drift("ruined", edited=True),
    )
    yield Metric(
        "seconds",
        "",
        "lower",
        "s",
        "Time the edit took to compute; of edits found together, an equal share.",
        of="edit",
        function=lambda edit, share: edit.seconds / share,
        show=("text", "markdown"),
    )
    yield Metric(
        "peak bytes",
        "",
        "lower",
        "bytes",
        "Most memory held while it was computed, beyond what was before.",
        of="edit",
        function=lambda edit, _: NAN if edit.memory is None else float(edit.memory),
    )
    yield Metric(
        "edit norm",
        "",
        None,
        "norm",
        "Frobenius norm of the whole change of weights.",
        of="edit",
        function=lambda edit, _: of_case.norm(edit),
    )
    yield Metric("norm growth", "", "lower", "ratio", "Norm of the edited weights over that of the weights before.")


METRICS: dict[str, Metric] = {metric.name: metric for metric in _made()}
"""Every metric by name, in the order they are shown."""


def shown(where: Show) -> list[Metric]:
    """Metrics that stand beside the measures in one of the tables or figures, in order.

    Args:
        where: see `Metric.show`.
    """
    return [metric for metric in METRICS.values() if where in metric.show]


# --- measuring -------------------------------------------------------------------------------------------------------
def case_metrics(
    record: EditRecord,
    after: CaseAnswers,
    before: CaseAnswers | None = None,
    *,
    weights: TermWeights | None = None,
) -> list[Value]:
    """The metrics of one case, in the order of `METRICS`.

    Values of a kind are means over its questions; of wordings of one question (`either`) the best counts, as MQuAKE
    counts a multi-hop question that one of three wordings answers. A measure is the mean over the questions of all its
    kinds.

    Args:
        record: the case.
        after: answers of the edited model.
        before: answers of the unedited model, for "unchanged" and "negation"; None: `after` are those. Questions
            that need a condition which it did not answer rightly (freely, where that was asked) do not count, as in
            RippleEdits, neither before the edit nor after it.
        weights: of terms, for "consistency"; None: learned from the record's own references.

    Raises:
        TracerError: a `before` of other questions.
    """
    olds: Sequence[Answer | None] = [None] * len(after.answers)
    if before is not None:
        same = [(one.kind, one.prompt) for one in after.answers] == [(one.kind, one.prompt) for one in before.answers]
        if not same:
            raise OtherQuestions(
                f"case {record.case_id}: before and after were asked different questions; ask both the same record"
            )
        olds = before.answers
    unmet = _unmet(record, before or after)
    pairs = [pair for i, pair in enumerate(zip(after.answers, olds, strict=True)) if i not in unmet]
    case = Case(record, after, pairs, weights)
    found = []
    for metric in METRICS.values():
        if metric.of == "question":
            some = [pair for pair in pairs if pair[0].kind in metric.kinds]
            found.append((metric, mean_of(metric.function, some, metric.wordings)))
        elif metric.of == "case":
            found.append((metric, metric.function(case)))
    return _values(found)


def model_metrics(moment: Moment) -> list[Value]:
    """The metrics that need the model itself.

    Args:
        moment: the model, and the case it is measured for.
    """
    return _values((metric, metric.function(moment)) for metric in METRICS.values() if metric.of == "model")


def edit_metrics(edit: Edit, share: int = 1) -> list[Value]:
    """The cost and size of an edit.

    Args:
        edit: the edit.
        share: number of cases among which its seconds are divided.
    """
    return _values((metric, metric.function(edit, share)) for metric in METRICS.values() if metric.of == "edit")


def _values(found: Iterable[tuple[Metric, float | tuple[float, int]]]) -> list[Value]:
    """Rows of what was measured."""
    both = [(metric, one if isinstance(one, tuple) else (one, 1)) for metric, one in found]
    return [Value(metric.name, value, n) for metric, (value, n) in both if not math.isnan(value)]


def _unmet(record: EditRecord, before: CaseAnswers) -> set[int]:
    """Places of the questions that need a fact the unedited model does not know."""
    questions = record.questions()
    conditions = [
        (one.prompt, (old.exact if math.isnan(old.match) else old.match) == 1)
        for one, old in zip(questions, before.answers, strict=False)  # denials come after the questions
        if one.kind == "condition"
    ]
    unknown = {need for i, (prompt, known) in enumerate(conditions) if not known for need in (i, prompt)}
    return {place for place, one in enumerate(questions) if unknown.intersection(one.needs)}


def harmonic(*shares: Any) -> Any:
    """Harmonic mean of at least one number of 0 or more (the score S of ES, PS and NS); 0 where one is 0.

    Nan where one is nan: missing measurements are left out by the caller, or not averaged at all.

    Args:
        shares: the numbers, or arrays of one shape.

    Returns:
        A number, or an array of that shape.
    """
    if not shares:
        return NAN
    with np.errstate(divide="ignore"):
        found = len(shares) / (1 / np.array(shares, dtype=float)).sum(0)
    return found if np.ndim(found) else float(found)
