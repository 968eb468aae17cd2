"""The metrics of a case, each a small function beside its definition. Nothing here averages over cases.

Where the published codes differ from the names of their metrics, the definition says what is computed. A metric that
could not be measured has no row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from editing.health.drift import WORSE
from tracer.errors import OtherQuestions

from .answers import Answer, CaseAnswers
from .negation import KIND as NEGATION
from .record import KINDS, MEASURES, EditRecord
from .text_metrics import TermWeights, consistency, ngram_entropy

NAN = float("nan")
EDITS, INSTANCES, CHAINS = "edit-wise accuracy", "instance-wise accuracy", "multi-hop accuracy"
CHAINED = (EDITS, INSTANCES, CHAINS)
"""MQuAKE's own three numbers, of cases with multi-hop questions."""


@dataclass(frozen=True)
class Metric:
    """Definition of a metric.

    Attributes:
        name: as in the tables.
        code: short form in publications, or "".
        better: "higher", "lower", or None where neither is.
        unit: of its values.
        what: one sentence, with its source.
        pooled: whether the published mean is over questions and not over cases: then a case counts as often as it has
            questions.
    """

    name: str
    code: str
    better: str | None
    unit: str
    what: str
    pooled: bool = False


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


# --- of one question -------------------------------------------------------------------------------------------------
def success(one: Answer, _: Answer | None = None) -> float:
    """1 where the wanted answer has the lower nll per token of the two, strictly."""
    known = math.isfinite(one.nll) and math.isfinite(one.nll_against)
    return float(one.nll < one.nll_against) if known else NAN


def magnitude(one: Answer, _: Answer | None = None) -> float:
    """exp(-nll) of the wanted answer less that of the other."""
    return math.exp(-one.nll) - math.exp(-one.nll_against)  # nan stays nan


def accuracy(one: Answer, _: Answer | None = None) -> float:
    """Share of the answer's tokens that are the argmax, each after the right ones before it."""
    return one.accuracy


def exact(one: Answer, _: Answer | None = None) -> float:
    """1 where all of the answer's tokens are the argmax."""
    return one.exact


def said(one: Answer, _: Answer | None = None) -> float:
    """1 where free greedy generation names the answer."""
    return one.said


def kept(one: Answer, old: Answer | None = None) -> float:
    """Share of the answer's places with the same argmax as before the edit; nan where that is not known."""
    if old is None or not one.greedy or len(one.greedy) != len(old.greedy):
        return NAN
    return float(np.mean(np.array(one.greedy) == np.array(old.greedy)))


Measured = Callable[[Answer, Answer | None], float]
OF_QUESTIONS: dict[str, tuple[Measured, str, str]] = {
    "success": (
        success,
        "share",
        "Share of prompts where the wanted answer has a lower mean loss per token than the other (Meng et al. 2022).",
    ),
    "magnitude": (
        magnitude,
        "difference",
        "Difference of exp(-mean loss per token) of the wanted and of the other answer, the geometric means of their "
        "tokens' probabilities (Meng et al. 2022).",
    ),
    "accuracy": (
        accuracy,
        "share",
        "Share of the answer's tokens that are the argmax, teacher forced (what EasyEdit reports as accuracy, and Meng "
        "et al. 2023 for zsRE).",
    ),
    "exact": (
        exact,
        "share",
        "Share of prompts where every token of the answer is the argmax, teacher forced (the accuracy of Meng et al. "
        "2023 for CounterFact).",
    ),
    "said": (
        said,
        "share",
        "Share of prompts whose free greedy generation names the answer, and nothing longer (after Yang et al. 2025).",
    ),
    "kept": (
        kept,
        "share",
        "Share of the answer's places with the same argmax as before the edit, right or wrong (EasyEdit's locality).",
    ),
}
"""Of one question: function, unit, definition."""

