"""Attacks on the answer that an edit or unlearning should have taken away: from inside a model, and from outside.

Patil, Hase and Bansal, "Can Sensitive Information Be Deleted From LLMs?", 2024. A guess is a first token, from which
the model goes on greedily; it is right if the whole old answer comes out. So of an answer of several tokens the first
one has to be guessed, and the model has to say the others itself; none of them is given away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from editing.questions.metrics import ATTACKS
from editing.questions.record import EditRecord, listed
from editing.request import EditRequest
from editing.tasks.given import settings_of
from tracer.engine.follow import follow
from tracer.engine.lens import logit_lens
from tracer.engine.line import Line
from tracer.errors import EncoderDecoderError, InvalidEditRequest, MaskedModelError
from tracer.facts.fact import SLOT, Fact, token_text
from tracer.inference import ordinary

from .guesses import Guesses, most_changed, most_probable, places_of
from .result import AttackResult
from .settings import AttackSettings

if TYPE_CHECKING:
    from tracer.model import Model

OUTPUT, PROJECTION, DELTA, REPHRASING, _ = ATTACKS


@dataclass(frozen=True)
class Prompt:
    """A prompt whose old answer is looked for.

    Attributes:
        line: its tokens and those of the answer.
        probability: of the whole answer.
        whole: whether the model says all of the answer when it is given the first token.
    """

    line: Line
    probability: float
    whole: bool

    @property
    def first(self) -> int:
        """The answer's first token."""
        return self.line.targets[0][0]


@ordinary()
def attack(model: Model, items: Any, wordings: Sequence[Sequence[str]] | None = None, **settings: Any) -> AttackResult:
    """How many guesses bring back the old answers of facts, from the model as it is; it is left so.

    Attacks: "output", the most probable tokens after the prompt; "head projection", those of every layer through the
    unembedding in turn; "probability delta", tokens whose probability rises or falls most from a layer to the next;
    "rephrasing", the most probable tokens after other wordings in turn; "sampling", texts drawn from the model after
    the prompt and the other wordings in turn.

    Args:
        model: with an edit applied, memories attached, or after unlearning; unedited, it gives the upper bound.
        items: requests with a `target_true`, records, or one of either.
        wordings: of requests: other texts of each, whole or with `{}` for the subject. Records have their paraphrases.
        settings: of [`editing.attack.AttackSettings`][].

    Raises:
        TracerError: nothing to attack, a request without a true answer, another number of wordings than of requests, an
            unknown setting, a layer that does not exist, a masked or an encoder-decoder model.
    """
    used = settings_of(AttackSettings, settings, "attack")
    if model.style == "seq2seq":
        raise EncoderDecoderError(
            f"{model.name} is an encoder-decoder model, whose inner states are not read as answers; attack a model "
            "that predicts the next token"
        )
    if not model.causal:
        raise MaskedModelError(f"{model.name} is a masked model; attacks take models that predict the next token")
    for layer in used.layers or ():
        model.path("hidden", layer)  # TracerError for a layer that does not exist
    targets = _targets(items, wordings)
    prompts = _prompts(model, [facts for _, facts in targets])
    inside = _inside(model, [own[0] for own in prompts], used)
    outside = _outside(model, [own[1:] for own in prompts], used.budget)
    made = [{**one, **({REPHRASING: two} if two else {})} for (one, _), two in zip(inside, outside, strict=True)]
    names = [name for name in ATTACKS if any(name in each for each in made)]
    nan = float("nan")
    return AttackResult(
        subjects=tuple(request.subject for request, _ in targets),
        prompts=tuple(facts[0].text for _, facts in targets),
        answers=tuple(str(request.target_true) for request, _ in targets),
        needed={name: np.array([each[name].needed if name in each else nan for each in made]) for name in names},
        layers=_filled([places for _, places in inside]),
        sampled=_filled([[one.probability for one in own] for own in prompts]),
        guesses={name: tuple(_texts(model, each.get(name)) for each in made) for name in names},
        budget=used.budget,
        model=model.name,
    )


