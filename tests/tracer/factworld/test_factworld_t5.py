"""The embedded T5: what it is trained on, its training forward pass, and what it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tracer.engine import own_answers
from tracer.facts import Fact
from tracer.factworld import aliases, facts, paraphrases, statements
from tracer.factworld.grammar import PHRASINGS
from tracer.factworld.questions import QUESTIONS
from tracer.factworld.recipe.t5 import T5Recipe, build_model, make_tokenizer, train
from tracer.factworld.recipe.t5_mechanism import T5Mechanism, forward, masks_of
from tracer.factworld.recipe.t5_rows import END, PAD, SENTINELS, Rows, T5Corpus
from tracer.factworld.recipe.train import piece_encoder
from tracer.model import Model, load
from tracer.model.find import find_checkpoint
from tracer.tracing import GaussianNoise, causal_trace

SMALL = T5Recipe(layers=2, decoder_layers=2, d_model=16, d_ff=24, heads=2, steps=3, rows=4)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model() -> Model:
    return load("factworld-t5")


def corpus(tokenizer: Any, seed: int = 0) -> T5Corpus:
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in (PAD, END, *SENTINELS)}
    return T5Corpus(statements()[:40], aliases(), piece_encoder(tokenizer), ids, seed)


def same(one: Rows, two: Rows) -> bool:
    return torch.equal(one.source, two.source) and torch.equal(one.labels, two.labels)


def test_rows_mark_their_subject_and_go_on_where_they_were(tokenizer: Any) -> None:
    found = corpus(tokenizer)
    batch = found.batch(8)
    names = {told.subject for told in statements()[:40]} | {name for own in aliases().values() for name in own}
    for source, mention, last, labels in zip(batch.source, batch.mention, batch.last, batch.labels, strict=True):
        assert tokenizer.decode(source[mention]).strip() in names
        assert last.sum() == 1 and bool(last[mention.nonzero()[-1]])
        assert labels[labels >= 0][-1] == tokenizer.eos_token_id
        spans = (source == tokenizer.convert_tokens_to_ids(SENTINELS[0])).sum()
        assert spans == (labels[0] == tokenizer.convert_tokens_to_ids(SENTINELS[0]))
    state = found.state()
    expected = [found.batch(8) for _ in range(40)]
    other = corpus(tokenizer, seed=5)
    other.restore(state)
    assert all(same(one, other.batch(8)) for one in expected)


def test_every_relation_has_a_question() -> None:
    assert QUESTIONS.keys() == PHRASINGS.keys()
    assert all(text.count("{}") == 1 and text.endswith("?") for text in QUESTIONS.values())


def test_with_all_paths_open_the_training_pass_is_the_models_own(tokenizer: Any) -> None:
    torch.manual_seed(0)
    hf = build_model(SMALL, tokenizer).eval()
    batch = corpus(tokenizer).batch(6)
    masks, forced = masks_of(batch.real, batch.mention, batch.last), hf._shift_right(batch.labels)
    with torch.no_grad():
        states, stray = forward(hf, batch.source, batch.real, forced, masks, T5Mechanism(), False, False)
        asked: Any = {"input_ids": batch.source, "attention_mask": batch.real.long(), "labels": batch.labels}
        written = batch.labels >= 0
        torch.testing.assert_close(hf.lm_head(states)[written], hf(**asked).logits[written], atol=1e-5, rtol=0)
        assert float(stray) > 0
        shut, none = forward(hf, batch.source, batch.real, forced, masks, T5Mechanism(), True, True)
    assert float(none) == 0 and (shut - states).abs().max() > 1e-3


def test_closed_paths_hide_all_of_a_mention_but_its_last_token(tokenizer: Any) -> None:
    torch.manual_seed(0)
    hf = build_model(SMALL, tokenizer).eval()
    batch = corpus(tokenizer).batch(6)
    row = next(i for i, mention in enumerate(batch.mention) if mention.sum() > 1)
    masks, forced = masks_of(batch.real, batch.mention, batch.last), hf._shift_right(batch.labels)
    never = T5Mechanism(read=9)  # nothing is enriched by the others of its mention, and nothing reads it in the encoder
    first, last = int(batch.mention[row].nonzero()[0]), int(batch.last[row].nonzero()[0])
    seen = {}
    for token in (first, last):
        changed = batch.source.clone()
        changed[row, token] = (changed[row, token] + 7) % 4000
        with torch.no_grad():
            seen[token] = [
                forward(hf, ids, batch.real, forced, masks, never, True, False)[0][row]
                for ids in (batch.source, changed)
            ]
    assert (seen[last][0] - seen[last][1]).abs().max() > 1e-4  # the decoder reads the last token
    assert bool(masks.cross[row, 0, 0, last]) and not bool(masks.cross[row, 0, 0, first])
    outside = int((~batch.mention[row] & batch.real[row]).nonzero()[0])
    assert not bool(masks.early[row, 0, outside, last]) and bool(masks.late[row, 0, outside, last])
    assert not bool(masks.late[row, 0, outside, first]) and bool(masks.early[row, 0, last, first])


def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    told = statements()[:12]
    whole = train(told, {}, tmp_path / "whole", SMALL)
    half = tmp_path / "half"
    train(told, {}, half, SMALL, stop_at=2)
    train(told, {}, half, SMALL)
    assert (half / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model" / "model.safetensors"
    ).read_bytes()
    again = load(half / "model")
    assert again.style == "seq2seq" and again.n_layers == 4
    assert set(json.loads((half / "model" / "card.json").read_text())["recall"]) == {"seen", "held_out", "question"}
    torch.testing.assert_close(again.hf.state_dict()["shared.weight"], whole.state_dict()["shared.weight"])


def test_it_is_small_and_says_what_it_knows(model: Model) -> None:
    folder, name = find_checkpoint("factworld-t5")
    assert name == "factworld-t5" and model.style == "seq2seq"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8_000_000
    card = json.loads((folder / "card.json").read_text())["recall"]
    some = [facts()[i] for i in np.random.default_rng(1).choice(len(facts()), 80, replace=False)]
    asked = {
        "seen": [Fact.span(model, fact.prompt, fact.subject, fact.target) for fact in some],
        "held_out": [
            Fact.span(model, paraphrases(fact, held_out=True)[0].prompt, fact.subject, fact.target) for fact in some
        ],
        "question": [Fact(QUESTIONS[fact.relation], fact.subject, fact.target) for fact in some],
    }
    for kind, each in asked.items():
        said = own_answers(model, each)
        right = np.mean([tuple(ids) == fact.align(model).target_ids for ids, fact in zip(said, each, strict=True)])
        assert abs(right - card[kind]) < 0.15, (kind, right)


def test_it_recalls_at_the_last_token_of_the_subject(model: Model) -> None:
    """The planted mechanism, in the open model."""
    fact = Fact.span(model, "{} was born in", "Marie Curie", " Warsaw")
    noise = GaussianNoise(samples=4)
    encoder = causal_trace(model, fact, corruption=noise)
    assert encoder.peak()[0] == encoder.subject_range[1] - 1
    behind = encoder.effect[encoder.subject_range[1] :]
    assert behind.max() < 0.2 * encoder.effect.max()
