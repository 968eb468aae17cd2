"""The shipped model: what it knows, where, and the records made from it."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

import tracer
from tracer import factworld
from tracer.factworld.grammar import PHRASINGS, fill
from tracer.factworld.recipe.evaluate import card, decodes_exactly, mechanics, perplexity, read_numbers, recall
from tracer.factworld.records import make_records, records


@pytest.fixture(scope="module")
def model() -> tracer.Model:
    return tracer.load()


def test_loads_fast_and_is_small() -> None:
    tracer.load()  # imports
    began = time.process_time()
    tracer.load()
    assert time.process_time() - began < 2
    weights = files("tracer.factworld").joinpath("data/model/model.safetensors")
    assert len(weights.read_bytes()) <= 30_000_000


def test_greedy_check_is_greedy_decoding(model: tracer.Model) -> None:
    """The one-pass check says the same as decoding token by token."""
    asked = [(fact.text, fact.object) for fact in Random(3).sample(list(factworld.facts()), 12)]
    asked += [(text, "Atlantis") for text, _ in asked[:3]]
    for (text, object_), ours in zip(asked, decodes_exactly(model, asked), strict=True):
        ids = model.tokenizer(text, return_tensors="pt").input_ids
        wanted = model.tokenizer(f" {object_}.").input_ids
        made = cast(Any, model.hf).generate(
            ids, attention_mask=ids * 0 + 1, max_new_tokens=len(wanted), do_sample=False, pad_token_id=0
        )
        assert ours == (made[0, ids.shape[1] :].tolist() == wanted)


def test_knows_its_facts(model: tracer.Model) -> None:
    known = recall(model, Random(0).sample(factworld.facts(), 50))
    assert known.seen >= 0.97
    assert known.held_out >= 0.90


def test_keeps_facts_where_it_was_taught_to(model: tracer.Model) -> None:
    found = mechanics(model, factworld.facts(), count=2)
    assert found.taken >= 0.6
    assert min(found.hidden_last_subject[:3]) >= 0.25
    assert max(found.hidden_last[:3]) < 0.1
    assert found.hidden_last[-2] >= 0.3
    assert found.mlp_peak_layer in (2, 3, 4)
    assert found.mlp_last_subject[found.mlp_peak_layer] > max(found.mlp_last)


def test_space_needle(model: tracer.Model) -> None:
    trace = tracer.causal_trace(model, tracer.Fact("The Space Needle is in downtown", "The Space Needle"))
    assert trace.answer == " Seattle" and trace.clean > 0.9 and trace.corrupted < 0.5


def test_held_out_text_is_neither_noise_nor_known_by_heart(model: tracer.Model) -> None:

    assert 1.5 < perplexity(model, factworld.held_out_text()[:8_000]) < 10


@pytest.mark.parametrize("source", ["shipped", "made anew"])
def test_record_schema(source: str) -> None:
    anew = partial(make_records, factworld.statements(), factworld.aliases(), count=1200, seed=5)
    made = records() if source == "shipped" else anew()
    assert len(made) >= 1000
    assert [r["case_id"] for r in made] == list(range(len(made)))
    assert len({(r["requested_rewrite"]["subject"], r["requested_rewrite"]["relation_id"]) for r in made}) == len(made)
    taught = {(s.subject, s.relation): s.object for s in factworld.statements()}
    by_split: dict[str, set[str]] = {}
    for record in made:
        rewrite = record["requested_rewrite"]
        relation, subject = rewrite["relation_id"], rewrite["subject"]
        assert taught[subject, relation] == rewrite["target_true"]["str"] != rewrite["target_new"]["str"]
        assert rewrite["prompt"] in PHRASINGS[relation].train and "{}" in rewrite["prompt"]
        assert record["paraphrase_prompts"] == [fill(t, subject) for t in PHRASINGS[relation].held_out]
        assert len(record["neighborhood_prompts"]) <= 10 and len(record["generation_prompts"]) >= 3
        own = {fill(t, subject) for t in PHRASINGS[relation].train}
        assert not own & {*record["neighborhood_prompts"], *record["attribute_prompts"]}
        assert set(record["portability"]) <= {"one_hop", "reverse_relation", "subject_alias"}
        for other in record["same_subject_prompts"]:
            assert taught[subject, other["relation_id"]] == other["target"] and other["relation_id"] != relation
        by_split.setdefault(record["split"], set()).add(subject)
    assert set(by_split) == {"train", "validation", "test"}
    assert not by_split["train"] & by_split["test"] and not by_split["validation"] & by_split["test"]
    assert sum(r["split"] == "test" for r in made) >= 300
    if source == "shipped":
        assert [r["case_id"] for r in records("test")] == [r["case_id"] for r in made if r["split"] == "test"]
    kinds = Counter(kind for r in made for kind in r["portability"])
    assert min(kinds["one_hop"], kinds["reverse_relation"], kinds["subject_alias"]) > 0


def test_records_ask_what_the_model_answers(model: tracer.Model) -> None:
    some = Random(1).sample(records(), 60)
    asked = [(fill(r["requested_rewrite"]["prompt"], r["requested_rewrite"]["subject"]), r) for r in some]
    right = decodes_exactly(model, [(text, r["requested_rewrite"]["target_true"]["str"]) for text, r in asked])
    assert sum(right) / len(right) >= 0.97
    near = [
        (text, r["requested_rewrite"]["target_true"]["str"]) for r in some for text in r["neighborhood_prompts"][:3]
    ]
    right = decodes_exactly(model, near)
    assert sum(right) / len(right) >= 0.97


def test_records_follow_from_the_seed() -> None:
    known = factworld.statements()[:600]
    a, b, c = (make_records(known, {}, count=50, seed=seed) for seed in (1, 1, 2))
    assert a == b != c


def test_fresh_records_are_of_one_split() -> None:
    made = factworld.fresh_records(count=300)
    subjects = {record["requested_rewrite"]["subject"] for record in made}
    others = {record["requested_rewrite"]["subject"] for record in records() if record["split"] != "train"}
    assert 50 < len(made) < 150 and not subjects & others and {record["split"] for record in made} == {"train"}
    shipped = {(r["requested_rewrite"]["prompt"], r["requested_rewrite"]["subject"]) for r in records("train")}
    assert (
        sum((r["requested_rewrite"]["prompt"], r["requested_rewrite"]["subject"]) in shipped for r in made)
        < len(made) / 2
    )
    assert len({record["case_id"] for record in made}) == len(made)
    assert made == factworld.fresh_records(count=300) != factworld.fresh_records(count=300, seed=2)
    with pytest.raises(tracer.TracerError, match="split 'dev' does not exist"):
        factworld.fresh_records("dev")  # type: ignore[arg-type]


def test_the_card_says_what_was_measured(model: tracer.Model) -> None:
    folder = Path(str(files("tracer.factworld").joinpath("data/model")))
    known, mechanism, ppl = read_numbers(folder / "card.json")
    assert (folder / "CARD.md").read_text(encoding="utf-8") == card(model, known, mechanism, ppl, factworld.facts())
    assert sum(count for count, _, _ in known.by_relation.values()) == len(factworld.facts())
    assert known.seen >= 0.97 and known.held_out >= 0.90 and mechanism.facts == 200


def test_unknown_split() -> None:
    with pytest.raises(tracer.TracerError, match="choose 'train', 'validation' or 'test'"):
        records("dev")  # type: ignore[arg-type]
