"""States of prompts, each run by itself, so that a state has the same bits whatever it is asked together with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .acts import Ids, Place
from .forward import Stop
from .frame import Frame, attach, evaluating
from .hooks import capture
from .layout import own_tokens
from .memories import decided, forward
from .sites import Site

if TYPE_CHECKING:
    from tracer.model import Model


def mean_state(model: Model, ids: Sequence[int], place: Place) -> Tensor:
    """The mean of a site's states over the tokens that its layer has states of, [width], float32.

    Args:
        model: the model.
        ids: of a prompt.
        place: kind and layer.
    """
    site = Site(*place)
    with torch.no_grad():
        states = capture(model, list(ids), [site])[site][0]
    own = own_tokens(model, place[1], ids)
    return states[own.start : own.stop].float().mean(0)


def prompt_states(
    model: Model, prompts: Sequence[Ids], places: Sequence[Place], tokens: Sequence[int] | None = None
) -> dict[Place, Tensor]:
    """States at one token of each prompt, [prompts, width] by place; a forward ends behind the last block needed.

    Args:
        model: the model.
        prompts: ids.
        places: kinds and layers.
        tokens: one for each prompt; None: the last.
    """
    tokens = [len(prompt) - 1 for prompt in prompts] if tokens is None else tokens
    found: dict[Place, list[Tensor]] = {place: [] for place in places}
    last = max(layer for _, layer in places)

    def keep(place: Place, token: int) -> Callable[[Tensor], None]:
        return lambda state: found[place].append(state[0, token].clone())

    with torch.no_grad(), evaluating(model):
        for prompt, token in zip(prompts, tokens, strict=True):
            ids = torch.tensor([prompt], device=model.device)
            frame = decided(model, [prompt]) or Frame(len(prompt))
            with ExitStack() as stack, suppress(Stop):
                for place in places:
                    stack.callback(attach(model, *place, keep(place, token), frame).remove)
                stack.callback(model.module("hidden", last).register_forward_hook(Stop.here).remove)
                forward(model, ids, frame)
    return {place: torch.stack(states) for place, states in found.items()}
