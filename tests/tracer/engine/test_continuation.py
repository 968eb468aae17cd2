"""Continuations are what Hugging Face's generate writes, whatever they share a batch with, and leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checkpoints import ARCHITECTURES

from tracer import Fact, Model, generate, load
from tracer.errors import TracerError
from tracer.facts.readout import answer_text
from tracer.facts.sentences import first_sentences

PROMPTS = ["The Space Needle is in", "Miles Davis plays the", "東京 is", "x", "The Space Needle is in"]
CAUSAL = [name for name in ARCHITECTURES if name != "bert"]


def ids_of(model: Model, prompt: str) -> tuple[int, ...]:
    return Fact("{}", prompt).align(model).input_ids


def generated(model: Model, prompt: str, tokens: int) -> str:
    """The greedy continuation by ``generate``, as far as the end token."""
    from transformers import GenerationConfig

    ids = torch.tensor([ids_of(model, prompt)])
    end = model.tokenizer.eos_token_id
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0, eos_token_id=end)
    hf: Any = model.hf
    new = hf.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, ids.shape[1] :].tolist()
    new = new[: new.index(end)] if end in new else new
    return answer_text(model, new) if new else ""


@pytest.mark.parametrize("arch", CAUSAL)
def test_greedy_text_is_that_of_generate(tiny: Callable[[str], Model], arch: str) -> None:
    model = tiny(arch)
    found = generate(model, PROMPTS, max_new_tokens=6, sentences=None)
    assert found == [generated(model, prompt, 6) for prompt in PROMPTS]
    assert len({*found}) > 1
    alone = [generate(model, [prompt], max_new_tokens=6, sentences=None)[0] for prompt in PROMPTS]
    assert alone == found


def test_draws_depend_on_the_seed_and_the_place_alone(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    state = torch.get_rng_state()
    one = generate(model, PROMPTS, seed=3, sentences=None)
    assert generate(model, PROMPTS, seed=3, sentences=None, max_rows=1) == one
    assert generate(model, PROMPTS, seed=4, sentences=None) != one
    assert one[0] != one[4]  # the same prompt at another place
    assert generate(model, PROMPTS, seed=3, sentences=None, top_k=1) == generate(model, PROMPTS, sentences=None)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_come_from_the_most_probable(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    drawn = generate(model, [PROMPTS[0]] * 60, seed=1, max_new_tokens=1, top_k=3, sentences=None)
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([ids_of(model, PROMPTS[0])])).logits[0, -1]
    assert {*drawn} == {answer_text(model, [token]) for token in logits.topk(3).indices.tolist()}


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        (" Paris. It is", 1, " Paris."),
        (" Paris. It is old! Or not", 2, " Paris. It is old!"),
        (" 3.5 m high", 1, " 3.5 m high"),
        (" the U.S. Army. And", 1, " the U.S. Army."),
        (' he said "no." Then', 1, ' he said "no."'),
        ("東京。 そ", 1, "東京。"),
        ("\n\nParis\nRome", 1, "\n\nParis"),
        (" Paris", 1, " Paris"),
        (" Paris.", 1, " Paris."),
        ("", 1, ""),
    ],
)
def test_sentences_end_where_they_end(text: str, count: int, expected: str) -> None:
    assert first_sentences(text, count) == expected


def test_text_ends_with_its_sentences_and_with_the_end_token() -> None:
    model = load()
    (whole,) = generate(model, ["The Space Needle is in downtown"], max_new_tokens=40, sentences=None)
    (one,) = generate(model, "The Space Needle is in downtown", max_new_tokens=40, sentences=1)
    (two,) = generate(model, ["The Space Needle is in downtown"], max_new_tokens=40, sentences=2)
    assert one == " Seattle."
    assert whole.startswith(two)
    assert two.startswith(one)
    assert two.count(".") == 2
    assert generate(model, ["The Space Needle is in downtown"], max_new_tokens=1) == [" Seattle"]
    end = model.tokenizer.convert_tokens_to_ids(".") or model.tokenizer(".")["input_ids"][0]
    hf: Any = model.hf
    before = hf.generation_config.eos_token_id
    hf.generation_config.eos_token_id = [end]
    try:
        assert generate(model, ["The Space Needle is in downtown"], sentences=None) == [" Seattle"]
    finally:
        hf.generation_config.eos_token_id = before


def test_nothing_is_left_behind(tiny: Callable[[str], Model]) -> None:
    model = tiny("llama")
    hf: Any = model.hf
    config, weights = copy.deepcopy(hf.generation_config.to_dict()), model.fingerprint()
    sides = model.tokenizer.padding_side, model.tokenizer.pad_token, model.tokenizer.truncation_side
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in hf.modules()]
    hf.train()
    try:
        generate(model, PROMPTS, max_new_tokens=3, seed=1)
        assert all(module.training for module in hf.modules())
    finally:
        hf.eval()
    assert hf.generation_config.to_dict() == config
    assert model.fingerprint() == weights
    assert (model.tokenizer.padding_side, model.tokenizer.pad_token, model.tokenizer.truncation_side) == sides
    assert [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in hf.modules()] == hooks


def test_the_context_is_not_left(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    prompt = "x" * model.n_ctx
    length = len(ids_of(model, prompt))
    while length > model.n_ctx - 2:
        prompt = prompt[:-1]
        length = len(Fact("{}", prompt).align(model.tokenizer).input_ids)
    room = model.n_ctx - length
    (text,) = generate(model, [prompt], max_new_tokens=50, sentences=None)
    assert text == generated(model, prompt, room)


@pytest.mark.parametrize(
    ("arch", "prompts", "settings", "message"),
    [
        ("bert", ["Paris is"], {}, "is a masked model, which writes no text"),
        ("gpt2", [" "], {}, "prompt 0 is empty"),
        ("gpt2", ["x " * 2000], {}, "the context"),
        ("gpt2", ["x"], {"max_new_tokens": 0}, "max_new_tokens is 0; expected at least 1"),
        ("gpt2", ["x"], {"top_k": 0}, "top_k is 0"),
        ("gpt2", ["x"], {"sentences": 0}, "sentences is 0"),
    ],
)
def test_bad_input_is_named(
    tiny: Callable[[str], Model], arch: str, prompts: list[str], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(TracerError, match=message):
        generate(tiny(arch), prompts, **settings)


def test_no_prompts_give_no_texts(tiny: Callable[[str], Model]) -> None:
    assert generate(tiny("gpt2"), []) == []
