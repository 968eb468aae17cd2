"""Edited multi-hop accuracy with a perfect decomposer: the hops are known, and only their answers are the model's.

Small models cannot take a question apart. Here a script does so, without a mistake, so that what is left is whether
each hop is answered with the edit where it is about one. It flatters a loop such as MeLLo's, and is no measurement of
one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from editing.questions.match import OPENING, says
from tracer.engine.generation import generate
from tracer.facts.fact import SLOT
from tracer.progress import track

from .loop import finder

if TYPE_CHECKING:
    import pandas as pd

    from editing.memories.memory import Memory
    from tracer.model import Model

    from .chains import Chain

Ask = Callable[[str], str]
"""`ask(prompt)` gives what is said after a prompt."""
NAME = re.compile(r"^[^\n.,;:!?()\"“”]+(?:(?:\.(?=\w)|(?<=\b\w)\.(?= ?\w))[^\n.,;:!?()\"“”]*)*")  # "St. Louis" ends


@dataclass(frozen=True)
class Solved:
    """A chain that was gone along.

    Attributes:
        chain: the question.
        said: the answer of each hop, as it was put into the next one; "" where nothing was said, and it ends.
        right: whether the last one is one of the answers.
    """

    chain: Chain
    said: tuple[str, ...]
    right: bool


def solved(chain: Chain, ask: Ask) -> Solved:
    """Go along a chain.

    Args:
        chain: the question.
        ask: answers its hops.
    """
    said: list[str] = []
    text = ""
    for hop in chain.hops:
        text = ask(hop.replace(SLOT, said[-1]) if said else hop)
        said.append(named(text))
        if not said[-1]:
            break
    whole = len(said) == len(chain.hops)
    return Solved(chain, tuple(said), whole and says(text, [chain.answers]))


def named(text: str) -> str:
    """The name that a continuation begins with: up to the first mark that ends a phrase, at most eight words.

    Args:
        text: what was said after a prompt.
    """
    found = NAME.match(text.lstrip(OPENING))
    return " ".join(found.group().split()[:8]) if found is not None else ""


def saying(model: Model, max_new_tokens: int = 8) -> Ask:
    """The model itself answers, with whatever memories it has.

    Args:
        model: that is asked.
        max_new_tokens: of an answer.
    """
    return lambda prompt: generate(model, [prompt], max_new_tokens=max_new_tokens)[0]


def overriding(model: Model, memory: Memory, max_new_tokens: int = 8) -> Ask:
    """The target of the edit that the router finds is the answer, and without one the model's: no reading at all.

    Args:
        model: that is asked; the memory need not be on it.
        memory: with a router.
        max_new_tokens: of an answer.
    """
    find, plain = finder(model, memory), saying(model, max_new_tokens)
    targets = [str(entry["target"]) for entry in memory.acts.entries(memory)]

    def ask(prompt: str) -> str:
        place = find(prompt)
        return plain(prompt) if place is None else targets[place]

    return ask


def accuracy(chains: Iterable[Chain], ask: Ask) -> pd.DataFrame:
    """Edited multi-hop accuracy with a perfect decomposer; one row for each chain.

    Args:
        chains: the questions.
        ask: answers their hops.
    """
    import pandas as pd

    rows = []
    for chain in track(list(chains), "going along chains"):
        one = solved(chain, ask)
        rows.append(
            {
                "case_id": chain.case_id,
                "hops": len(chain.hops),
                "edits": chain.edits,
                "right": one.right,
                "said": " | ".join(one.said),
                "answer": chain.answers[0],
            }
        )
    return pd.DataFrame(rows, columns=["case_id", "hops", "edits", "right", "said", "answer"])
