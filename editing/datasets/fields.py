"""Fields of records: text that has to be there, texts that may be, and answers in the shapes benchmarks write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from editing.questions.question import Kind, Question
from editing.questions.record import Rewrite
from tracer.errors import RecordFieldError
from tracer.text import look_alike

Wordings = tuple[tuple[str, ...], ...]
PROMPT = ("prompt", "question")
ANSWER = ("ground_truth", "target", "answer", "answers", "object")
REWORDED = ("rephrase_prompt", "rephrase_prompts", "rephrase", "rephrased_prompt", "rephrased_prompts")


class FieldError(RecordFieldError):
    """An unusable field of a record.

    Attributes:
        field: its name.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def text(record: Mapping[str, Any], *names: str) -> str:
    """The text of the first of several fields that the record has.

    Args:
        record: the record.
        names: of the fields.

    Raises:
        FieldError: no such field, or one without text.
    """
    found = optional(record, *names)
    if found is not None:
        return found
    there = next((name for name in names if record.get(name) is not None), None)
    if there is None:
        raise FieldError(names[0], f"is missing; the record has {', '.join(map(str, record)) or 'nothing'}")
    raise FieldError(there, f"holds {str(record[there])[:60]!r}; expected text")


def optional(record: Mapping[str, Any], *names: str) -> str | None:
    """The text of the first field of `names` that the record has; None: no such field, or an empty one.

    A target may be a dict with `str`, or a list of wordings, of which the first counts.
    """
    for name in names:
        things = answers(record.get(name), name)
        if things:
            return things[0][0]
    return None


def several(record: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """The texts of fields that hold a list of them, or one; an empty list without such a field."""
    found: list[str] = []
    for name in names:
        value = record.get(name)
        listed = [value] if isinstance(value, str) else () if value is None else value
        if not isinstance(listed, Sequence) or not all(isinstance(item, str) for item in listed):
            raise FieldError(name, f"holds {str(value)[:60]!r}; expected a list of texts")
        found += [item for item in listed if item.strip()]
    return tuple(found)


def posed(record: Mapping[str, Any], *names: str) -> list[tuple[str, Wordings | None]]:
    """Questions of fields that hold a text or a list of them, each with its answers or None.

    Questions with answers are pairs of prompt and answer, and mappings as of `questions`.
    """
    found: list[tuple[str, Wordings | None]] = []
    for name in names:
        value = record.get(name)
        listed = [value] if isinstance(value, str | Mapping) else () if value is None else value
        if not isinstance(listed, Sequence):
            raise FieldError(name, f"holds {str(value)[:60]!r}; expected a list of texts")
        for item in listed:
            if isinstance(item, str):
                found += [(item, None)] if item.strip() else []
            elif isinstance(item, Mapping) or _is_pair(item):
                found += questions([item], name)
            else:
                raise FieldError(name, f"holds {str(item)[:60]!r}; expected a list of texts, or of prompts and answers")
    return found


def answers(value: Any, field: str) -> Wordings:
    """Things to be named, each with its wordings: `"a"`, `["a", "also a"]` or `[["a", "also a"], ["b"]]`.

    Numbers are written out, a dict stands for its `str` (CounterFact), and empty ones are left out.
    """
    if value is None:
        return ()
    if isinstance(value, Mapping):
        if "str" not in value:
            raise FieldError(field, f"is a mapping with {', '.join(map(str, value))}; expected text, or one with str")
        return answers(value["str"], field)
    if isinstance(value, str | int | float):
        written = str(value).strip()
        return ((written,),) if written else ()
    if not isinstance(value, Sequence):
        raise FieldError(field, f"holds {type(value).__name__}; expected text or a list of texts")
    if any(isinstance(item, Sequence) and not isinstance(item, str) for item in value):
        return tuple(thing for item in value for thing in answers(item, field))
    wordings = tuple(dict.fromkeys(thing[0][0] for item in value if (thing := answers(item, field))))
    return (wordings,) if wordings else ()


def questions(value: Any, field: str) -> Iterator[tuple[str, Wordings]]:
    """Pairs of prompt and answers of a list of mappings with `prompt` and `ground_truth` (KnowEdit), or of one.

    The answer may also be called `target` (FactWorld) or `answer`, and a pair be a list of two. A prompt may be a list,
    of which every one is asked; of as many answers each has its own.
    """
    if value is not None and not isinstance(value, Mapping | Sequence):
        raise FieldError(field, f"holds {str(value)[:60]!r}; expected mappings with prompt and ground_truth")
    for item in [value] if isinstance(value, Mapping) else (value or ()):
        if _is_pair(item):
            yield item[0], answers(item[1], field)
            continue
        if not isinstance(item, Mapping):
            raise FieldError(field, f"holds {str(item)[:60]!r}; expected mappings with prompt and ground_truth")
        prompts = several(item, next((name for name in PROMPT if name in item), PROMPT[0]))
        if not prompts:
            raise FieldError(field, f"holds {str(item)[:60]!r}; a question needs a prompt")
        name = next((name for name in ANSWER if name in item), None)
        if name is None:
            raise FieldError(field, f"asks {prompts[0]!r} and has no answer; expected one of {', '.join(ANSWER)}")
        yield from paired(prompts, item[name], field)


def paired(prompts: Sequence[str], given: Any, field: str) -> list[tuple[str, Wordings]]:
    """Each prompt with its answers: of as many answers each has its own, otherwise all have the same."""
    if len(prompts) > 1 and isinstance(given, Sequence) and not isinstance(given, str) and len(given) == len(prompts):
        return [(prompt, answers(own, field)) for prompt, own in zip(prompts, given, strict=True)]
    return [(prompt, answers(given, field)) for prompt in prompts]


def _is_pair(item: Any) -> bool:
    """A prompt and its answer, as PEAK writes them (Ma et al. 2024, arXiv 2401.17623)."""
    return isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str) and bool(item[0].strip())


