"""Prompts with what is wanted after them, what was found there, and which model is to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from tracer.errors import PromptTooLong

from .acts import Asked, Ids
from .frame import Frame
from .memories import asked, decided

if TYPE_CHECKING:
    from tracer.model import Model

Done = Callable[[Sequence[int]], bool]


@dataclass(frozen=True, eq=False)
class Line:
    """A prompt, and what is wanted after it.

    Attributes:
        ids: the prompt; of a masked model whole, with its masks.
        targets: forced, each by itself.
        tokens: most tokens that the model writes itself; 0 for no text.
        draw: where tokens are drawn from, among the `top_k` most probable; None: the most probable is taken.
        done: whether a text that ends with these tokens is finished.
        first: where the first token of the targets is read; None: at the prompt's end.
    """

    ids: Ids
    targets: tuple[Ids, ...] = ()
    tokens: int = 0
    draw: torch.Generator | None = None
    done: Done | None = None
    first: int | None = None


@dataclass(frozen=True, eq=False)
class Followed:
    """The readings after a line's prompt.

    Attributes:
        log_probs: for each target [k] float64, log-probability of each token (natural logarithm).
        best: for each target [k], the most probable ids at its places.
        written: ids that the model wrote, without an end token.
    """

    log_probs: tuple[np.ndarray, ...]
    best: tuple[np.ndarray, ...]
    written: Ids


def reworded(model: Model, lines: Sequence[Line]) -> list[tuple[Model, Sequence[int], Sequence[Line], Frame | None]]:
    """Which model answers which of the lines, as its memories put them, and the frame of these.

    A memory may put another question in the place of a prompt; it ends as the prompt does, since what is read is
    counted from there.
    """
    questions, frame = asked(model, [line.ids for line in lines])
    if frame is None:
        return [(model, range(len(lines)), lines, None)]
    lines = [_with(model, line, question) for line, question in zip(lines, questions, strict=True)]
    answering = [question.model or model for question in questions]
    found = []
    for one in {id(each): each for each in answering}.values():
        some = [place for place, each in enumerate(answering) if each is one]
        own = [lines[place] for place in some]
        told = frame.select(some) if one is model else decided(one, [line.ids for line in own])
        found.append((one, some, own, told))
    return found


def _with(model: Model, line: Line, question: Asked) -> Line:
    longest, room = max(map(len, line.targets), default=1) - 1, (question.model or model).n_ctx
    if question.ids != line.ids and len(question.ids) + longest > room >= len(line.ids) + longest:
        raise PromptTooLong(
            f"a memory of {model.name} makes a prompt {len(question.ids)} tokens long, which leaves no room for the "
            f"{longest + 1} tokens of an answer, as {room} are read at most; shorten the prompt, or take the memory off"
        )
    first = None if line.first is None else line.first + len(question.ids) - len(line.ids)
    return replace(line, ids=question.ids, first=first)
