"""Fields of records: text that has to be there, texts that may be, and answers in the shapes benchmarks write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracer import TracerError
from tracer.text import look_alike

from .record import Ask, Kind, Rewrite

Wordings = tuple[tuple[str, ...], ...]


class FieldError(TracerError):
    """A field of a record that cannot be used; ``field`` is its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def text(record: Mapping[str, Any], *names: str) -> str:
    """The text of a field, the first of ``names`` that is there. Raises FieldError where none is, or it holds none."""
    found = optional(record, *names)
    if found is not None:
        return found
    there = next((name for name in names if record.get(name) is not None), None)
    if there is None:
        raise FieldError(names[0], f"is missing; the record has {', '.join(map(str, record)) or 'nothing'}")
    raise FieldError(there, f"holds {str(record[there])[:60]!r}; expected text")


def optional(record: Mapping[str, Any], *names: str) -> str | None:
    """The text of the first field of ``names`` that is there; None: there is none, or it is empty.

    A target may be a dict with ``str``, or a list of wordings, of which the first counts.
    """
    for name in names:
        things = answers(record.get(name), name)
        if things:
            return things[0][0]
    return None


def several(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The texts of a field that holds a list of them, or one; none where it is not there."""
    value = record.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise FieldError(name, f"holds {str(value)[:60]!r}; expected a list of texts")
    return tuple(item for item in value if item.strip())


def answers(value: Any, field: str) -> Wordings:
    """What has to be named, each with its wordings: ``"a"``, ``["a", "also a"]`` or ``[["a", "also a"], ["b"]]``.

    Numbers are written out, a dict stands for its ``str`` (CounterFact), and empty ones are left out.
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
    """Pairs of prompt and answers of a list of mappings with ``prompt`` and ``ground_truth`` (KnowEdit), or of one.

    Also ``target`` (FactWorld). A prompt may be a list, of which every one is asked.
    """
    for item in [value] if isinstance(value, Mapping) else (value or ()):
        if not isinstance(item, Mapping):
            raise FieldError(field, f"holds {str(item)[:60]!r}; expected mappings with prompt and ground_truth")
        things = answers(item.get("ground_truth", item.get("target")), field)
        prompts = several(item, "prompt")
        if not prompts:
            raise FieldError(field, f"holds {str(item)[:60]!r}; a question needs a prompt")
        for prompt in prompts:
            yield prompt, things


def rewrite(prompt: str, subject: str, new: str, true: str | None, **more: str | None) -> Rewrite:
    """A rewrite of a fact whose prompt may spell the subject in other capitals, or in letters that look alike (composed
    or not, curly quotes): then the prompt's spelling counts.

    The subject says where it stands in the prompt, and the prompt stays as it is.
    """
    if "{}" not in prompt and subject not in prompt:
        written = look_alike(prompt, subject)
        if written is not None and look_alike(prompt.replace(written, "\n", 1), subject) is None:
            subject = written
    return Rewrite(prompt=prompt, subject=subject, target_new=new, target_true=true, **more)


def expecting(kind: Kind, prompts: Sequence[str], answer: str | None, against: str | None) -> list[Ask]:
    """Questions of one kind with the same answer; None: what the model said before."""
    things = () if answer is None else ((answer,),)
    return [Ask(kind=kind, prompt=prompt, answers=things, against=against) for prompt in prompts]


def follows(kind: Kind, prompt: str, things: Wordings, fact: Rewrite) -> Ask:
    """A question of portability; compared with the old target where the new one itself is the answer."""
    new = things[0][0].strip() == fact.target_new.strip()
    return Ask(kind=kind, prompt=prompt, answers=things, against=fact.target_true if new else None)


def keeps(kind: Kind, prompt: str, things: Wordings, fact: Rewrite) -> Ask:
    """A question of locality; compared with the new target, unless that is a right answer here too."""
    right = {wording.strip().casefold() for thing in things for wording in thing}
    other = fact.target_new if fact.target_new.strip().casefold() not in right else None
    return Ask(kind=kind, prompt=prompt, answers=things, against=other)
