"""KE and RLEdit: requests are edited one after another, and what is learnt of a sequence is to keep earlier ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from edit_command import RECORDS as GIVEN
from handmade import own

import editing
from editing.datasets import records_of
from editing.edits.weights import applied
from editing.methods.lessons import lessons_of
from editing.methods.meta import teaching
from editing.methods.meta.condition import Conditions
from editing.methods.meta.episodes import Episodes, line_of
from editing.methods.meta.in_turn import InTurn
from editing.methods.meta.ke_prepare import KEPreparation, ke_of
from editing.methods.meta.losses import effect, smoothed
from editing.methods.meta.prepare import malmen_of
from editing.methods.meta.rledit import Retained
from editing.methods.meta.settings import RLEditPreparation
from editing.methods.training import losses, read_logits, token_losses
from tracer import Model, TracerError
from tracer.engine.hooks import frozen

Tiny = Callable[[str], Model]
Kept = Callable[[str, str], editing.Prepared]
RECORDS = json.loads(json.dumps(GIVEN).replace("Rome", "Seattle"))  # which every tiny tokenizer has tokens for
REQUESTS = [
    editing.EditRequest("{} is in", "The Space Needle", "Paris"),
    editing.EditRequest("{} plays the", "Miles Davis", "capital of France"),
    editing.EditRequest("{} was born in the city of", "Yo-Yo Ma", "Seattle"),
]
QUICK: dict[str, Any] = {"cache": False, "held_out": RECORDS[:1], "validate_on": 2}
PLAIN: dict[str, Any] = {"directions": 0, "projections": None}
SMALL: dict[str, dict[str, Any]] = {
    "ke": {"reader": 4, "width": 6, "hidden": 5, "layers": [1, 2], "rate": None, **PLAIN},
    "rledit": {"rank": 4, "measured": 4, "layers": [1, 2], "edits": 2, "directions": 3},
}
EDIT: dict[str, Any] = {"known": "edit", "check": None}


def prepare(model: Model, method: str, records: Any = RECORDS, **more: Any) -> editing.Prepared:
    return editing.prepare(model, method, records, **{**QUICK, **SMALL[method], **more})


@pytest.fixture(scope="module")
def kept(tiny: Tiny) -> Kept:
    """Editors whose changes are as large as the weights, so that the second of two depends on the first."""
    made: dict[tuple[str, str], editing.Prepared] = {}
    large = {"rate": 30.0, "norm": 3.0}

    def of(method: str, name: str) -> editing.Prepared:
        if (method, name) not in made:
            plain = prepare(tiny(name), method, steps=0, **({"max_scale": 300.0} if method == "ke" else {}))
            tensors = {part: large.get(part, 1.0) * tensor for part, tensor in plain.tensors.items()}
            made[method, name] = replace(plain, tensors=tensors)
        return made[method, name]

    return of


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


# --- edits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["ke", "rledit"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_an_edit_of_several_is_one_batch_after_another(method: str, name: str, tiny: Tiny, kept: Kept) -> None:
    model, editor = own(tiny(name)), kept(method, name)
    before = model.fingerprint()
    together = editing.compute_edit(model, REQUESTS, method, prepared=editor, **EDIT)
    assert together.settings["prepared"] == editor.digest and together.settings["layers"] == [1, 2]
    ledger = editing.Editor(model, prepared=editor)
    batches = [[request] for request in REQUESTS] if method == "ke" else [REQUESTS[:2], REQUESTS[2:]]
    edits = [ledger.edit(batch, method, **EDIT) for batch in batches]
    assert model.fingerprint() != before
    for weight in together.weights:
        total = torch.stack([edit.to_dense()[weight] for edit in edits]).sum(0)
        assert far(together.to_dense()[weight], total) < 1e-3, weight
        assert float(edits[1].to_dense()[weight].norm()) > 0
    ledger.reset()
    assert model.fingerprint() == before
    alone = editing.compute_edits(model, batches, method, prepared=editor, **EDIT)
    assert far(alone[0].to_dense()[weight], edits[0].to_dense()[weight]) < 1e-3
    assert far(alone[1].to_dense()[weight], edits[1].to_dense()[weight]) > 1e-2  # the model was another one


def test_what_has_moved_goes_on_with_the_next_batch(tiny: Tiny, kept: Kept) -> None:
    model, editor = tiny("gpt2"), kept("rledit", "gpt2")
    rows = [line_of(model, request.fact) for request in (REQUESTS[1], REQUESTS[1])]  # of several tokens
    malmen = malmen_of(model, editor, True)
    with frozen(model), torch.no_grad():
        moved = InTurn(malmen, 1).changes(model, [rows])
        once = malmen.changes(model, [rows[:1]])
    for shape, own_statistics in moved.statistics.items():
        assert own_statistics.count - once.statistics[shape].count == once.statistics[shape].count - (
            malmen.nets.statistics[shape].count
        )


def test_a_request_is_edited_again_until_its_target_is_said(tiny: Tiny, kept: Kept) -> None:
    model, editor = tiny("gpt2"), kept("ke", "gpt2")
    ke = ke_of(model, editor)
    rows = [line_of(model, request.fact) for request in REQUESTS[:2]]
    with frozen(model), torch.no_grad():
        for row in rows:
            counts = [len(InTurn(ke, 1, rounds).changes(model, [[row]]).nll) // len(row.target) for rounds in (1, 3)]
            low = InTurn(ke, 1, 1).changes(model, [[row]]).low
            said = bool(effect(model, ke.places, low, [row], [0]).right.all())
            assert counts == [1, 1 if said else 3]
        with_target = replace_target(model, rows[0])
        assert len(InTurn(Still(ke), 1, 4).changes(model, [[with_target]]).nll) == 1


class Still:
    """An editor that changes nothing."""

    def __init__(self, editor: Any) -> None:
        self.editor, self.places = editor, editor.places

    def changes(self, model: Model, groups: Any, max_rows: int | None = None, read: Any = read_logits) -> Any:
        found = self.editor.changes(model, groups, max_rows, read)
        low = {key: replace(one, u=0 * one.u) for key, one in found.low.items()}
        return replace(found, low=low)


def replace_target(model: Model, row: Any) -> Any:
    """The row with what the model says anyway."""
    with torch.no_grad():
        best = read_logits(model, [row]).argmax(-1)
    return replace(row, target=(int(best[0]),), read=row.read[:1], ids=row.ids[: row.read[0] + 1])


def test_groups_stand_alone_and_bits_do_not_depend_on_how_many_are_run(tiny: Tiny, kept: Kept) -> None:
    model, ke = tiny("llama"), ke_of(tiny("llama"), kept("ke", "llama"))
    rows = [line_of(model, request.fact) for request in REQUESTS]
    with frozen(model), torch.no_grad():
        every = ke.changes(model, [[rows[0]], [rows[1], rows[2]]], max_rows=2).low
        parts = [ke.changes(model, [[row]]).low for row in rows]
    for place in ke.places:
        dense = [low[place.key].u[0].T @ low[place.key].v[0] for low in parts]
        found = every[place.key].u.transpose(1, 2) @ every[place.key].v
        assert far(found[0], dense[0]) < 1e-4 and far(found[1], dense[1] + dense[2]) < 1e-4


def test_an_untrained_editor_goes_downhill(tiny: Tiny) -> None:
    model = own(tiny("gpt2"))
    ke = ke_of(model, prepare(model, "ke", steps=0, rate=0.25))
    row = line_of(model, REQUESTS[1].fact)
    weights = {place.key: model.hf.get_parameter(place.weight) for place in ke.places}
    with torch.enable_grad():
        losses(model, [row]).sum().backward()
    gradients = {key: weight.grad.clone() for key, weight in weights.items() if weight.grad is not None}
    with frozen(model), torch.no_grad():
        low = ke.changes(model, [[row]]).low
    for place in ke.places:
        u, v = low[place.key].factors(place, 0)
        assert far(u @ v.T, -0.25 * gradients[place.key]) < 1e-4


# --- conditions ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_what_an_editor_is_told(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    request = REQUESTS[1]
    row = line_of(model, request.fact)
    (plain,) = Conditions("plain").ids(model, [row])
    assert plain == (*request.fact.align(model).input_ids, *request.fact.align(model).target_ids)
    (ids,) = Conditions("change").ids(model, [row])
    with torch.no_grad():
        first = int(read_logits(model, [row])[0].argmax())
    text = str(model.tokenizer.decode(list(ids), skip_special_tokens=True))
    old, _, rest = text.partition(" >> ")
    assert rest == "capital of France || Miles Davis plays the"
    assert old.startswith(str(model.tokenizer.decode([first])).strip())
    assert Conditions("change", 5).ids(model, [row]) == [ids[:5]]


def test_an_embedding_is_kept_with_the_editor_only_if_it_was_trained(tiny: Tiny) -> None:
    model = tiny("gpt2")
    made = {trained: prepare(model, "ke", steps=2, train_embedding=trained, lr=0.01) for trained in (False, True)}
    assert set(made[True].tensors) - set(made[False].tensors) == {"reader.embedding"}
    weight: Any = model.module("embed").weight
    assert made[True].tensors["reader.embedding"].shape == weight.shape
    edits = [editing.compute_edit(model, REQUESTS[0], "ke", prepared=one, **EDIT) for one in made.values()]
    assert not edits[0].same_as(edits[1])


# --- training --------------------------------------------------------------------------------------------------------
PUBLISHED = {
    "margin": 0.5,
    "smoothing": 0.1,
    "optimizer": "rmsprop",
    "condition": "change",
    "least_margin": 0.45,
    "texts": 0,
}


@pytest.mark.parametrize(
    ("method", "more"), [("ke", {"rate": 0.1, "lr": 0.03}), ("ke", PUBLISHED), ("rledit", {"sequence": 2})]
)
def test_training_learns_and_goes_on_to_the_same_bits(
    method: str, more: dict[str, Any], tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tiny("gpt2")
    before, state = model.fingerprint(), torch.random.get_rng_state()
    more = {"steps": 8, "lr": 3e-3, "rate_lr": 1e-2, "validate_every": 4, "batch": 4, **more}
    whole = prepare(model, method, **more)
    assert model.fingerprint() == before and torch.equal(torch.random.get_rng_state(), state)
    assert whole.history[-1]["loss"] < whole.history[1]["loss"]
    assert {"rewrite", "paraphrase", "neighbour", "score", "edit loss", "locality loss"} <= set(whole.history[-1])
    name = {"ke": "losses_of", "rledit": "scores"}[method]
    where: Any = teaching if method == "ke" else rledit_module()
    plain, calls = getattr(where, name), []

    def killed(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == (6 if method == "ke" else 2):
            raise Killed
        return plain(*args)

    own_cache = {"cache": tmp_path / "cache", "save_every": 0}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(where, name, killed)
        prepare(model, method, **more, **own_cache)
    again = prepare(model, method, **more, **own_cache)
    assert again.digest == whole.digest and again.history == whole.history


class Killed(BaseException):
    pass


def rledit_module() -> Any:
    from editing.methods.meta import rledit

    return rledit


def test_the_margin_shrinks_while_edits_succeed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"rewrite": 0.95, "paraphrase": 0.9, "neighbour": 1.0, "score": 0.9}
    monkeypatch.setattr(teaching, "scores", lambda *_: dict(told))
    more: dict[str, Any] = {"steps": 4, "validate_every": 1, "margin": 0.5, "least_margin": 0.3, "batch": 2}
    found = prepare(tiny("gpt2"), "ke", **more).history
    assert [row["margin"] for row in found] == pytest.approx([0.4, 0.32, 0.3, 0.3, 0.3])
    told["paraphrase"] = 0.8
    assert {row["margin"] for row in prepare(tiny("gpt2"), "ke", **more).history} == {0.5}
    multipliers = [row["multiplier"] for row in found]
    assert multipliers[0] == 1.0 and multipliers[1] != 1.0


def test_labels_are_smoothed(tiny: Tiny) -> None:
    model = tiny("gpt2")
    rows = [line_of(model, request.fact) for request in REQUESTS]
    with torch.no_grad():
        logits = read_logits(model, rows)
    target = torch.tensor([token for row in rows for token in row.target])
    wanted = torch.full_like(logits, 0.1 / (logits.shape[1] - 1))
    wanted[torch.arange(len(target)), target] = 1 - 0.1
    expected = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    assert torch.allclose(smoothed(0.1)(logits, rows), expected, rtol=1e-5)
    assert smoothed(0.0) is token_losses


def test_a_sequence_edits_no_subject_twice(world: Model) -> None:
    lessons = lessons_of(world, editing.load_records("factworld", split="train", limit=60), "rledit")
    episodes = Episodes(world, lessons, others=2, drawn=1.0)
    found = episodes.sequence_at(Random(0), 4, 5)
    assert [len(group) for group in found.groups] == [5] * 4 and found == episodes.sequence_at(Random(0), 4, 5)
    by_wording = {wording: one.request.subject for one in lessons for wording in (one.prompt, *one.about)}
    asked = [list(row.ids[: row.read[0] + 1]) for group in found.groups for row in group]
    prompts = [str(world.tokenizer.decode(ids)).strip() for ids in asked]
    assert len({by_wording[prompt] for prompt in prompts}) == 20
    assert {*found.said_group} == {*found.kept_group} == {0, 1, 2, 3}


def test_a_sequence_is_learnt_as_if_earlier_batches_were_written(tiny: Tiny, kept: Kept) -> None:
    """Losses and gradients of a step equal those of a model whose weights hold the batches before."""
    model = own(tiny("gpt2"))
    editor = malmen_of(model, kept("rledit", "gpt2"), False)
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in editor.nets.parameters.items()}
    learner = replace(editor, nets=replace(editor.nets, parameters=parameters))
    settings = RLEditPreparation(edits=1, sequence=3, depth=2, retention=0.5, others=2, edit_weight=0.7)
    episodes = Episodes(model, lessons_of(model, records_of(RECORDS), "rledit"), others=2, drawn=0.0)
    with frozen(model), torch.enable_grad():
        told = Retained(model, learner, settings).step(episodes, Random(0), read_of)
    found = {name: tensor.grad.clone() for name, tensor in parameters.items() if tensor.grad is not None}
    for tensor in parameters.values():
        tensor.grad = None
    episode = episodes.sequence_at(Random(0), 3, 1)
    assert len(episode.groups) == 3
    expected = 0.0
    written: list[dict[str, Any]] = []
    for batch in range(3):
        together = [model_with(model, written)] if written else []
        with frozen(model), torch.enable_grad(), stacked(together):
            low = learner.changes(model, [episode.groups[batch]]).low
            parts = []
            for one in range(max(0, batch - 1), batch + 1):
                said = [row for row, group in zip(episode.said, episode.said_group, strict=True) if group == one]
                kept_rows = [row for row, group in zip(episode.kept, episode.kept_group, strict=True) if group == one]
                got = effect(model, learner.places, low, said, [0] * len(said), kept_rows, [0] * len(kept_rows))
                parts.append((0.5 ** (batch - one), got))
            losses_here = [
                sum(weight * getattr(got, name).sum() for weight, got in parts)
                / sum(weight * len(getattr(got, name)) for weight, got in parts)
                for name in ("nll", "kl")
            ]
            loss = (0.7 * losses_here[0] + losses_here[1]) / 3
            loss.backward()  # type: ignore[union-attr]
            expected += float(loss.detach())  # type: ignore[union-attr]
        written.append({place.weight: low[place.key].factors(place, 0) for place in learner.places})
    assert told["loss"] == pytest.approx(expected, rel=1e-4)
    assert {"edit loss", "locality loss", "said", "retained"} <= set(told) and found
    for name, grad in found.items():
        own_grad = parameters[name].grad
        assert own_grad is not None
        assert torch.allclose(grad, own_grad, rtol=1e-2, atol=1e-3 * float(own_grad.abs().max())), name


def read_of(model: Model, rows: Any) -> torch.Tensor:
    return read_logits(model, rows)


def model_with(model: Model, written: list[dict[str, Any]]) -> Any:
    total = {
        name: (torch.cat([each[name][0] for each in written], 1), torch.cat([each[name][1] for each in written], 1))
        for name in written[0]
    }
    return applied(model, total)


def stacked(contexts: list[Any]) -> Any:
    from contextlib import ExitStack

    stack = ExitStack()
    for context in contexts:
        stack.enter_context(context)
    return stack


# --- what does not go ------------------------------------------------------------------------------------------------
def test_bad_input(tiny: Tiny, kept: Kept) -> None:
    model, ke = own(tiny("gpt2")), kept("ke", "gpt2")
    for method, given, message in (
        ("ke", {"edits": 2}, r"edits is \[2\]; expected 1: ke reads one request at a time"),
        ("ke", {"condition": "old"}, "condition is 'old'; expected 'plain' or 'change'"),
        ("ke", {"optimizer": "sgd"}, "optimizer is 'sgd'"),
        ("ke", {"margin": -1.0}, "margin is -1.0"),
        ("ke", {"hidden": 0}, "hidden is 0"),
        ("ke", {"records": []}, "ke learns from records, and there are none"),
        ("rledit", {"retention": 2.0}, "retention is 2.0"),
        ("rledit", {"sequence": 0}, "sequence is 0"),
        ("rledit", {"records": [{**one, "paraphrase_prompts": []} for one in RECORDS]}, "rledit learns from paraphras"),
        ("rledit", {"layers": [9]}, "a layer is 9"),
    ):
        with pytest.raises(TracerError, match=message):
            prepare(model, method, **{"steps": 0, **given})
    for options, message in (
        ({"published": True}, "ke as published reads one request, and 3 were given at once"),
        ({"rounds": 0}, "rounds is 0"),
        ({"layers": [3]}, r"at the layers \[1, 2\] of .* and \[3\] were asked for"),
        ({"prepared": kept("rledit", "gpt2")}, "prepared for rledit, and ke was asked for"),
        ({"prepared": kept("ke", "llama")}, "on the weights .* tracer prepare ke"),
        ({"prepared": replace(ke, tokenizer="0" * 64)}, "with the tokenizer 0000"),
        ({"prepared": None}, r"editing.prepare\(model, 'ke', records\).*tracer prepare ke RECORDS --out FILE"),
    ):
        with pytest.raises(TracerError, match=message):
            editing.compute_edit(model, REQUESTS, "ke", **{"prepared": ke, **EDIT, **options})
    for settings in (KEPreparation(), RLEditPreparation()):
        json.dumps(vars(settings))
