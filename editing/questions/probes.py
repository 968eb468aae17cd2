"""Questions before and after an edit: the fact itself, paraphrases, neighbours, the subject's other facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from editing.request import EditRequest
from tracer.engine.answer import own_answer
from tracer.engine.generation import generate
from tracer.errors import QuestionError
from tracer.facts.fact import SLOT, Fact
from tracer.facts.readout import answer_text
from tracer.facts.spacing import spaced

from .question import Question

if TYPE_CHECKING:
    from tracer.factworld import WorldFact
    from tracer.model import Model

NEIGHBOURS, PARAPHRASES = 5, 4  # most that are taken from FactWorld


@dataclass(frozen=True)
class Probes:
    """Questions, and prompts to be continued. Made by `of`.

    Attributes:
        questions: in the order they are shown.
        generate: prompts whose continuations are shown.
    """

    questions: tuple[Question, ...]
    generate: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "questions", tuple(self.questions))
        object.__setattr__(self, "generate", texts("generate", self.generate))

    @property
    def cases(self) -> int:
        """Number of requests the questions belong to."""
        return len({question.case for question in self.questions})

    def group(self, name: str) -> list[int]:
        """Places of the questions of a kind.

        Args:
            name: kind of questions.
        """
        return [place for place, question in enumerate(self.questions) if question.kind == name]

    @classmethod
    def of(cls, given: Any) -> Probes:
        """Probes of a request, or of a record with its prompts: CounterFact's and FactWorld's layouts.

        `paraphrase_prompts` are asked for the request's targets, `neighborhood_prompts` for its true one, and
        `same_subject_prompts` (`prompt` and `target`) for their own; `generation_prompts` are continued, each once.
        Prompts that a record lacks are left out.

        Args:
            given: the request or record.

        Raises:
            TracerError: as [`editing.EditRequest.of`][] does; invalid prompts.
        """
        if isinstance(given, Probes):
            return given
        request = EditRequest.of(given)
        record: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        new = request.target_new
        questions = [Question.about("rewrite", request.text, request)]
        for group, name in (("paraphrase", "paraphrase_prompts"), ("neighbour", "neighborhood_prompts")):
            questions += [Question.about(group, text, request) for text in texts(name, record.get(name, ()))]
        for other in record.get("same_subject_prompts", ()):
            if not isinstance(other, Mapping) or not {"prompt", "target"} <= {*other}:
                raise QuestionError(f"same_subject_prompts hold {other!r}; expected mappings with prompt and target")
            prompt = other["prompt"]
            questions.append(Question.of("same_subject", prompt, request.after(prompt, new), other["target"]))
        written = texts("generation_prompts", record.get("generation_prompts", ()))
        return cls(tuple(questions), tuple(dict.fromkeys(written)))

    @classmethod
    def joined(cls, several: Iterable[Probes]) -> Probes:
        """The questions of several requests, numbered in their order, and all prompts to be continued, each once.

        Args:
            several: probes of one request each.
        """
        listed = list(several)
        questions = [
            each.model_copy(update={"case": case}) for case, one in enumerate(listed) for each in one.questions
        ]
        return cls(tuple(questions), tuple(dict.fromkeys(text for one in listed for text in one.generate)))

    def completed(self, model: Model) -> Probes:
        """The same, with unknown true answers filled in by the model's present answer, as far as its next token.

        To a paraphrase that is its answer to the request itself. It stays unknown where the token is no text by itself
        (a part of a character).

        Args:
            model: before the edit.
        """
        request = {q.case: q for q in self.questions if q.kind == "rewrite"}
        asked = [request.get(q.case, q) if q.kind == "paraphrase" else q for q in self.questions]
        unknown = list(dict.fromkeys(a.prompt for q, a in zip(self.questions, asked, strict=True) if q.true is None))
        answers = dict(zip(unknown, _said(model, unknown), strict=True))
        filled = [
            q if q.true is not None else q.knowing(_following(q, a.true) or answers.get(a.prompt))
            for q, a in zip(self.questions, asked, strict=True)
        ]
        return replace(self, questions=tuple(filled))


def from_factworld(
    requests: Sequence[EditRequest], neighbours: int = NEIGHBOURS, paraphrases: int = PARAPHRASES
) -> list[Probes | None]:
    """FactWorld's questions about the fact of each request; None for a request that is not about one of its facts.

    A request belongs to a fact if the subject is the fact's and the prompt one of the wordings of its relation. Asked
    are other wordings (those never seen in training first), facts of the relation about other subjects (first those
    with the same object, whose answer is most at risk, then others without the new one), and every other fact of the
    subject. Continued is the fact in its usual wording, and "{subject} is".

    Args:
        requests: the facts to write.
        neighbours: most facts about other subjects.
        paraphrases: most other wordings.
    """
    from tracer import factworld

    taught = factworld.facts()
    about: dict[str, list[WorldFact]] = {}
    related: dict[str, list[WorldFact]] = {}
    for fact in taught:
        about.setdefault(fact.subject, []).append(fact)
        related.setdefault(fact.relation, []).append(fact)
    found: list[Probes | None] = []
    for request in requests:
        mine = about.get(request.subject, [])
        wordings = {
            fact.relation: [*factworld.paraphrases(fact, held_out=True), *factworld.paraphrases(fact)] for fact in mine
        }
        fact = next((f for f in mine if request.prompt in {w.prompt for w in wordings[f.relation]}), None)
        if fact is None:
            found.append(None)
            continue
        new, true = request.target_new, fact.target
        alike = [w.text for w in wordings[fact.relation] if w.prompt != request.prompt][:paraphrases]
        others = [f for f in related[fact.relation] if f.subject != fact.subject]
        near = _some([f for f in others if f.object == fact.object], neighbours)
        far = [f for f in others if f.object not in (fact.object, new.strip())]
        near += _some(far, neighbours - len(near))
        questions = [Question.about("rewrite", request.text, request, true)]
        questions += [Question.about("paraphrase", text, request, true) for text in alike]
        questions += [Question.of("neighbour", f.text, new, f.target) for f in near]
        questions += [Question.of("same_subject", f.text, new, f.target) for f in mine if f.relation != fact.relation]
        found.append(Probes(tuple(questions), (fact.text, f"{fact.subject} is")))
    return found


def texts(name: str, given: Any) -> tuple[str, ...]:
    """Prompts as a tuple of texts; TracerError for anything else."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(each, str) for each in given):
        raise QuestionError(f"{name} is {given!r}; expected a list of prompts, each with its subject filled in")
    return tuple(given)


def _following(question: Question, answer: str | None) -> str | None:
    return None if answer is None else spaced(question.prompt, answer.strip(), question.space)


def _said(model: Model, prompts: Sequence[str]) -> list[str | None]:
    """The next token after each prompt as text; None where it cannot be written as an answer."""
    if model.causal:
        said = generate(model, prompts, max_new_tokens=1, sentences=None)
    else:
        said = [answer_text(model, own_answer(model, prompt)) for prompt in prompts]
    found: list[str | None] = []
    for prompt, text in zip(prompts, said, strict=True):
        whole = bool(text.strip()) and "�" not in text
        ids = Fact(SLOT, prompt, text).align(model).target_ids if whole else ()
        found.append(text if ids and answer_text(model, ids) == text else None)
    return found


def _some(facts: list[WorldFact], count: int) -> list[WorldFact]:
    """`count` of them, spread evenly over the table."""
    step = max(1, len(facts) // max(1, count))
    return facts[::step][: max(0, count)]
