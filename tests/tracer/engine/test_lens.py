"""The logit lens: through the model's own top, whatever that is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from asked import inventory
from torch import Tensor

from tracer import Model, TracerError
from tracer.engine import Line, logit_lens
from tracer.engine.batch import logits_of
from tracer.engine.frame import evaluating

Tiny = Callable[[str], Model]
PROMPTS = ((5, 6, 7, 8, 9, 10), (11, 12, 13))
# a norm before, behind or nowhere, a projection, caps and multipliers of logits, a top that counts its rows again
ARCHITECTURES = ("gpt2", "opt", "bloom", "gemma2", "granite", "cohere", "neox", "bert", "gpt_bigcode")


def whole(_: int, log_probs: Tensor) -> Tensor:
    return log_probs


def last(model: Model, ids: tuple[int, ...]) -> Tensor:
    with torch.no_grad(), evaluating(model):
        return logits_of(model, torch.tensor([ids]))[0].float().log_softmax(-1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_layer_is_the_model_itself(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    before = inventory(model)
    found = logit_lens(model, [Line(ids) for ids in PROMPTS], whole)
    assert inventory(model) == before
    for ids, log_probs in zip(PROMPTS, found, strict=True):
        assert log_probs.shape == (model.n_layers, model.n_tokens)
        torch.testing.assert_close(log_probs[-1], last(model, ids)[-1], atol=1e-5, rtol=0)
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(model.n_layers), atol=1e-4, rtol=0)
    (first,) = logit_lens(model, [Line(PROMPTS[0], first=2)], whole)
    torch.testing.assert_close(first[-1], last(model, PROMPTS[0])[2], atol=1e-5, rtol=0)


def test_inner_layers_go_through_norm_and_unembedding(tiny: Tiny) -> None:
    model = tiny("gpt2")
    found = logit_lens(model, [Line(ids) for ids in PROMPTS], whole, max_rows=1)
    for ids, log_probs in zip(PROMPTS, found, strict=True):
        with torch.no_grad():
            states = copy.deepcopy(model.hf)(  # the library leaves hooks in what is asked for states
                input_ids=torch.tensor([ids]), output_hidden_states=True
            ).hidden_states
            inner = torch.stack([state[0, -1] for state in states[1:-1]])  # the last one has gone through the norm
            by_hand = model.module("unembed")(model.module("final_norm")(inner)).log_softmax(-1)
        torch.testing.assert_close(log_probs[:-1], by_hand, atol=1e-5, rtol=0)
        assert (by_hand[0] - by_hand[-1]).abs().max() > 0.1


def test_layers_are_chosen_and_prompts_are_told_by_place(tiny: Tiny) -> None:
    model = tiny("gpt2")
    every = logit_lens(model, [Line(ids) for ids in PROMPTS], whole)
    some = logit_lens(model, [Line(ids) for ids in PROMPTS], lambda place, found: (place, found), layers=(-1, 1))
    assert [place for place, _ in some] == [0, 1]
    for one, (_, two) in zip(every, some, strict=True):
        torch.testing.assert_close(two, one[[-1, 1]], atol=1e-6, rtol=0)
    with pytest.raises(TracerError, match=r"layer 9 of site .* is out of range"):
        logit_lens(model, [Line(PROMPTS[0])], whole, layers=(9,))
    with pytest.raises(TracerError, match="max_rows is 0"):
        logit_lens(model, [Line(PROMPTS[0])], whole, max_rows=0)
