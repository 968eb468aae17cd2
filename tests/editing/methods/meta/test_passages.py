"""Running text of the model's own among what an edit is to keep."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from stacked import stacked

import editing
from editing.methods.compute import method_named
from editing.methods.lessons import lessons_of
from editing.methods.meta.episodes import SPARSE, TEXT, Episodes
from editing.methods.meta.factors import inputs_at
from editing.methods.meta.passages import COUNT, READ, TOKENS, drawn_row, passages_of, whole_row
from editing.methods.meta.places import keys_of, places_of
from editing.methods.meta.prepare import whitening_of
from editing.methods.meta.whitening import Whitening
from editing.methods.prepare import preparation_of
from editing.methods.published_settings import published
from editing.prepared.work import Work
from tracer import Model

Tiny = Callable[[str], Model]
META = ("ke", "mend", "malmen", "rledit")


@pytest.fixture(scope="module")
def texts(world: Model) -> Any:
    return passages_of(world, True, Work())


def test_a_model_writes_the_same_texts_again(world: Model, texts: Any) -> None:
    assert texts == passages_of(world, True, Work()) != passages_of(world, True, Work(seed=1))
    assert len(texts) > COUNT // 2 and all(READ < len(each) <= TOKENS + 4 for each in texts)
    assert passages_of(world, False, Work()) == ()


def test_a_model_that_does_not_go_on_after_a_text_has_none(tiny: Tiny) -> None:
    assert passages_of(tiny("bert"), True, Work()) == passages_of(stacked("t5"), True, Work()) == ()


def test_an_edit_has_a_text_to_keep_beside_its_questions(world: Model, texts: Any) -> None:
    lessons = lessons_of(world, editing.load_records("factworld", split="train", limit=40), "mend")
    own: dict[str, Any] = {"others": 2, "drawn": 0.0}
    found = Episodes(world, lessons, passages=texts, texts=2, **own).drawn_at(Random(0), 3, 2)
    rows = [row for row, kind in zip(found.kept, found.kept_kind, strict=True) if kind == TEXT]
    groups = [group for group, kind in zip(found.kept_group, found.kept_kind, strict=True) if kind == TEXT]
    assert groups == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert all(row.ids in texts and len(row.read) == READ and not row.target and row.read[0] > 0 for row in rows)
    fixed = Episodes(world, lessons, passages=texts, **own).fixed(1, 5, 1)
    asked = [row for row, kind in zip(fixed.kept, fixed.kept_kind, strict=True) if kind == TEXT]
    assert len(asked) == 5 and all(row.read == tuple(range(1, len(row.ids), SPARSE)) for row in asked)
    plain, none = (Episodes(world, lessons, **own, **more) for more in ({}, {"passages": texts, "texts": 0}))
    assert none.drawn_at(Random(0), 3, 2) == plain.drawn_at(Random(0), 3, 2)


def test_inputs_are_whitened_by_those_of_texts_too(world: Model, texts: Any) -> None:
    lessons = lessons_of(world, editing.load_records("factworld", split="train", limit=4), "mend")
    places = places_of(world, keys_of(world, (6,), ("down",)))
    (key,) = (place.key for place in places)
    questions = list(dict.fromkeys(question for lesson in lessons for question in lesson.apart))
    kept = [Episodes(world, lessons, others=1, drawn=0.0).kept_row(question) for question in questions]
    inputs = inputs_at(world, kept, places)[key], inputs_at(world, [whole_row(each) for each in texts], places)[key]
    assert len(inputs[1]) == sum(len(each) - 1 for each in texts)
    given = (16, len(questions), lessons, Work())
    for found, rows in (
        (whitening_of(world, places, *given, texts=texts)[key], torch.cat(inputs)),
        (whitening_of(world, places, *given)[key], inputs[0]),
    ):
        assert found.size == pytest.approx(Whitening.of(rows, 16).size, rel=1e-3)
    row = drawn_row(texts, Random(0))
    assert row.ids in texts and len(set(row.read)) == READ


@pytest.mark.parametrize("method", META)
def test_texts_are_kept_by_default_and_not_as_published(method: str) -> None:
    assert preparation_of(method_named(method)).settings().texts == 1
    where = {"ke": "bart-base", "rledit": "llama-3-8b", "malmen": "gpt-j-6b"}.get(method, "gpt2-xl")
    assert published(method, where)["texts"] == 0
