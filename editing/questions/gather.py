"""The questions that test a request: prompts as given, a record's own, or those FactWorld knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editing.request import EditRequest
from tracer.errors import LocateError, OneOfSeveral, TracerError
from tracer.facts.fact import Fact
from tracer.model import EMBEDDED

from .probes import Probes, from_factworld, texts
from .question import Question

if TYPE_CHECKING:
    from tracer.model import Model


def with_factworlds(model: Model, requests: Sequence[EditRequest], probes: Sequence[Probes]) -> list[Probes]:
    """The questions about each request; of the embedded model FactWorld's own where its prompt is the only one.

    Args:
        model: to be edited.
        requests: the facts to write.
        probes: the questions so far.
    """
    if model.name != EMBEDDED:
        return list(probes)
    bare = [place for place, own in enumerate(probes) if len(own.questions) == 1]
    known = dict(zip(bare, from_factworld([requests[place] for place in bare]), strict=True))
    return [known.get(place) or own for place, own in enumerate(probes)]


def with_prompts(
    model: Model, given: Sequence[Any], paraphrases: Any, neighbours: Any
) -> tuple[list[EditRequest], list[Probes]]:
    """Requests, and the questions that test each: prompts as given, else the record's, else those FactWorld knows.

    Unknown answers without the edit are the model's present answers.

    Args:
        model: before any edit.
        given: requests or records.
        paraphrases: prompts with their subjects; None: see above.
        neighbours: prompts with their subjects; None: see above.
    """
    requests, probes = [], []
    for place, item in enumerate(given):
        if isinstance(item, Fact):
            raise LocateError(
                f"a sweep edits, and fact {place} ({item.text!r}) has no new target; give an EditRequest or a record"
            )
        try:
            requests.append(EditRequest.of(item))
            probes.append(Probes.of(item))
        except TracerError as error:
            raise OneOfSeveral(f"request {place}: {error}") from error
    probes = with_factworlds(model, requests, probes)
    for name, group, lists in (("paraphrases", "paraphrase", paraphrases), ("neighbours", "neighbour", neighbours)):
        if lists is None:
            continue
        several = isinstance(lists, Sequence) and not isinstance(lists, str)
        alone = several and len(probes) == 1 and all(isinstance(each, str) for each in lists)
        each_own = [lists] if alone else lists
        if not several or len(each_own) != len(probes):
            raise LocateError(f"{name} are {lists!r}; expected one list of prompts for each of {len(probes)} requests")
        for place, (request, prompts) in enumerate(zip(requests, each_own, strict=True)):
            others = [question for question in probes[place].questions if question.kind != group]
            asked = [Question.about(group, prompt, request) for prompt in texts(name, prompts)]
            probes[place] = Probes((*others, *asked))
    return requests, [each.completed(model) for each in probes]
