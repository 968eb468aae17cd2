"""Requests that write a refusal, or an empty answer, in the place of what is to be forgotten."""

from __future__ import annotations

import pytest

from editing import EditRequest, compute_edit, load_records
from editing.attack import attack
from editing.unlearning import EMPTY, REFUSAL, refusals
from tracer import Model, TracerError, generate

TRUE = EditRequest("{} is in downtown", "The Space Needle", "Seattle")


def test_the_target_becomes_the_old_answer() -> None:
    (one,), (two,) = refusals(TRUE), refusals([TRUE], EMPTY)
    assert (one.prompt, one.subject) == (TRUE.prompt, TRUE.subject)
    assert (one.target_new, one.target_true) == (f" {REFUSAL}", " Seattle")
    assert (two.target_new, two.target_true) == (".", " Seattle")  # a full stop has no space before it
    record = load_records("factworld", split="test", limit=1)[0]
    (of_record,) = refusals(record)
    assert of_record.target_true == record.requests()[0].target_new
    for forget, answer, message in (
        ([], REFUSAL, "there is nothing to forget"),
        (TRUE, " ", "target_new of .* is ' '"),
        (TRUE, "Seattle", "are both 'Seattle'"),
    ):
        with pytest.raises(TracerError, match=message):
            refusals(forget, answer)


def test_the_model_ends_the_sentence(world: Model) -> None:
    """By an editor like any other; the old answer is among fewer guesses than before, and can be looked for."""
    (request,) = refusals(TRUE, EMPTY)
    edit = compute_edit(world, request, "rome", check=None)
    before = attack(world, request)
    with edit.applied(world):
        assert generate(world, TRUE.text)[0].startswith(".")
        after = attack(world, request)
    assert before.needed["output"][0] == 1 < after.needed["output"][0]
    assert after.guesses["output"][0][0] == "."
