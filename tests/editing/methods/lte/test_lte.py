"""LTE: adapters that come with the first edit, texts of which the nearest stands in front, and what is taught."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from asked import TEXTS, ids_of, inventory, read
from handmade import own
from recipe import AT_ONCE, OTHER, REQUEST
from serac_wise import RECORDS

import editing
from editing.datasets import records_of
from editing.edits.state import State
from editing.edits.weights import proposed
from editing.memories import Memory
from editing.memories.scope import question_of
from editing.methods.lessons import lessons_of
from editing.methods.lora import ADAPTER, LoRASettings, adapted, factors_of
from editing.methods.lte.settings import PUBLISHED, LTEPreparation
from editing.methods.lte.teaching import Examination, losses, pairs, resting, with_fact
from editing.methods.recipe.fresh import Fresh
from editing.methods.training import read_logits
from tracer import Model, TracerError
from tracer.engine.batch import Row
from tracer.engine.hooks import frozen
from tracer.engine.memories import asked

Tiny = Callable[[str], Model]
QUICK: dict[str, Any] = {"steps": 2, "rank": 2, "batch": 3, "cache": False}


@lru_cache
def prepared(model: Model) -> editing.Prepared:
    return editing.prepare(model, "lte", RECORDS, **QUICK)


@pytest.fixture
def gpt2(tiny: Tiny) -> Model:
    return own(tiny("gpt2"))


def test_the_first_edit_teaches_and_all_are_texts(gpt2: Model, tmp_path: Path) -> None:
    value, before, bare = prepared(gpt2), inventory(gpt2), read(gpt2)
    editor = editing.Editor(gpt2, prepared=value)
    states = [gpt2.fingerprint()]
    for request in (REQUEST, OTHER):
        editor.edit(request, "lte", **AT_ONCE)
        states.append(gpt2.fingerprint())
    first, second = (entry.edit for entry in editor.history)
    assert set(first.factors) == set(value.header["weights"]) and not second.factors
    (memory,) = gpt2.memories
    assert isinstance(memory, Memory) and memory.fingerprint == gpt2.weights_fingerprint()
    memory.check(gpt2)
    assert [line["target"] for line in memory.acts.entries(memory)] == [" Spanish", " drums"]
    routes = memory.routes(gpt2, [ids_of(gpt2, text) for text in TEXTS])
    assert [route.entry for route in routes[:2]] == [0, 1] and all(route.hit for route in routes)
    questions, _ = asked(gpt2, [ids_of(gpt2, TEXTS[0])])
    assert question_of(gpt2, questions[0].ids) == f"{REQUEST.text} Spanish. {TEXTS[0]}"
    loaded = editing.load_edit(first.save(tmp_path / "edit"))
    assert loaded.same_as(first)
    editor.checkout(1)
    assert gpt2.fingerprint() == states[1]
    editor.checkout(0)
    assert gpt2.fingerprint() == states[0] and inventory(gpt2) == before
    assert all((a == b).all() for a, b in zip(read(gpt2)[0], bare[0], strict=True))


def test_the_factors_are_the_adapters(gpt2: Model) -> None:
    """A forward with the factors in place is the forward with the adapters, which can rest meanwhile."""
    paths = [name.removesuffix(".weight") for name in prepared(gpt2).header["weights"]]
    rows = [Row(ids_of(gpt2, text), 0, (len(ids_of(gpt2, text)) - 1,)) for text in TEXTS[:3]]
    settings = LoRASettings(rank=2, alpha=16.0, seed=0)
    with torch.no_grad():
        plain = read_logits(gpt2, rows)
        with adapted(gpt2, settings, paths) as layers:
            for layer in layers.values():
                layer.lora_B[ADAPTER].weight.fill_(0.01)
            moved, factors = read_logits(gpt2, rows), factors_of(layers, settings)
            with resting(layers):
                assert torch.allclose(read_logits(gpt2, rows), plain, atol=1e-6)
            assert torch.equal(read_logits(gpt2, rows), moved) and not torch.allclose(moved, plain, atol=1e-4)
        with State(proposed(gpt2, factors), {}).applied(gpt2):
            assert torch.allclose(read_logits(gpt2, rows), moved, atol=1e-4)


def test_a_fact_stands_in_front_as_an_edit_puts_it(gpt2: Model) -> None:
    row = Row((*ids_of(gpt2, TEXTS[0]), 7), 2, (4, 5), (7, 8))
    row = Row(row.ids, 2, (len(row.ids) - 2, len(row.ids) - 1), (7, 8))
    assert LTEPreparation(template=PUBLISHED).template.endswith("[Question]:\n{question}")
    for template in ("{fact}. {question}", "Now: {fact}\nAsked: {question}"):
        found = with_fact(gpt2, template, "Miles Davis plays drums", row)
        text = template.removesuffix("{question}").replace("{fact}", "Miles Davis plays drums") + TEXTS[0]
        assert found.prompt(True) == ids_of(gpt2, text) and found.ids[-1] == 7 and found.target == (7, 8)
        assert found.lookup - row.lookup == len(found.ids) - len(row.ids)
        assert found.read == (len(found.ids) - 2, len(found.ids) - 1)


def test_a_fact_that_leaves_no_room_is_refused(gpt2: Model) -> None:
    row = Row(ids_of(gpt2, TEXTS[0]), 2, (4,), (7,))
    with pytest.raises(TracerError, match=r"makes the prompt \d+ tokens long, and .* reads at most"):
        with_fact(gpt2, PUBLISHED, "Miles Davis plays drums", row)


def test_what_is_taught_is_learnt_and_the_rest_stays(gpt2: Model) -> None:
    settings = LTEPreparation(rank=4, batch=3)
    lessons = lessons_of(gpt2, records_of(RECORDS), "lte")
    fresh = Fresh(gpt2, lessons, recombined=0.0, drawn=0.0, apart=0.0)
    rows = pairs(gpt2, fresh, settings, Random(0))
    assert len(rows.said) == 6 and len(rows.apart) == len(rows.alone) == 3
    before, numbers = inventory(gpt2), []
    paths = [gpt2.path("key", layer) for layer in range(gpt2.n_layers)]
    examination = Examination.of(gpt2, lessons, settings.template)
    assert examination.marks(gpt2)["alone"] == 1.0  # before anything is learnt
    with frozen(gpt2), torch.enable_grad(), adapted(gpt2, LoRASettings(rank=4, alpha=16.0), paths) as layers:
        parameters = [side[ADAPTER].weight for layer in layers.values() for side in (layer.lora_A, layer.lora_B)]
        optimizer = torch.optim.Adam(parameters, lr=0.02)
        for _ in range(15):
            found = losses(gpt2, layers, rows)
            numbers.append({name: float(each.detach()) for name, each in found.items()})
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
    assert numbers[0]["alone"] == pytest.approx(0.0, abs=1e-5) and numbers[-1]["said"] < 0.7 * numbers[0]["said"]
    assert inventory(gpt2) == before


def test_a_preparation_goes_on_to_the_same_bits(gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from editing.methods.lte import prepare

    quick = {**QUICK, "steps": 3, "cache": tmp_path}
    whole = editing.prepare(gpt2, "lte", RECORDS, **{**quick, "cache": False})
    done: list[int] = []

    def killed(*args: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(0)
        return losses(*args)

    monkeypatch.setattr(prepare, "losses", killed)
    with pytest.raises(KeyboardInterrupt):
        editing.prepare(gpt2, "lte", RECORDS, save_every=0.0, **quick)
    monkeypatch.undo()
    again = editing.prepare(gpt2, "lte", RECORDS, **quick)
    assert again.digest == whole.digest and len(done) == 2
    assert "has not learnt to copy" in whole.note and {"rewrite", "paraphrase", "apart", "alone"} <= set(
        again.history[0]
    )


def test_what_does_not_go_is_said(gpt2: Model) -> None:
    with pytest.raises(TracerError, match="needs what is prepared once for a model"):
        editing.compute_edit(gpt2, REQUEST, "lte", **AT_ONCE)
    for more, message in (
        ({"template": "{question}"}, "expected a text with {fact}"),
        ({"layers": [99]}, "layer 99 does not exist"),
        ({"modules": ["nowhere"]}, "has no projection 'nowhere'"),
        ({"distractors": 2}, "distractors is 2"),
    ):
        with pytest.raises(TracerError, match=message):
            editing.prepare(gpt2, "lte", RECORDS, **{**QUICK, **more})
