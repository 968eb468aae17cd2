"""How the memories of a model decide about prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editing.memories.memory import Memory
from tracer.engine.acts import Ids

from .answer import Routed

if TYPE_CHECKING:
    from tracer.model import Model


def routes_of(model: Model, prompts: Sequence[Ids]) -> list[tuple[Routed, ...]]:
    """For each prompt, one route for each memory of the model, by name; decided as when the prompts are answered.

    Args:
        model: with memories or without.
        prompts: in tokens; equal ones are decided once.
    """
    distinct = list(dict.fromkeys(prompts))
    found: dict[Ids, list[Routed]] = {prompt: [] for prompt in distinct}
    for memory in model.memories if distinct else ():
        if isinstance(memory, Memory):
            for prompt, one in zip(distinct, memory.routes(model, distinct), strict=True):
                told = (one.hit, one.entry, one.score, one.threshold, one.runner_up, one.runner_up_score)
                found[prompt].append(Routed(memory.name, *told))
    return [tuple(found[prompt]) for prompt in prompts]