_CODES = {
    f"{kind} {name}": letter + what
    for kind, letter in {"rewrite": "E", "paraphrase": "P", "neighbour": "N"}.items()
    for name, what in {"success": "S", "magnitude": "M", "accuracy": "A"}.items()
} | {
    # the criteria of Cohen et al., "Evaluating the Ripple Effects of Knowledge Editing in Language Models", 2024; their
    # RS, relation specificity, is left to the consistency of Meng et al.
    "logical_generalisation said": "LG",
    "composition_one said": "CI",
    "composition_two said": "CII",
    "subject_alias said": "SA",
    "forgetfulness said": "PV",
}


def _made() -> Iterable[Metric]:
    for measure, kinds in MEASURES.items():
        of = ", ".join(kind.replace("_", " ") for kind in kinds)
        yield Metric(
            f"{measure} (forced)",
            "",
            "higher",
            "share",
            f"Share of the answers' tokens that are the argmax, teacher forced, mean over questions ({of}).",
        )
        yield Metric(
            f"{measure} (said)",
            "",
            "higher",
            "share",
            f"Share of questions whose free greedy generation names the answer ({of}).",
        )
    for kind in KINDS:
        for name, (_, unit, what) in OF_QUESTIONS.items():
            yield Metric(f"{kind} {name}", _CODES.get(f"{kind} {name}", ""), "higher", unit, what)
    yield Metric(
        EDITS,
        "",
        "higher",
        "share",
        "Share of the facts written that free greedy generation names, or an alias, mean over facts (edit-wise success "
        "of Zhong et al. 2023).",
        pooled=True,
    )
    yield Metric(
        INSTANCES,
        "",
        "higher",
        "share",
        "Share of cases of which every step of the chain is named, or an alias (instance-wise accuracy of Zhong et al. "
        "2023).",
    )
    yield Metric(
        CHAINS,
        "",
        "higher",
        "share",
        "Share of multi-hop questions of which one wording is answered, with the answer or an alias (Zhong et al. "
        "2023).",
    )
    yield Metric(
        "fluency",
        "GE",
        "higher",
        "bits",
        "Weighted entropy of bigrams and trigrams of continued texts (Meng et al. 2022).",
    )
    yield Metric(
        "consistency",
        "RS",
        "higher",
        "cosine",
        "TF-IDF cosine of continued texts and texts on subjects for which the new target is true (Meng et al. 2022).",
    )
    yield Metric(
        "essence perplexity",
        "",
        "lower",
        "perplexity",
        "Perplexity of texts about the subject, 100 tokens at most (essence drift of Meng et al. 2022).",
    )
    yield Metric(
        NEGATION,
        "",
        "lower",
        "nats",
        "How much the edit raises the log-probability per token of the new target after the denied prompt, 'It is not "
        "true that ...' (probes after Kassner and Schütze 2020); 0: not at all.",
    )
    yield Metric(
        "known",
        "",
        None,
        "share",
        "Of the unedited model: whether it gives the true answer to the rewrite's prompt by itself (to all of "
        "several). Where it does not, there is no old answer to replace.",
    )
    yield Metric("kl drift", "", "lower", "nats", "Mean of KL(before || after) of next tokens over unrelated text.")
    yield Metric("perplexity", "", "lower", "perplexity", "Perplexity per token of unrelated text.")
    yield Metric(
        "ruined",
        "",
        "lower",
        "share",
        f"Whether perplexity of unrelated text is more than {WORSE:g} times that of the unedited model.",
    )
    yield Metric("seconds", "", "lower", "s", "Time the edit took to compute; of edits found together, an equal share.")
    yield Metric("peak bytes", "", "lower", "bytes", "Most memory held while it was computed, beyond what was before.")
    yield Metric("edit norm", "", None, "norm", "Frobenius norm of the whole change of weights.")
    yield Metric("norm growth", "", "lower", "ratio", "Norm of the edited weights over that of the weights before.")


METRICS: dict[str, Metric] = {metric.name: metric for metric in _made()}
"""Every metric by name, in the order they are shown."""


