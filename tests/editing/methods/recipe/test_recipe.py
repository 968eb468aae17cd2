"""RECIPE as a method: what its edits are, who finds them, what is trained, and what does not go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from asked import TEXTS, close, ids_of, inventory, read
from handmade import own
from recipe import AT_ONCE, OTHER, QUICK, READS, REQUEST, memory, prepared
from serac_wise import RECORDS

import editing
from editing.datasets import records_of
from editing.memories import Memory, attached
from editing.memories.routed import router_of
from editing.memories.scope import text_of
from editing.memories.soft_nets import KNOWLEDGE, prompts_of, representations
from editing.methods.lessons import lessons_of
from editing.methods.recipe.fresh import Fresh, text_ids
from editing.methods.recipe.learner import Learner
from editing.methods.recipe.losses import kept_loss, retrieval_losses, said_loss, sentinel_loss
from editing.methods.recipe.nets import told_of
from editing.methods.recipe.settings import RECIPEPreparation
from editing.prepared.work import Work
from tracer import Model, TracerError
from tracer.engine.hooks import frozen
from tracer.engine.memories import asked

Tiny = Callable[[str], Model]


@pytest.fixture
def gpt2(tiny: Tiny) -> Model:
    return own(tiny("gpt2"))


# --- edits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reads", READS)
def test_an_edit_is_one_pass_of_the_nets(gpt2: Model, reads: str) -> None:
    """Vectors by the maker from the representation of prompt and target; the key is that representation."""
    state, before = torch.random.get_rng_state(), inventory(gpt2)
    made, value = memory(gpt2, reads, router="sentinel"), prepared(gpt2, reads)
    router = router_of(made)
    texts = [ids_of(gpt2, REQUEST.text + " Spanish")]
    knowledge = representations(router.parts, router.settings, gpt2, KNOWLEDGE, texts)
    maker = {name: tensor.float() for name, tensor in value.tensors.items() if name.startswith("maker")}
    assert torch.equal(made.tensors["keys"], knowledge)
    assert torch.equal(made.tensors["prompts"].flatten(1), prompts_of(maker, knowledge))
    assert made.tensors["prompts"].shape == (1, 3, gpt2.d_model)
    assert inventory(gpt2) == before and torch.equal(torch.random.get_rng_state(), state)


def test_edits_in_a_row_undo_and_come_back(gpt2: Model, tmp_path: Path) -> None:
    editor = editing.Editor(gpt2, prepared=prepared(gpt2))
    states, answers = [gpt2.fingerprint()], [read(gpt2)]
    again = editing.EditRequest(REQUEST.prompt, REQUEST.subject, " Needle")
    for request in (REQUEST, OTHER, again):
        editor.edit(request, "recipe", router="string", **AT_ONCE)
        states.append(gpt2.fingerprint())
        answers.append(read(gpt2))
    (present,) = gpt2.memories
    assert isinstance(present, Memory)
    assert [line["target"] for line in present.acts.entries(present)] == [" drums", " Needle"]
    assert "overwritten" in editor.history[-1].edit.note
    edit = editor.history[0].edit
    loaded = editing.load_edit(edit.save(tmp_path / "edit"))
    assert loaded.memories[0].on(None).digest == edit.memories[0].on(None).digest  # type: ignore[union-attr]
    for k in (2, 1, 0):
        editor.checkout(k)
        assert gpt2.fingerprint() == states[k]
        found = read(gpt2)
        assert all(np.array_equal(a, b) for a, b in zip(found[0], answers[k][0], strict=True))
    assert not close(answers[1][0][:1], answers[0][0][:1]) and close(answers[1][0][1:], answers[0][0][1:])


def test_the_text_is_put_in_front_instead(gpt2: Model) -> None:
    made = memory(gpt2, payload="text")
    with attached(gpt2, made):
        questions, _ = asked(gpt2, [ids_of(gpt2, TEXTS[0])])
    assert text_of(gpt2, questions[0].ids) == f"{REQUEST.text} Spanish. {TEXTS[0]}"


@pytest.mark.parametrize(
    ("router", "rule"),
    [("sentinel", "sentinel"), ("fixed", "threshold"), ("states", "threshold"), ("nearest", "nearest")],
)
def test_routers_are_prepared_with_it(gpt2: Model, router: str, rule: str) -> None:
    found = router_of(memory(gpt2, router=router))
    assert found.rule == rule
    if router == "fixed":
        assert found.features == "recipe" and found.settings["threshold"] == prepared(gpt2).header["fixed"]
    again = router_of(memory(gpt2, router=router, routing={"threshold": 0.5} if rule == "threshold" else {}))
    assert again.settings.get("threshold", 0.5) == 0.5


def test_it_is_evaluated(gpt2: Model) -> None:
    options: dict[str, Any] = {"generate": False, "texts": False, "controls": ()}
    for mode in ("single", "sequential"):
        found = editing.evaluate(gpt2, RECORDS[:2], "recipe", mode, prepared=prepared(gpt2), **options)
        assert set(found.edits["error"]) == {""} and not gpt2.memories


# --- training --------------------------------------------------------------------------------------------------------
def test_the_losses_count_what_is_not_good_enough() -> None:
    similarity = torch.tensor([[0.0, 5.0, 1.0], [0.0, 1.0, 5.0]])
    own_entry, without, apart = retrieval_losses(
        similarity, similarity, torch.tensor([[9.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    )
    log_p = similarity.log_softmax(-1)
    assert float(own_entry) == pytest.approx(-float(log_p[0, 1] + log_p[1, 2]) / 2)
    left = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).log_softmax(-1)
    assert float(without) == pytest.approx(-float(left[:, 0].mean()), rel=1e-5)
    assert float(apart) == pytest.approx(-float(torch.tensor([0.0, 1.0, 0.0]).log_softmax(-1)[0]), rel=1e-5)
    assert float(sentinel_loss(torch.tensor([[9.0, 0.0]]), 1.2)) == 0.0
    logits = torch.tensor([[2.0, 1.9, 0.0], [9.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    target = torch.tensor([0, 0, 0])
    each = -logits.log_softmax(-1)[:, 0]
    assert float(said_loss(logits, target)) == pytest.approx(float(each[[0, 2]].mean()))
    assert float(said_loss(logits, target, 1.0)) == pytest.approx(float(each[2]))
    assert float(kept_loss(logits, logits)) == 0.0 and float(kept_loss(logits, logits.flip(1))) > 0.1


def test_training_edits_do_not_repeat_and_say_their_own_target(gpt2: Model) -> None:
    lessons = lessons_of(gpt2, records_of(RECORDS), "recipe")
    fresh = Fresh(gpt2, lessons, recombined=1.0, drawn=1.0, apart=1.0)
    names = {lesson.request.subject for lesson in lessons}
    seen = set()
    for number in range(5):
        batch = fresh.drawn_at(Random(number), 3)
        for text, said, again in zip(batch.texts, batch.said, batch.again, strict=True):
            assert text == (*said.prompt(True), *said.target) and said.target == again.target
            assert said.prompt(True) != again.prompt(True)
            assert not any(text_of(gpt2, text).strip().startswith(name) for name in names)
            seen.add(text_of(gpt2, text))
    assert len(seen) > 6
    same, repeated = fresh.drawn_at(Random(1), 3), fresh.drawn_at(Random(1), 3)
    assert same == repeated
    plain = Fresh(gpt2, lessons, recombined=0.0, drawn=0.0, apart=0.0).drawn_at(Random(0), 3)
    known = {lesson.prompt + lesson.target for lesson in lessons}
    assert {text_of(gpt2, text) for text in plain.texts} <= known


@pytest.mark.parametrize("reads", READS)
def test_every_part_learns(gpt2: Model, reads: str) -> None:
    """Gradients reach heads, sentinel, maker and encoder, and the losses fall on edits that repeat."""
    settings = RECIPEPreparation(reads=reads, rep=8, sentinel=2, encoder_width=8, encoder_layers=1, layers=(0, 2))
    lessons = lessons_of(gpt2, records_of(RECORDS), "recipe")
    batch = Fresh(gpt2, lessons, recombined=0.0, drawn=0.0, apart=0.0).drawn_at(Random(0), 3)
    before = inventory(gpt2)
    with frozen(gpt2), torch.enable_grad():
        learner = Learner(gpt2, settings, told_of(gpt2, settings), Work().draws(-1))
        optimizer = torch.optim.Adam(list(learner.parameters.values()), lr=0.02)
        losses = []
        for _ in range(25):
            found = learner.losses(batch, torch.tensor([True, False, False]))
            assert float(found["loss"].detach()) == pytest.approx(
                sum(float(each.detach()) for name, each in found.items() if name != "loss"), rel=1e-5
            )
            losses.append(float(found["loss"].detach()))
            optimizer.zero_grad()
            found["loss"].backward()
            if len(losses) == 1:
                lacking = {name for name, each in learner.parameters.items() if each.grad is None}
                assert not lacking and float(learner.parameters["sentinel"].grad.norm()) > 0  # type: ignore[union-attr]
            optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert inventory(gpt2) == before


def test_heads_that_learnt_from_what_differs_read_states_as_they_are(gpt2: Model) -> None:
    """Folded, they give the representations that they gave of states less their mean and over their spread."""
    settings = RECIPEPreparation(rep=8, sentinel=2, layers=(0, 2))
    lessons = lessons_of(gpt2, records_of(RECORDS), "recipe")
    texts = [text_ids(gpt2, lesson) for lesson in lessons]
    plain, learner = (Learner(gpt2, settings, told_of(gpt2, settings), Work().draws(-1), some) for some in ((), texts))
    raw = plain.pools(texts)
    torch.testing.assert_close(learner.pools(texts), (raw - raw.mean(0)) / raw.std(0).clamp_min(0.01))
    assert float((learner.pools(texts) - raw).abs().max()) > 0.1
    with torch.no_grad():
        before = learner.knowledge(texts)[1:], learner.queries(texts)
        learner.fold()
        after = learner.knowledge(texts)[1:], learner.queries(texts)
    torch.testing.assert_close(learner.pools(texts), raw)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reads", READS)
def test_a_preparation_is_kept_and_goes_on_to_the_same_bits(
    gpt2: Model, reads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from editing.methods.recipe import teaching

    quick = {**QUICK, "steps": 4, "reads": reads, "cache": tmp_path}
    whole = editing.prepare(gpt2, "recipe", RECORDS, **{**quick, "cache": False})
    losses, done = teaching.Learner.losses, []

    def killed(self: Any, *args: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(0)
        return losses(self, *args)

    monkeypatch.setattr(teaching.Learner, "losses", killed)
    with pytest.raises(KeyboardInterrupt):
        editing.prepare(gpt2, "recipe", RECORDS, save_every=0.0, **quick)
    monkeypatch.undo()
    again = editing.prepare(gpt2, "recipe", RECORDS, **quick)
    assert again.digest == whole.digest and len(done) == 2
    assert [row["step"] for row in again.history] == [row["step"] for row in whole.history]
    assert {"rewrite oracle", "paraphrase hit", "neighbour alarm", "said"} <= set(again.history[-1])
    loaded = editing.load_prepared(again.save(tmp_path / "file"), gpt2)
    assert loaded.digest == whole.digest


# --- what does not go ------------------------------------------------------------------------------------------------
def test_what_does_not_go_is_said(gpt2: Model, tiny: Tiny) -> None:
    value = prepared(gpt2)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"payload": "song"}, "payload is 'song'"),
        ({"router": "nobody"}, "router is 'nobody'; expected one of"),
        ({"router": "sentinel", "routing": {"threshold": 1.0}}, "has no setting 'threshold'"),
    ]
    for more, message in wrong:
        with pytest.raises(TracerError, match=message):
            editing.compute_edit(gpt2, REQUEST, "recipe", prepared=value, **AT_ONCE, **more)
    with pytest.raises(TracerError, match="needs what is prepared once for a model"):
        editing.compute_edit(gpt2, REQUEST, "recipe", **AT_ONCE)
    other = tiny("llama")
    with pytest.raises(TracerError, match="was prepared for recipe on the weights"):
        editing.compute_edit(other, REQUEST, "recipe", prepared=value, **AT_ONCE)
    for more, message in (
        ({"reads": "tea leaves"}, "reads is 'tea leaves'"),
        ({"layers": [99]}, "layer 99 does not exist"),
        ({"recombined": 2.0}, "recombined is 2.0"),
        ({"batch": 1}, "batch is 1"),
    ):
        with pytest.raises(TracerError, match=message):
            editing.prepare(gpt2, "recipe", RECORDS, **{**QUICK, **more})
    without = [{**record, "paraphrase_prompts": []} for record in RECORDS]
    with pytest.raises(TracerError, match="none of the 3 records has one"):
        editing.prepare(gpt2, "recipe", without, **QUICK)
    editor = editing.Editor(gpt2, prepared=value)
    editor.edit(REQUEST, "recipe", router="string", **AT_ONCE)
    with pytest.raises(TracerError, match="was begun with"):
        editor.edit(OTHER, "recipe", router="random", **AT_ONCE)
    editor.reset()


def test_an_encoder_refuses_a_text_that_is_too_long(gpt2: Model) -> None:
    made = memory(gpt2, "encoder", router="sentinel")
    room = router_of(made).settings["config"]["max_position_embeddings"] - 2
    made.routes(gpt2, [(5,) * room])
    with pytest.raises(TracerError, match=rf"a text of {room + 1} tokens is too long for RECIPE's encoder, which rea"):
        made.routes(gpt2, [(5,) * (room + 1)])
