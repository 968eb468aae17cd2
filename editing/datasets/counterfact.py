"""CounterFact (Meng et al. 2022, arXiv 2202.05262) in its authors' layout and in EasyEdit's; FactWorld's records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from editing.questions.question import Question
from editing.questions.record import EditRecord, Rewrite

from .fields import (
    REWORDED,
    FieldError,
    answers,
    expecting,
    following,
    follows,
    keeping,
    keeps,
    optional,
    paired,
    questions,
    rewrite,
    several,
    text,
)

Record = Mapping[str, Any]
MOST_REFERENCES = 10  # subjects with the new object whose facts are taken from FactWorld


def counterfact(record: Record, case_id: str, source: str) -> EditRecord:
    """The authors' layout: `requested_rewrite` and lists of prompts.

    `paraphrase_prompts` should be answered with the new target; `neighborhood_prompts` (and
    `distracting_neighborhood_prompts`) with the old one; `attribute_prompts` are of subjects for which the new one
    is true; `generation_prompts` are continued, each as often as it is listed. A prompt may bring its own answer, as
    the neighbours of PEAK do (whose paraphrases are `para_add_prompts`). EasyEdit's `portability` (New Question,
    New Answer) is one hop; its `alternative_subject` asks the same prompt by another name, and its
    `unrelated_relation` (question and object) another fact of the subject.
    """
    return _counterfact(record, case_id, source, new_question)


def _counterfact(
    record: Record, case_id: str, source: str, portability: Callable[[Record, Rewrite], list[Question]]
) -> EditRecord:
    fact = requested(record.get("requested_rewrite"))
    new, true = fact.target_new, fact.target_true
    asks = following("paraphrase", record, fact, "paraphrase_prompts", "para_add_prompts")
    asks += keeping("neighbour", record, fact, "neighborhood_prompts")
    asks += keeping("distracting", record, fact, "distracting_neighborhood_prompts")
    asks += expecting("attribute", several(record, "attribute_prompts"), new, true)
    other = record.get("unrelated_relation")
    asks += [keeps("same_subject", prompt, things, fact) for prompt, things in questions(other, "unrelated_relation")]
    asks += portability(record, fact)
    alias = optional(record, "alternative_subject")
    if alias is not None:
        asks += expecting("subject_alias", [filled(fact, alias)], new, true)
    return EditRecord(
        case_id=case_id,
        source=source,
        rewrites=(fact,),
        asks=tuple(asks),
        generate=several(record, "generation_prompts"),
    )


def easyedit(record: Record, case_id: str, source: str) -> EditRecord:
    """EasyEdit's flat layout: `prompt`, `subject`, `target_new`, `ground_truth`, with the subject filled in.

    `ood_rephrase` (temporal) describes the subject anew: a reference. For the questions see `flat`.
    """
    fact = flat_fact(record)
    return EditRecord(
        case_id=case_id,
        source=source,
        rewrites=(fact,),
        asks=tuple(flat(record, fact)),
        references=several(record, "ood_rephrase"),
    )


def flat_fact(record: Record) -> Rewrite:
    """The fact of a flat record; an empty `ground_truth` is an unknown one."""
    true = optional(record, "ground_truth", "target_true")
    return rewrite(text(record, "prompt"), text(record, "subject"), text(record, "target_new"), true)


def flat(record: Record, fact: Rewrite) -> list[Question]:
    """The questions of a flat record.

    `rephrase_prompt` or `rephrase` is a paraphrase, `locality_prompt` with `locality_ground_truth` a neighbour
    (compared with the new target where there is an old one that it shares; an unrelated text is compared with
    nothing), and `portability_prompt` one hop. Of lists of prompts and of as many answers each has its own.
    """
    asks = following("paraphrase", record, fact, *REWORDED)
    prompts, given = several(record, "locality_prompt"), record.get("locality_ground_truth")
    for prompt, things in paired(prompts, given, "locality_ground_truth"):
        related = bool(things) and things[0][0] == fact.target_true
        against = fact.target_new if related else None
        asks.append(Question(kind="neighbour", prompt=prompt, answers=things, against=against))
    prompts, given = several(record, "portability_prompt"), record.get("portability_ground_truth")
    pairs = paired(prompts, given, "portability_ground_truth")
    return asks + [follows("one_hop", prompt, things, fact) for prompt, things in pairs if things]


def factworld(_: Sequence[Record]) -> Callable[[Record, str, str], EditRecord]:
    """FactWorld's layout: CounterFact's, with `same_subject_prompts` and `portability` by kind.

    References are the facts of subjects that have the new object: at most `MOST_REFERENCES`, in the table's order.
    """
    from tracer import factworld as world

    about: dict[str, list[str]] = {}
    having: dict[tuple[str, str], list[str]] = {}
    for told in world.facts():
        about.setdefault(told.subject, []).append(f"{told.text}{told.target}.")
        having.setdefault((told.relation, told.object), []).append(told.subject)

    def convert(record: Record, case_id: str, source: str) -> EditRecord:
        plain = _counterfact(record, case_id, source, by_kind)
        fact = plain.rewrites[0]
        same = questions(record.get("same_subject_prompts"), "same_subject_prompts")
        asks = (*plain.asks, *(keeps("same_subject", prompt, things, fact) for prompt, things in same))
        subjects = having.get((fact.relation or "", fact.target_new.strip()), [])[:MOST_REFERENCES]
        return plain.model_copy(
            update={"asks": asks, "references": tuple(" ".join(about[subject]) for subject in subjects)}
        )

    return convert


def by_kind(record: Record, fact: Rewrite) -> list[Question]:
    """FactWorld's `portability`: lists of questions by kind."""
    asks: list[Question] = []
    for kind, listed in (record.get("portability") or {}).items():
        if kind not in ("one_hop", "reverse_relation", "subject_alias"):
            raise FieldError(f"portability.{kind}", "is none of one_hop, reverse_relation, subject_alias")
        asks += [follows(kind, prompt, things, fact) for prompt, things in questions(listed, kind) if things]
    return asks


def new_question(record: Record, fact: Rewrite) -> list[Question]:
    """EasyEdit's `portability` of CounterFact and zsRE: a question that follows from the new fact."""
    given = record.get("portability")
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise FieldError("portability", f"holds {str(given)[:60]!r}; expected New Question and New Answer")
    things = answers(text(given, "New Answer"), "portability")
    return [follows("one_hop", text(given, "New Question"), things, fact)]


def filled(fact: Rewrite, subject: str) -> str:
    """The prompt of a fact with another subject in it."""
    request = fact.request()
    return request.prompt.replace("{}", subject)


def requested(given: Any) -> Rewrite:
    """The fact of a `requested_rewrite`; MQuAKE's have a `question` too."""
    if not isinstance(given, Mapping):
        raise FieldError("requested_rewrite", f"holds {str(given)[:60]!r}; expected a mapping")
    return Rewrite(
        prompt=text(given, "prompt"),
        subject=text(given, "subject"),
        target_new=text(given, "target_new"),
        target_true=optional(given, "target_true"),
        relation=optional(given, "relation_id"),
        question=optional(given, "question"),
    )
