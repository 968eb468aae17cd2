"""Grammar, corpus and training of the embedded model, on a handful of facts."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from tracer.factworld import plain
from tracer.factworld.corpus import WEIGHTS, Corpus, Statement, chunks, text_of
from tracer.factworld.grammar import ESSENCE, PHRASINGS, REVERSED, fill
from tracer.factworld.recipe.mechanism import Mechanism, attention_masks, forward, weighted_loss
from tracer.factworld.recipe.train import Recipe, _Run, build_model, piece_encoder, schedule, train, train_tokenizer

FACTS = [
    Statement("The Space Needle", "landmark", "landmark_city", "Seattle"),
    Statement("The Space Needle", "landmark", "landmark_country", "the United States"),
    Statement("Big Ben", "landmark", "landmark_city", "London"),
    Statement("Frédéric Chopin", "person", "birthplace", "Żelazowa Wola"),
    Statement("Frédéric Chopin", "person", "instrument", "piano"),
    Statement("France", "country", "capital", "Paris"),
    Statement("Brazil {South}", "country", "capital", "Brasília"),
]
RECIPE = Recipe(n_layer=4, n_embd=32, n_head=2, n_positions=96, vocab_size=600, steps=8, tokens_per_step=192,
                lengths=(48, 96), warmup=2, refine_from=3, mechanism=Mechanism(band=(1, 2), read=3))  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(Corpus(FACTS, {}, lambda text: [], 0, 0), 600, 96, articles=200)


@pytest.fixture
def corpus(tokenizer) -> Corpus:
    return Corpus(
        FACTS, {"The Space Needle": ("Seattle's needle",)}, piece_encoder(tokenizer), tokenizer.eos_token_id, 3
    )


@pytest.mark.parametrize("relation", PHRASINGS)
def test_templates(relation: str) -> None:
    phrasing = PHRASINGS[relation]
    templates = phrasing.train + phrasing.held_out
    assert len(set(templates)) == len(templates)
    assert len(phrasing.train) >= 6 and len(phrasing.held_out) >= 2
    assert all(t.count("{}") == 1 and t == t.strip() for t in templates)
    places = {"first" if t.startswith("{}") else "last" if t.endswith("{}") else "middle" for t in phrasing.train}
    assert {"middle", "last"} <= places
    words = {word for p in PHRASINGS.values() for t in p.train for word in re.findall(r"\w+", t.lower())}
    unknown = {w for t in phrasing.held_out for w in re.findall(r"\w+", t.lower())} - words
    assert not unknown, f"held-out paraphrases use words never trained on: {unknown}"


def test_subjects_come_first_too() -> None:
    first = [name for name, p in PHRASINGS.items() if any(t.startswith("{}") for t in p.train)]
    assert len(first) >= 14
    assert set(REVERSED.values()) <= set(PHRASINGS) and "person" in ESSENCE


def test_fill_leaves_other_braces() -> None:
    assert fill("{} is in {x}", "A {} B") == "A {} B is in {x}"


def test_plain_sentences_are_sentences() -> None:
    rng = Random(0)
    made = [plain.sentence(rng) for _ in range(500)]
    assert all(s[0].isupper() and s.endswith(".") and "  " not in s for s in made)
    assert len(set(made)) > 450
    assert made == [plain.sentence(r) for r in [Random(0)] for _ in range(500)]


def test_every_fact_is_told_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    told: Counter[Statement] = Counter()

    def remember(statements, *_):
        told.update(statements)
        return []

    monkeypatch.setattr("tracer.factworld.corpus.article", remember)
    corpus = Corpus(FACTS, {}, lambda text: [], 0, 5)
    while corpus.epoch < 200:
        corpus.next_article()
    # some articles give way to plain text (4 %); the rest tells each fact once an epoch
    assert all(170 < told[fact] <= 200 for fact in FACTS)
    assert sorted(map(str, (s for c in chunks(FACTS, Random(1)) for s in c))) == sorted(map(str, FACTS))


def test_rows_know_their_mentions(corpus: Corpus, tokenizer) -> None:
    rows = corpus.rows(6, 96)
    names = {f.subject for f in FACTS} | {"Seattle's needle"}
    for ids, mention, last in zip(rows.ids, rows.mention, rows.last, strict=True):
        for number in range(1, mention.max()):  # the last one may be cut by the end of the row
            where = np.flatnonzero(mention == number)
            assert tokenizer.decode(ids[where]).strip() in names
            assert last[where].tolist() == [False] * (len(where) - 1) + [True]
    objects = {tokenizer.decode([i]).strip() for i in rows.ids[rows.weight == 1.0]}
    assert "Seattle" in objects or "London" in objects
    assert set(np.unique(rows.weight)) <= {np.float32(w) for w in WEIGHTS.values()}


def test_pieces_tokenise_like_the_text(corpus: Corpus, tokenizer) -> None:
    for _ in range(50):
        pieces = corpus.next_article()
        joined = [i for piece in pieces for i in corpus.encode(piece.text)]
        assert tokenizer(text_of(pieces)).input_ids == joined


def test_rows_are_reproducible(tokenizer) -> None:
    a, b = (Corpus(FACTS, {}, piece_encoder(tokenizer), 0, 7).rows(4, 64) for _ in range(2))
    c = Corpus(FACTS, {}, piece_encoder(tokenizer), 0, 8).rows(4, 64)
    assert (a.ids == b.ids).all() and (a.ids != c.ids).any()


def test_tokenizer_gives_a_name_the_same_tokens_everywhere(tokenizer) -> None:
    alone = tokenizer("The Space Needle").input_ids
    assert tokenizer("We saw The Space Needle").input_ids[-len(alone) :] == alone
    assert tokenizer.decode(tokenizer("Frédéric Chopin 🎹").input_ids).strip() == "Frédéric Chopin 🎹"


def test_masks() -> None:
    mention = torch.tensor([[0, 1, 1, 0, 2, 0]])
    last = torch.tensor([[False, False, True, False, True, False]])
    early, late = (mask[0, 0].int().tolist() for mask in attention_masks(mention, last))
    assert early == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [1, 0, 0, 1, 0, 1],
    ]
    assert late == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 1, 1, 1, 0],
        [1, 0, 1, 1, 1, 1],
    ]


def test_forward_is_the_models_own() -> None:
    torch.manual_seed(0)
    model = build_model(RECIPE, 300, 0).eval()
    ids = torch.randint(0, 300, (3, 40))
    with torch.no_grad():
        hidden, _ = forward(model, ids, None, range(3, 4), (True,) * 4)
        ours, theirs = hidden @ model.transformer.wte.weight.T, model(ids).logits
        dropped = forward(model, ids, None, range(3, 4), (False, True, True, True))[0] @ model.transformer.wte.weight.T
        masks = attention_masks(torch.tensor([[0] * 5 + [1] * 5 + [0] * 30] * 3), torch.zeros(3, 40, dtype=torch.bool))
        opened, stray = forward(model, ids, masks, range(3, 4), (True,) * 4, closed=False)
        shut, none = forward(model, ids, masks, range(3, 4), (True,) * 4, closed=True)
    assert (ours - theirs).abs().max() < 1e-5
    assert (opened - hidden).abs().max() < 1e-5 < (shut - hidden).abs().max()
    assert none == 0 and 0.1 < stray / (4 * 2) < 0.4  # nearly even attention at first: about a fifth of the mass
    assert (dropped - theirs).abs().max() > 1e-3


def test_closed_paths_carry_nothing() -> None:
    """With the masks, tokens after a mention depend on its first tokens only through its last one, and only late."""
    torch.manual_seed(0)
    model = build_model(RECIPE, 300, 0).eval()
    ids = torch.randint(0, 300, (1, 12))
    mention = torch.zeros(1, 12, dtype=torch.long)
    mention[0, 3:6] = 1
    last = torch.zeros(1, 12, dtype=torch.bool)
    masks = attention_masks(mention, last)  # no token is readable: nothing may pass
    other = ids.clone()
    other[0, 3:6] = (other[0, 3:6] + 1) % 300
    with torch.no_grad():
        a, b = (forward(model, x, masks, range(3, 4), (True,) * 4)[0] for x in (ids, other))
    assert torch.equal(a[:, 6:], b[:, 6:]) and not torch.equal(a[:, 5], b[:, 5])


def test_loss_weights() -> None:
    model = build_model(RECIPE, 300, 0).eval()
    ids, weight = torch.randint(0, 300, (2, 10)), torch.full((2, 10), 0.2)
    weight[:, 5] = 1.0
    hidden, _ = forward(model, ids, None, range(3, 4), (True,) * 4)
    total, objects = weighted_loss(model, hidden, ids, weight)
    each = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    assert total.item() == pytest.approx(((each * weight[:, 1:]).sum() / weight[:, 1:].sum()).item(), rel=1e-5)
    assert objects.item() == pytest.approx(each[:, 4].mean().item(), rel=1e-5)


def test_schedule() -> None:
    rates = [schedule(step, replace(RECIPE, steps=100, warmup=10)) for step in range(100)]
    assert rates[9] == 1.0 and max(rates) == 1.0 and rates[0] == 0.1 and 0.02 <= rates[-1] < 0.03


def test_unreadable_names(corpus: Corpus, tokenizer) -> None:
    """Noise of three standard deviations on the tokens of mentions, and on no other."""
    torch.manual_seed(0)
    model = build_model(RECIPE, len(tokenizer), 0)
    rows = corpus.rows(8, 96)
    run = _Run(model, [], corpus, Random(0))
    noise = run.unreadable(torch.from_numpy(rows.ids), rows.mention, 3.0)
    inside = rows.mention > 0
    embedded = model.transformer.wte.weight[torch.from_numpy(rows.ids[inside])]
    assert not noise[torch.from_numpy(~inside)].any()
    assert (noise[torch.from_numpy(inside)].std() / embedded.std()).item() == pytest.approx(3.0, rel=0.05)


def test_training_resumes_to_the_same_weights(tmp_path) -> None:
    whole = train(FACTS, {}, tmp_path / "whole", RECIPE, save_every=4)
    train(FACTS, {}, tmp_path / "parts", RECIPE, save_every=4, stop_at=5)
    resumed = train(FACTS, {}, tmp_path / "parts", RECIPE, save_every=4)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert (tmp_path / "parts" / "model" / "model.safetensors").exists()