def rewrite(prompt: str, subject: str, new: str, true: str | None, **more: Any) -> Rewrite:
    """A rewrite of a fact whose prompt may spell the subject differently: the prompt's spelling counts.

    Differences are capitals, and letters that look alike (composed or not, curly quotes). The subject marks its place
    in the prompt, and the prompt stays as it is.
    """
    if "{}" not in prompt and subject not in prompt:
        written = look_alike(prompt, subject)
        if written is not None and look_alike(prompt.replace(written, "\n", 1), subject) is None:
            subject = written
    return Rewrite(prompt=prompt, subject=subject, target_new=new, target_true=true, **more)


def expecting(kind: Kind, prompts: Sequence[str], answer: str | None, against: str | None) -> list[Question]:
    """Questions of one kind with the same answer; None: the unedited model's answer."""
    things = () if answer is None else ((answer,),)
    return [Question(kind=kind, prompt=prompt, answers=things, against=against) for prompt in prompts]


def following(kind: Kind, record: Mapping[str, Any], fact: Rewrite, *names: str) -> list[Question]:
    """Questions of fields that are answered with the new target, unless they bring their own answer."""
    new, true = fact.target_new, fact.target_true
    return [
        Question(kind=kind, prompt=prompt, answers=((new,),), against=true)
        if own is None
        else follows(kind, prompt, own, fact)
        for prompt, own in posed(record, *names)
    ]


def keeping(kind: Kind, record: Mapping[str, Any], fact: Rewrite, *names: str) -> list[Question]:
    """Questions of fields that are answered with the old target, unless they bring their own answer."""
    new, true = fact.target_new, fact.target_true
    old = () if true is None else ((true,),)
    return [
        Question(kind=kind, prompt=prompt, answers=old, against=new) if own is None else keeps(kind, prompt, own, fact)
        for prompt, own in posed(record, *names)
    ]


def follows(kind: Kind, prompt: str, things: Wordings, fact: Rewrite) -> Question:
    """A question of portability; compared with the old target where the new one itself is the answer."""
    new = things[0][0].strip() == fact.target_new.strip()
    return Question(kind=kind, prompt=prompt, answers=things, against=fact.target_true if new else None)


def keeps(kind: Kind, prompt: str, things: Wordings, fact: Rewrite) -> Question:
    """A question of locality; compared with the new target, unless that is a right answer here too."""
    right = {wording.strip().casefold() for thing in things for wording in thing}
    other = fact.target_new if fact.target_new.strip().casefold() not in right else None
    return Question(kind=kind, prompt=prompt, answers=things, against=other)
