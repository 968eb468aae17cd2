"""Chains of hops: each asks about the answer of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tracer.facts.fact import SLOT
from tracer.text import plain

if TYPE_CHECKING:
    from editing.questions.record import EditRecord


@dataclass(frozen=True)
class Chain:
    """A question of several hops, taken apart.

    Attributes:
        case_id: of its record.
        hops: prompts; the first is whole, the others have {} where the answer of the one before stands.
        answers: wordings of the last answer.
        edits: hops whose answer is a fact of the record that is written.
    """

    case_id: str
    hops: tuple[str, ...]
    answers: tuple[str, ...]
    edits: int


def chain_of(record: EditRecord, second: str | None = None) -> Chain | None:
    """The chain of a record; None: it has none whose hops hang together.

    Args:
        record: of MQuAKE, whose single hops are the chain after the edits; or one with a fact and one hop behind it.
        second: prompt of that hop, with {} for the new target.
    """
    written = {request.text: request for request in record.requests()}
    if second is not None:
        asks = [one for one in record.asks if one.kind == "one_hop" and one.answers]
        if not asks:
            return None
        return Chain(record.case_id, (record.requests()[0].text, second), asks[0].answers[0], 1)
    steps = [one for one in record.asks if one.kind == "single_hop" and one.answers]
    final = next((one.answers[0] for one in record.asks if one.kind == "multi_hop" and one.answers), ())
    if len(steps) < 2 or not final:
        return None
    hops: list[str] = [steps[0].prompt]
    for before, step in pairwise(steps):
        hop = _slotted(step.prompt, before.answers[0])
        if hop is None:
            return None
        hops.append(hop)
    return Chain(record.case_id, tuple(hops), final, sum(step.prompt in written for step in steps))


def consistent(records: Sequence[EditRecord]) -> list[EditRecord]:
    """Records whose edits can all be in place at once: those that write what no earlier one writes otherwise.

    In MQuAKE-CF-3k one record's edits contradict another's, so that with all of them in one memory no method can be
    right about both (Zhong et al. 2024, "MQuAKE-Remastered").

    Args:
        records: in their order.
    """
    written: dict[str, str] = {}
    found = []
    for record in records:
        own = {request.text: plain(request.target_new).casefold() for request in record.requests()}
        if all(written.get(text, target) == target for text, target in own.items()):
            written |= own
            found.append(record)
    return found


def _slotted(prompt: str, wordings: Sequence[str]) -> str | None:
    """A prompt with a slot where one of the wordings stands, the longest first; None: none does."""
    for wording in sorted(wordings, key=len, reverse=True):
        if wording in prompt and SLOT not in prompt:
            return prompt.replace(wording, SLOT, 1)
    return None
