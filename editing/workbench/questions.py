"""Questions before and after an edit on the page: FactWorld's own wordings and neighbours, or those typed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editing.questions.gather import with_prompts
from editing.questions.probes import Probes, from_factworld
from editing.request import EditRequest
from tracer.errors import TracerError, WorkbenchError
from tracer.facts.fact import SLOT, Fact
from tracer.model import EMBEDDED

if TYPE_CHECKING:
    from tracer.model import Model


def known_to_factworld(model: Model, fact: Fact) -> Probes | None:
    """FactWorld's questions about a fact (the target is any); None for another model, or a fact it does not have."""
    if model.name != EMBEDDED:
        return None
    return from_factworld([EditRequest(fact.prompt, fact.subject, "something else")])[0]


def questions(
    model: Model,
    request: EditRequest,
    paraphrases: Sequence[str] | None = None,
    neighbours: Sequence[str] | None = None,
    generate: Sequence[str] | None = None,
) -> Probes:
    """The rewrite, paraphrases, neighbours, the subject's other facts, and prompts to be continued.

    Unknown answers are the model's present ones.

    Args:
        model: to be edited.
        request: the fact to write.
        paraphrases: prompts with their subjects in them ({} stands for the subject); None: FactWorld's own on the
            embedded model, where the fact is one of its facts, otherwise empty. Empty lines and repetitions are left
            out.
        neighbours: prompts with their subjects in them, likewise.
        generate: prompts to be continued; None: FactWorld's, otherwise the request's own and "{subject} is". A masked
            model writes nothing.

    Raises:
        TracerError: a prompt that is the request's own, a neighbour with {}, and one that the model cannot be asked;
            its group and line are named.
    """
    own = {"paraphrases": paraphrases, "neighbours": neighbours}
    given = {name: None if lines is None else usable(model, request, name, lines) for name, lines in own.items()}
    (probes,) = with_prompts(model, [request], given["paraphrases"], given["neighbours"])[1]
    if not model.causal:
        written: Sequence[str] = ()
    elif generate is not None:
        written = usable(model, request, "texts to continue", generate)
    else:
        written = probes.generate or (request.text, f"{request.subject} is")
    return Probes(probes.questions, tuple(written))


def usable(model: Model, request: EditRequest, name: str, lines: Sequence[str]) -> list[str]:
    """Prompts of a group as they are asked; see `questions`.

    Args:
        model: to ask.
        request: the fact to write.
        name: of the group.
        lines: as typed.
    """
    found: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        text = line.strip()
        if name == "paraphrases":
            text = text.replace(SLOT, request.subject)
        elif name == "neighbours" and SLOT in text:
            raise WorkbenchError(
                f"line {number} of the neighbours, {text!r}, has {{}}; a neighbour is about another subject: write it "
                "out"
            )
        if name != "texts to continue" and text == request.text:
            raise WorkbenchError(f"line {number} of the {name} is the prompt that is edited, {text!r}; leave it out")
        try:
            Fact(SLOT, text, request.after(text, request.target_new)).align(model)
        except TracerError as error:
            raise WorkbenchError(f"line {number} of the {name}: {error}") from error
        found[text] = None
    return list(found)
