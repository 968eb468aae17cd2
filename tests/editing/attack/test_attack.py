"""Attacks on a model that was edited, unedited, or has a memory, against what its logits say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from asked import inventory

import editing
from editing import EditRequest, load_records
from editing.attack import AttackResult, attack
from tracer import Model, TracerError, generate, load
from tracer.engine import Line, logit_lens

Tiny = Callable[[str], Model]
NEEDLE = EditRequest("{} is in downtown", "The Space Needle", "Paris", "Seattle")
WORDINGS = ["{} stands in the city of", "To see The Space Needle, travel to"]
QUICK: dict[str, Any] = {"layers": [1], "steps": 15, "known": "edit", "check": None}


def log_probs(model: Model, text: str) -> torch.Tensor:
    """Of the next token."""
    with torch.no_grad():
        return model.hf(**model.tokenizer(text, return_tensors="pt")).logits[0, -1].log_softmax(-1)


def place(model: Model, text: str, answer: str) -> float:
    """How many tokens are as probable as an answer's first one."""
    found = log_probs(model, text)
    return float((found >= found[model.tokenizer(answer)["input_ids"][0]]).sum())


def test_what_a_model_knows_needs_one_guess(world: Model) -> None:
    records = load_records("factworld", split="test", limit=4)
    before, state = inventory(world), torch.random.get_rng_state()
    found = attack(world, records)
    assert inventory(world) == before and torch.equal(torch.random.get_rng_state(), state)
    assert found.made == ("output", "head projection", "probability delta", "rephrasing", "sampling")
    assert all(found.success(name, 1).tolist() == [1] * 4 for name in ("output", "head projection", "rephrasing"))
    assert found.layers.shape == (4, world.n_layers) and (found.layers[:, -1] == 1).all()
    assert found.success("sampling").min() > 0.99
    assert [each[0] for each in found.guesses["output"]] == [
        answer[: len(each[0])] for each, answer in zip(found.guesses["output"], found.answers, strict=True)
    ]
    other = attack(world, EditRequest("{} is in downtown", "The Space Needle", "Paris", "Tokyo"))  # what it never knew
    assert other.success("output", 1) == 0 and other.success("sampling") < 0.01
    assert "rephrasing" not in other.made and other.interval("output", 1) == (0, 0, 0)


def test_an_edit_hides_what_guesses_find(world: Model) -> None:
    edit = editing.compute_edit(world, NEEDLE, "ft_m", **QUICK)
    with edit.applied(world):
        found = attack(world, NEEDLE, [WORDINGS], budget=50)
        needed = place(world, NEEDLE.text, " Seattle")
        texts = [NEEDLE.text, *(text.replace("{}", NEEDLE.subject) for text in WORDINGS)]
        likely = [float(log_probs(world, text)[world.tokenizer(" Seattle")["input_ids"][0]].exp()) for text in texts]
    assert found.guesses["output"][0][0] == " Paris" and needed > 1
    assert found.needed["output"][0] == needed == found.layers[0, -1]
    np.testing.assert_allclose(found.sampled[0], likely, rtol=1e-3)
    assert found.success("output", int(needed)) == 1 and found.success("output", int(needed) - 1) == 0
    assert found.success("sampling", 3)[0] == pytest.approx(1 - np.prod(1 - np.array(likely)), rel=1e-3)
    assert found.success("sampling", 1)[0] < found.success("sampling")[0]
    table = found.table().set_index("attack")
    assert table.loc["output", "success@50"] == 1 and "output" in str(found) and "success@50" in found._repr_html_()


def test_a_memory_hides_only_above_itself(world: Model) -> None:
    """GRACE writes at one layer: those below say what they always said."""
    before = attack(world, NEEDLE)
    edit = editing.compute_edit(world, NEEDLE, "grace", layers=[5], known="edit", check=None)
    with edit.applied(world):
        assert world.memories
        after = attack(world, NEEDLE)
    np.testing.assert_array_equal(after.layers[0, :5], before.layers[0, :5])
    assert before.layers[0, -1] == 1 < after.layers[0, -1]
    assert after.guesses["output"][0][0] == " Paris"


