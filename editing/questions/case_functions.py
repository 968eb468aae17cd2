"""Metrics of a case, of a model and of an edit, by what each is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tracer.engine.answer import knows

from .answer import NAN, Answer
from .metric import Case, Moment
from .negation import KIND as NEGATION
from .question_metrics import generated, mean_of
from .text_metrics import consistency, essence_perplexity, ngram_entropy

if TYPE_CHECKING:
    from editing.edits.edit import Edit

Measurement = tuple[float, int]  # a value, and of how many it is the mean
MISSING: Measurement = (NAN, 0)


def _of(case: Case, kind: str) -> list[Answer]:
    return [one for one in case.after.answers if one.kind == kind]


def edits(case: Case) -> Measurement:
    """Facts written that are named; they count too where a step of the chain that asks for one names an alias."""
    if not _of(case, "multi_hop"):
        return MISSING
    by_prompt: dict[str, list[float]] = {}
    rewrites = _of(case, "rewrite")
    for one in (*rewrites, *_of(case, "single_hop")):
        by_prompt.setdefault(one.prompt, []).append(one.match)
    facts = [max(by_prompt[one.prompt]) for one in rewrites if not math.isnan(one.match)]
    return (float(np.mean(facts)), len(facts)) if facts else MISSING


def instances(case: Case) -> Measurement:
    """Whether every step of the chain is named."""
    hops = [one.match for one in _of(case, "single_hop")] if _of(case, "multi_hop") else []
    return (float(min(hops)), 1) if hops and not any(map(math.isnan, hops)) else MISSING


def chains(case: Case) -> Measurement:
    """Multi-hop questions that are answered."""
    return mean_of(generated, [(one, None) for one in _of(case, "multi_hop")])


def fluency(case: Case) -> Measurement:
    """Entropy of n-grams of the continued texts."""
    entropies = [value for value in map(ngram_entropy, case.after.texts) if not math.isnan(value)]
    return (float(np.mean(entropies)), len(entropies)) if entropies else MISSING


def consistent(case: Case) -> Measurement:
    """Similarity of the continued texts and the references."""
    return consistency(case.after.texts, case.record.references, case.weights), len(case.after.texts)


def negation(case: Case) -> Measurement:
    """Rise of the new target where the fact is denied."""
    denied = [pair for pair in case.pairs if pair[0].kind == NEGATION]
    return mean_of(lambda one, old: NAN if old is None else old.nll - one.nll, denied)


# --- of a model ------------------------------------------------------------------------------------------------------
def essence(moment: Moment) -> Measurement:
    """Perplexity of texts about the subject."""
    texts, model = moment.record.essence, moment.model
    runs = model.causal and not model.stacks  # two stacks predict no next token of running text
    return (essence_perplexity(model, texts), len(texts)) if texts and runs else MISSING


def is_known(moment: Moment) -> Measurement:
    """Whether the unedited model gives the true answers; missing where one is not known."""
    asked = moment.record.requests()
    if moment.edited or any(request.target_true is None for request in asked):
        return MISSING
    return float(all(knows(moment.model, one.about(one.target_true)) for one in asked)), len(asked)


def drift(name: str, *, edited: bool = False) -> Callable[[Moment], float]:
    """A number of the drift; of one that is nothing without an edit, only then."""

    def measured(moment: Moment) -> float:
        absent = moment.drifted is None or (edited and not moment.edited)
        return NAN if absent else float(getattr(moment.drifted, name))

    return measured


def attacked(name: str) -> Callable[[Moment], float]:
    """How often an attack brings the old answers back."""
    return lambda moment: moment.attacked.get(name, NAN)


# --- of an edit ------------------------------------------------------------------------------------------------------
def norm(edit: Edit) -> float:
    """Frobenius norm of the whole change."""
    return math.sqrt(sum(value**2 for value in edit.norm().values()))