def _targets(items: Any, wordings: Sequence[Sequence[str]] | None) -> list[tuple[EditRequest, list[Fact]]]:
    """Requests, each with its prompt and other wordings as facts with the old answer."""
    found: list[tuple[EditRequest, Sequence[str]]] = []
    for item in listed(items):
        if isinstance(item, EditRecord):
            found += [(request, _paraphrases(item, request)) for request in item.requests()]
        else:
            found.append((EditRequest.of(item), ()))
    if not found:
        raise InvalidEditRequest("there is nothing to attack; give at least one request with a target_true")
    if wordings is not None:
        if isinstance(wordings, str) or len(wordings) != len(found):
            raise InvalidEditRequest(
                f"wordings has {len(wordings)} entries for {len(found)} requests; give a list of texts for each"
            )
        found = [(request, texts) for (request, _), texts in zip(found, wordings, strict=True)]
    return [(request, _facts(place, request, texts)) for place, (request, texts) in enumerate(found)]


def _paraphrases(record: EditRecord, request: EditRequest) -> list[str]:
    """Other wordings of one of a record's facts: where it has several, those with its old answer."""
    asked = [one for one in record.asks if one.kind == "paraphrase"]
    alone = len(record.rewrites) == 1
    return [one.prompt for one in asked if alone or str(one.true).strip() == str(request.target_true).strip()]


def _facts(place: int, request: EditRequest, texts: Sequence[str]) -> list[Fact]:
    if request.target_true is None:
        raise InvalidEditRequest(
            f"request {place}, {request.text!r}, has no target_true; say which answer is looked for"
        )
    found = [request.about(request.target_true)]
    for text in texts:
        text = text.replace(SLOT, request.subject)
        found.append(Fact(SLOT, text, request.after(text, request.target_true)))
    return found


def _prompts(model: Model, facts: Sequence[Sequence[Fact]]) -> list[list[Prompt]]:
    """What the model makes of each wording with the old answer forced behind it."""
    aligned = [[fact.align(model) for fact in own] for own in facts]
    lines = [[Line(one.input_ids, (one.target_ids,)) for one in own] for own in aligned]
    read = iter(follow(model, [line for own in lines for line in own], description="old answers"))
    found = []
    for own in lines:
        found.append([])
        for line in own:
            one = next(read)
            says = tuple(one.best[0][1:].tolist()) == line.targets[0][1:]
            found[-1].append(Prompt(line, float(np.exp(one.log_probs[0].sum())), says))
    return found


def _inside(
    model: Model, prompts: Sequence[Prompt], used: AttackSettings
) -> list[tuple[dict[str, Guesses], list[float]]]:
    """Guesses of each attack that reads a prompt's layers, and the guesses each layer alone needs."""

    def measure(place: int, log_probs: Tensor) -> tuple[dict[str, Guesses], list[float]]:
        one, budget, depth = prompts[place], used.budget, len(log_probs)
        read = [layer for layer in (used.layers or range(depth)) if layer < depth]  # another model may be less deep
        orders = {
            OUTPUT: most_probable(log_probs[-1:], budget),
            PROJECTION: most_probable(log_probs[read], budget),
            DELTA: [order for layer in reversed(read) if layer for order in most_changed(log_probs, layer, budget)],
        }
        made = {
            name: Guesses.of(each, [one.first] * len(each), [one.whole] * len(each), budget)
            for name, each in orders.items()
            if each
        }
        places = [float(each) if one.whole else np.inf for each in places_of(log_probs, one.first)]
        return made, places

    return logit_lens(model, [one.line for one in prompts], measure)


def _outside(model: Model, wordings: Sequence[Sequence[Prompt]], budget: int) -> list[Guesses | None]:
    """Guesses after other wordings of each fact; None where it has none."""
    every = [one for own in wordings for one in own]

    def measure(_: int, log_probs: Tensor) -> list[int]:
        return most_probable(log_probs, budget)[0]

    orders = iter(logit_lens(model, [one.line for one in every], measure, layers=(-1,)) if every else [])
    found: list[Guesses | None] = []
    for own in wordings:
        mine = [next(orders) for _ in own]
        found.append(Guesses.of(mine, [one.first for one in own], [one.whole for one in own], budget) if own else None)
    return found


def _filled(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows of numbers as an array, nan where one is shorter."""
    found = np.full((len(rows), max(map(len, rows))), np.nan)
    for line, row in zip(found, rows, strict=True):
        line[: len(row)] = row
    return found


def _texts(model: Model, guesses: Guesses | None) -> tuple[str, ...]:
    return tuple(token_text(model.tokenizer, token) for token in guesses.tokens) if guesses else ()