def test_an_answer_of_several_tokens_has_to_be_said_whole(world: Model) -> None:
    """The first token is guessed; where the model goes on otherwise, the guess was wrong."""
    request = EditRequest("{} is in downtown", "The Space Needle", "Paris", "Seattle. The country")
    ids = request.about(request.target_true).align(world).target_ids
    assert len(ids) > 3 and generate(world, request.text)[0].startswith(" Seattle. The country")
    assert attack(world, request).needed["output"] == 1
    other = EditRequest("{} is in downtown", "The Space Needle", "Paris", "Seattle on the moon")
    assert np.isinf(attack(world, other).needed["output"]) and np.isinf(attack(world, other).layers).all()


def test_layers_are_chosen(world: Model) -> None:
    every, one, two = (attack(world, NEEDLE, budget=7, layers=layers) for layers in (None, [7], [5, 6]))
    assert one.guesses["head projection"] == one.guesses["output"] == every.guesses["output"]
    assert len(set(two.guesses["head projection"][0])) == 7 and two.guesses != every.guesses
    np.testing.assert_array_equal(one.layers, every.layers)
    assert attack(world, NEEDLE, layers=[0]).made == ("output", "head projection", "sampling")


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_other_architectures(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    found = attack(model, [NEEDLE, EditRequest("{} plays the", "Miles Davis", "cello", "trumpet")], budget=5)
    assert found.layers.shape == (2, 4) and found.success("output").shape == (2,)
    assert all(len(set(each)) == 5 for each in found.guesses["probability delta"])


def test_a_frame_gives_the_result_again(world: Model) -> None:
    requests = [NEEDLE, EditRequest("{} plays the", "Miles Davis", "cello", "trumpet")]
    found = attack(world, requests, [WORDINGS, []])
    assert np.isnan(found.success("rephrasing")[1]) and found.table()["facts"].tolist() == [2, 2, 2, 1, 2]
    again = AttackResult.of(found.to_frame(), found.budget)
    assert (again.subjects, again.prompts, again.answers) == (found.subjects, found.prompts, found.answers)
    for name in found.made:
        np.testing.assert_array_equal(again.success(name, 3), found.success(name, 3))
    np.testing.assert_array_equal(again.by_layer(), found.by_layer())
    with pytest.raises(TracerError, match="no column 'value'"):
        AttackResult.of(found.to_frame().drop(columns="value"), 20)


def test_what_cannot_be_attacked_is_said(world: Model, tiny: Tiny) -> None:
    for wrong, message in (
        (lambda: attack(world, []), "there is nothing to attack"),
        (lambda: attack(world, EditRequest("{} is in", "Rome", "Oslo")), "request 0, 'Rome is in', has no target_true"),
        (lambda: attack(world, NEEDLE, []), "wordings has 0 entries for 1 requests"),
        (lambda: attack(world, NEEDLE, bugdet=3), "attack has no setting 'bugdet'; it has budget, layers"),
        (lambda: attack(world, NEEDLE, layers=[8]), "needs a layer from 0 to 7"),
        (lambda: attack(tiny("bert"), NEEDLE), "is a masked model"),
        (lambda: attack(load("factworld-t5"), NEEDLE), "is an encoder-decoder model"),
        (lambda: logit_lens(load("factworld-t5"), [Line((1, 2))], max), "is an encoder-decoder model"),
        (lambda: attack(world, NEEDLE).success("rephrasing"), "no attack 'rephrasing' here; expected one of output"),
        (lambda: attack(world, NEEDLE).success("output", 21), "budget is 21; expected a whole number from 1 to 20"),
    ):
        with pytest.raises(TracerError, match=message):
            wrong()
