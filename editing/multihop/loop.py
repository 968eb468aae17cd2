"""MeLLo (Zhong et al. 2023, "MQuAKE"): a model takes a question apart, and edits are held against its own answers.

The model writes a subquestion and what it believes to be the answer; the nearest edit is put before it; it says whether
that contradicts its answer, and goes on until it writes the final answer. This needs a model that follows instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracer.checks import whole
from tracer.engine.generation import generate
from tracer.errors import HyperparameterError, MemoryMisfit
from tracer.facts.encoding import encode

if TYPE_CHECKING:
    from editing.memories.memory import Memory
    from tracer.model import Model

Write = Callable[[str, str], str]
"""`write(prompt, stop)` goes on after a prompt, and ends before the text `stop`."""
Find = Callable[[str], int | None]
"""`find(question)` gives the place of the fact that a question is about; None: there is none."""

ASKED, ANSWERED = "Subquestion: ", "Final answer: "
FACT = "Retrieved fact:"
QUESTION = "\n\nQustion: "  # as published; the letter that is missing is a part of the format
NOTHING = "nothing is known to have changed"
TURNS, PUBLISHED_TURNS = 5, 4


@dataclass(frozen=True)
class Dialogue:
    """What was written about a question.

    Attributes:
        answer: the final one; None: none was given.
        prompts: all that the model was given, turn by turn.
        retrieved: places of the facts that were put before it; None: of none.
        text: all of it, the task's examples left out.
    """

    answer: str | None
    prompts: tuple[str, ...]
    retrieved: tuple[int | None, ...]
    text: str


def mello(write: Write, find: Find, facts: Sequence[str], question: str, examples: str, turns: int = TURNS) -> Dialogue:
    """Answer a question of several hops.

    Args:
        write: writes on.
        find: finds the fact that a subquestion is about; published: the nearest, whatever it is.
        facts: the edits as sentences.
        question: of several hops.
        examples: of the task, in its format.
        turns: that the model may write. A question of four hops takes five. (Published: 4, `PUBLISHED_TURNS`.)

    Raises:
        TracerError: no turns at all.
    """
    whole("turns", turns, 1, kind=HyperparameterError)
    head = examples.strip() + QUESTION + question
    prompt, prompts, retrieved, answer = head, [], [], None
    for _ in range(turns):
        prompts.append(prompt)
        prompt += write(prompt, FACT)
        lines = prompt.strip().split("\n")
        if lines[-1].startswith(ANSWERED):
            answer = lines[-1].removeprefix(ANSWERED).strip()
            break
        if len(lines) < 2 or not lines[-2].startswith(ASKED):
            break
        place = find(lines[-2].removeprefix(ASKED))
        retrieved.append(place)
        fact = NOTHING if place is None else facts[place].rstrip(".")
        prompt = f"{prompt}{FACT} {fact}."
    return Dialogue(answer, tuple(prompts), tuple(retrieved), prompt[len(examples.strip()) :].strip())


def writer(model: Model, max_new_tokens: int = 200) -> Write:
    """Lets a model write, greedily, as the published loop does at temperature 0.

    Args:
        model: that follows the examples.
        max_new_tokens: most tokens of a turn. (Published: 256.)
    """

    def write(prompt: str, stop: str) -> str:
        (text,) = generate(model, [prompt], max_new_tokens=max_new_tokens)
        return text.partition(stop)[0]

    return write


def finder(model: Model, memory: Memory) -> Find:
    """Finds edits by the router of a memory.

    Args:
        model: whose states the router reads.
        memory: with a router; its entries are the facts.

    Raises:
        TracerError: a memory that decides without entries.
    """
    if not memory.acts.per_entry and not hasattr(memory.acts, "lines_of"):
        raise MemoryMisfit(f"the memory {memory.name!r} ({memory.kind}) has no entries to find; use one with a router")

    def find(question: str) -> int | None:
        (route,) = memory.routes(model, [tuple(encode(model.tokenizer, question, model.causal)[0])])
        return route.entry if route.hit else None

    return find