# --- of one case -----------------------------------------------------------------------------------------------------
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
        before: answers of the unedited model, for "kept" and "negation"; None: `after` are those. Questions that need a
            condition which it did not answer rightly (freely, where that was asked) do not count, as in RippleEdits,
            neither before the edit nor after it.
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
    found: list[Value] = []
    for measure, kinds in MEASURES.items():
        some = [pair for pair in pairs if pair[0].kind in kinds]
        found += _mean(f"{measure} (forced)", accuracy, some)
        found += _mean(f"{measure} (said)", said, some)
    for kind in KINDS:
        some = [pair for pair in pairs if pair[0].kind == kind]
        for name, (measured, _, _) in OF_QUESTIONS.items():
            found += _mean(f"{kind} {name}", measured, some, wordings=name != "kept")
    found += _chained(after.answers)
    entropies = [value for value in map(ngram_entropy, after.texts) if not math.isnan(value)]
    if entropies:
        found.append(Value("fluency", float(np.mean(entropies)), len(entropies)))
    if not math.isnan(value := consistency(after.texts, record.references, weights)):
        found.append(Value("consistency", value, len(after.texts)))
    denied = [pair for pair in pairs if pair[0].kind == NEGATION]
    return found + _mean(NEGATION, lambda one, old: NAN if old is None else old.nll - one.nll, denied)


def _unmet(record: EditRecord, before: CaseAnswers) -> set[int]:
    """Places of the questions that need a fact the unedited model does not know."""
    questions = record.questions()
    conditions = [
        (one.prompt, (old.exact if math.isnan(old.said) else old.said) == 1)
        for one, old in zip(questions, before.answers, strict=False)  # denials come after the questions
        if one.kind == "condition"
    ]
    unknown = {need for i, (prompt, known) in enumerate(conditions) if not known for need in (i, prompt)}
    return {place for place, one in enumerate(questions) if unknown.intersection(one.needs)}


def _chained(answers: Sequence[Answer]) -> list[Value]:
    """MQuAKE's numbers; a fact that is written counts too where a step of the chain that asks for it names an alias."""
    of = {kind: [one for one in answers if one.kind == kind] for kind in ("rewrite", "single_hop", "multi_hop")}
    if not of["multi_hop"]:
        return []
    hops = [one.said for one in of["single_hop"]]
    by_prompt: dict[str, list[float]] = {}
    for one in (*of["rewrite"], *of["single_hop"]):
        by_prompt.setdefault(one.prompt, []).append(one.said)
    facts = [max(by_prompt[one.prompt]) for one in of["rewrite"] if not math.isnan(one.said)]
    found = [Value(EDITS, float(np.mean(facts)), len(facts))] if facts else []
    if hops and not any(map(math.isnan, hops)):
        found.append(Value(INSTANCES, float(min(hops)), 1))
    return found + _mean(CHAINS, said, [(one, None) for one in of["multi_hop"]])


def harmonic(*shares: float) -> float:
    """Harmonic mean of at least one number of 0 or more (the score S of ES, PS and NS); 0 where one is 0.

    Nan where one is nan: missing measurements are left out by the caller, or not averaged at all.

    Args:
        shares: the numbers.
    """
    if not shares or any(math.isnan(share) for share in shares):
        return NAN
    if min(shares) <= 0:
        return 0.0
    return len(shares) / sum(1 / share for share in shares)


def _mean(
    name: str, measured: Measured, pairs: Sequence[tuple[Answer, Answer | None]], wordings: bool = True
) -> list[Value]:
    """The mean over questions, of wordings of one the best if asked; empty without any measurement."""
    best: dict[object, float] = {}
    for place, (one, old) in enumerate(pairs):
        value = measured(one, old)
        if not math.isnan(value):
            question = (one.kind, one.either) if wordings and one.either is not None else place
            best[question] = max(value, best.get(question, value))
    return [Value(name, float(np.mean(list(best.values()))), len(best))] if best else []
