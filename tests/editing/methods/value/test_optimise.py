"""Values found together are those found alone; the shortened forward is the whole one; every request ends by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import checkpoints
import pytest
import torch
import torch.nn.functional as F
from agreement import SIDE_INPUTS, with_side_inputs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from values import GOAL, REQUESTS, found, subjects

from editing.methods.value.objective import Objective
from editing.methods.value.prompts import essence_rows, rewriting_rows
from editing.methods.value.search import Subject
from tracer import TracerError
from tracer.engine.aligned import Aligned, Trials
from tracer.engine.batch import Row, padded, states_at_lookups
from tracer.engine.hooks import Add, Site, capture, frozen, intervene
from tracer.engine.partial import FORWARD_TOKENS, Ability, Suffix, cuts
from tracer.model import Model, load

CAUSAL = tuple(name for name in checkpoints.ARCHITECTURES if name != "bert")
KINDS_ON = ("gpt2", "llama", "neox", "gemma2")


def plain(model: Model, subject: Subject, kind: str, layer: int, goal: Objective) -> tuple[Tensor, list[float]]:
    """One value by whole forwards of the untouched model, row by row; the delta and its losses."""
    rows = (*subject.rewriting, *subject.essence)
    site = Site(kind, layer, subject.rewriting[0].lookup)
    init = capture(model, list(subject.rewriting[0].ids), [site])[site][0].detach().float()
    delta = torch.zeros_like(init, requires_grad=True)
    assert goal.v_lr is not None and goal.v_weight_decay is not None and goal.clamp is not None
    adam = torch.optim.Adam([delta], lr=goal.v_lr)
    before: dict[int, Tensor] = {}
    losses: list[float] = []
    for step in range(goal.v_steps):
        loss = goal.v_weight_decay * delta.norm() / init.norm() ** 2
        for place, row in enumerate(rows):
            with intervene(model, [Add(Site(kind, layer, row.lookup), delta)]):
                logp = model.hf(torch.tensor([row.ids])).logits[0, list(row.read)].float().log_softmax(-1)
            if row.target:
                loss = loss - logp[range(len(row.target)), list(row.target)].mean() / len(subject.rewriting)
            else:
                first = before.setdefault(place, logp.detach())
                loss = loss + goal.kl_factor * F.kl_div(first, logp, log_target=True, reduction="batchmean")
        losses.append(float(loss.detach()))
        if losses[-1] < goal.stop or step == goal.v_steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            limit = goal.clamp * init.norm()
            delta.mul_(min(1.0, float(limit / delta.norm())))
    return delta.detach(), losses


@pytest.fixture(scope="module")
def double(tiny_folder: Callable[[str], Any]) -> Callable[[str], Model]:
    made: dict[str, Model] = {}

    def model(name: str) -> Model:
        if name not in made:
            made[name] = load(tiny_folder(name), dtype=torch.float64)
        return made[name]

    return model


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "mlp") for name in CAUSAL), *((n, k) for n in KINDS_ON for k in ("hidden", "attn"))]
)
def test_values_found_together_are_those_of_the_plain_loop(
    name: str, kind: str, double: Callable[[str], Model]
) -> None:
    model = double(name)
    together = found(model, subjects(model), [(kind, 1)])
    for subject, value in zip(subjects(model), together, strict=True):
        with frozen(model):
            delta, losses = plain(model, subject, kind, 1, GOAL)
        torch.testing.assert_close(value.loss[:, 0], torch.tensor(losses).double(), rtol=1e-4, atol=1e-5)
        assert delta.norm() > 0.01
        torch.testing.assert_close(value.delta[0].double(), delta.double(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "hidden", "attn"])
@pytest.mark.parametrize("name", SIDE_INPUTS)
def test_values_found_beside_other_inputs_of_blocks_are_those_of_the_plain_loop(name: str, kind: str) -> None:
    model = with_side_inputs(name)
    if "shared" in name:  # later blocks take the keys and values of earlier ones: nothing goes from token to token
        row = subjects(model)[0].rewriting[0]
        site = Site(kind, 1, row.lookup)
        with torch.no_grad():
            before = model.hf(torch.tensor([row.ids])).logits[0, list(row.read)]
            with intervene(model, [Add(site, torch.ones(model.d_model))]):
                assert torch.equal(model.hf(torch.tensor([row.ids])).logits[0, list(row.read)], before)
        assert all(value.idle and not value.delta.any() for value in found(model, subjects(model), [(kind, 1)]))
        return
    together = found(model, subjects(model), [(kind, 1)])
    for subject, value in zip(subjects(model), together, strict=True):
        with frozen(model):
            delta, losses = plain(model, subject, kind, 1, GOAL)
        torch.testing.assert_close(value.loss[:, 0], torch.tensor(losses).double(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(value.delta[0].double(), delta.double(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("max_rows", [1, 5, None])
def test_how_many_rows_run_at_once_does_not_matter(max_rows: int | None, double: Callable[[str], Model]) -> None:
    model = double("llama")
    expected = [found(model, [subject], [("hidden", 2)])[0] for subject in subjects(model)]
    for value, alone in zip(found(model, subjects(model), [("hidden", 2)], max_rows=max_rows), expected, strict=True):
        torch.testing.assert_close(value.delta, alone.delta, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(value.loss, alone.loss, rtol=1e-6, atol=1e-7)


def test_every_request_ends_by_itself(double: Callable[[str], Model]) -> None:
    model = double("gpt2")
    first = found(model, subjects(model), [("mlp", 1)])
    middle = sorted(float(value.loss[2, 0]) for value in first)[1]
    goal = Objective(**{**GOAL.__dict__, "stop": middle + 1e-6})
    ended = found(model, subjects(model), [("mlp", 1)], goal)
    lengths = [len(value.loss) for value in ended]
    assert len(set(lengths)) > 1
    for subject, value in zip(subjects(model), ended, strict=True):
        with frozen(model):
            delta, losses = plain(model, subject, "mlp", 1, goal)
        assert len(value.loss) == len(losses)
        torch.testing.assert_close(value.delta[0].double(), delta.double(), rtol=1e-3, atol=1e-4)


def test_the_clamp_holds_and_is_reached(double: Callable[[str], Model]) -> None:
    model = double("gpt2")
    goal = Objective(**{**GOAL.__dict__, "v_lr": 1.0, "clamp": 0.5})
    for value in found(model, subjects(model), [("mlp", 1)], goal):
        assert float(value.delta.norm() / value.init.norm()) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
@pytest.mark.parametrize("kind", ["value", "hidden"])
def test_what_is_left_open_is_measured_on_the_first_gradient(name: str, kind: str, double: Callable) -> None:
    model = double(name)
    open_ = {"v_lr": None, "clamp": None, "v_weight_decay": None, "reach": 5.0, "stride": 0.25}
    goal = Objective(**{**GOAL.__dict__, **open_, "v_steps": 2})
    for subject, value in zip(subjects(model), found(model, subjects(model), [(kind, 1)], goal), strict=True):
        delta = torch.zeros(model.d_model, dtype=torch.float64, requires_grad=True)
        loss = torch.zeros(())
        with frozen(model):
            for row in subject.rewriting:
                with intervene(model, [Add(Site(kind, 1, row.lookup), delta)]):
                    logp = model.hf(torch.tensor([row.ids])).logits[0, list(row.read)].log_softmax(-1)
                loss = loss - logp[range(len(row.target)), list(row.target)].mean() / len(subject.rewriting)
            (slope,) = torch.autograd.grad(loss, delta)
        step = float(loss.detach() / slope.norm())  # after it the loss would be zero, if it went on falling like that
        assert float(value.limit) == pytest.approx(5 * step, rel=1e-4)
        assert value.step == pytest.approx(0.25 * step, rel=1e-4)
        expected = -0.25 * step * slope / slope.norm()  # one update, straight down
        torch.testing.assert_close(value.delta[0], expected.float(), rtol=1e-3, atol=1e-4 * float(expected.norm()))
        assert float(value.loss[1, 3]) == pytest.approx(0.15 * 0.25 / 5, rel=1e-3)  # weight decay


def test_a_target_that_is_certain_leaves_nothing_to_search_for(tiny_folder: Callable[[str], Any]) -> None:
    """The way to go is measured as zero: the value stays where it is, and costs nothing, though nothing ends it."""
    model = load(tiny_folder("gpt2"), dtype=torch.float64)
    (subject, *_) = subjects(model)
    row = subject.rewriting[0]
    with torch.no_grad():
        model.module("unembed").weight.mul_(1e4)  # type: ignore[operator,union-attr]
        says = int(model.hf(torch.tensor([row.ids])).logits[0, row.read[0]].argmax())
    sure = Subject((Row(row.ids, row.lookup, row.read[:1], (says,)),), subject.essence)
    open_ = {"v_lr": None, "clamp": None, "v_weight_decay": None, "v_steps": 3}
    goal = Objective(**{**GOAL.__dict__, **open_})
    (value,) = found(model, [sure], [("value", 1)], goal)
    assert value.loss[0, 1] == 0
    assert value.loss.isfinite().all() and len(value.loss) == 3
    assert not value.delta.any()
    assert value.limit.tolist() == [0.0]


def test_scaling_what_is_edited_changes_no_search(tiny_folder: Callable[[str], Any]) -> None:
    """Lengths mean nothing: a value ten times as long behind a norm, or with a multiplier undone, is found alike."""
    model = load(tiny_folder("gemma2"), dtype=torch.float64)
    open_ = {"v_lr": None, "clamp": None, "v_weight_decay": None}
    goal = Objective(**{**GOAL.__dict__, **open_, "v_steps": 6})
    before = found(model, subjects(model), [("value", 1)], goal)
    with torch.no_grad():
        model.down_projection(1).weight.mul_(10)
    for one, other in zip(before, found(model, subjects(model), [("value", 1)], goal), strict=True):
        assert float(torch.nn.functional.cosine_similarity(other.delta, one.delta)) > 0.99  # but for the norm's eps
        assert float(other.delta.norm() / one.delta.norm()) == pytest.approx(10, rel=0.02)
        torch.testing.assert_close(other.loss, one.loss, rtol=1e-2, atol=1e-2)


def test_states_asked_for_are_those_of_a_forward(double: Callable[[str], Model]) -> None:
    model = double("neox")
    some = subjects(model)
    values = found(model, some, [("mlp", 2)], also=[("key", 2)])
    for subject, value in zip(some, values, strict=True):
        for place in (("key", 2), ("mlp", 2)):
            site = Site(*place)
            expected = torch.stack(
                [capture(model, list(row.ids), [site])[site][0, row.lookup] for row in subject.rewriting]
            )
            torch.testing.assert_close(value.states[place], expected.detach())


@pytest.mark.parametrize("name", CAUSAL)
def test_a_suffix_is_the_whole_forward(name: str, double: Callable[[str], Model]) -> None:
    model = double(name)
    rows = [row for subject in subjects(model) for row in (*subject.rewriting, *subject.essence)]
    ability = Ability.of(model, rows[0])
    assert ability.cached
    torch.manual_seed(0)
    delta = torch.randn(len(rows), model.d_model, dtype=torch.float64)
    for place, start in ((("mlp", 1), 1), (("hidden", 1), 2), (("attn", 3), 3), (("hidden", 3), 3)):
        suffix, _ = Suffix.recorded(model, ability, rows, start, [place])
        with torch.no_grad():
            short = suffix.run({place: delta})
            for row, own, logp in zip(rows, delta, short, strict=True):
                with intervene(model, [Add(Site(*place, row.lookup), own)]):
                    whole = model.hf(torch.tensor([row.ids])).logits[0, list(row.read)]
                torch.testing.assert_close(logp, whole.float().log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_a_suffix_may_be_narrowed(double: Callable[[str], Model]) -> None:
    model = double("llama")
    rows = [row for subject in subjects(model) for row in subject.rewriting]
    place = ("hidden", 1)
    suffix, _ = Suffix.recorded(model, Ability.of(model, rows[0]), rows, 2, [place])
    delta = torch.ones(len(rows), model.d_model, dtype=torch.float64)
    with torch.no_grad():
        every = suffix.run({place: delta})
        some = suffix.select([4, 1]).run({place: delta[:2]})
    torch.testing.assert_close(some[0], every[4])
    torch.testing.assert_close(some[1], every[1])


def test_the_target_can_be_read_from_an_earlier_block(double: Callable[[str], Model]) -> None:
    model = double("gpt2")
    (subject,) = subjects(model, REQUESTS[:1])
    rows = (*subject.rewriting, *subject.essence)
    place = ("mlp", 1)
    suffix, _ = Suffix.recorded(model, Ability.of(model, rows[0]), rows, 1, [place])
    delta = torch.ones(len(rows), model.d_model, dtype=torch.float64)
    with torch.no_grad():
        early, late = suffix.run({place: delta}, loss_layer=2), suffix.run({place: delta})
        row = rows[0]
        with intervene(model, [Add(Site(*place, row.lookup), delta[0])]):
            site = Site("hidden", 2)
            state = capture(model, list(row.ids), [site])[site][:, list(row.read)]
        logits = model.module("unembed")(model.module("final_norm")(state))[0]
    torch.testing.assert_close(early[0], logits.float().log_softmax(-1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(early[0], late[0], atol=1e-2)
    torch.testing.assert_close(early[-1], late[-1])  # what is to stay is read at the end


@pytest.mark.parametrize("name", CAUSAL)
def test_aligned_rows_are_the_whole_forward(name: str, double: Callable[[str], Model]) -> None:
    """Rows of other lookups and lengths side by side, all of them, some, and read from an earlier block."""
    model = double(name)
    rows = [row for subject in subjects(model) for row in (*subject.rewriting, *subject.essence)]
    assert len({row.lookup for row in rows}) > 2
    assert Trials().takes(model, rows, 1)
    torch.manual_seed(0)
    delta = torch.randn(len(rows), model.d_model, dtype=torch.float64)
    paths = {layer: vars(model.module("hidden", layer)).get("forward") for layer in range(model.n_layers)}
    for place, start in ((("mlp", 1), 1), (("hidden", 1), 2), (("attn", 3), 3), (("hidden", 3), 3), (("value", 0), 0)):
        aligned, states = Aligned.recorded(model, rows, start, [place])
        suffix, others = Suffix.recorded(model, Ability.of(model, rows[0]), rows, start, [place])
        torch.testing.assert_close(states[place], others[place])
        with torch.no_grad():
            short = aligned.run({place: delta})
            few = aligned.select([4, 1]).run({place: delta[[4, 1]]})
            at = max(2, start)
            early = aligned.run({place: delta}, loss_layer=at), suffix.run({place: delta}, loss_layer=at)
            for row, own, logp in zip(rows, delta, short, strict=True):
                with intervene(model, [Add(Site(*place, row.lookup), own)]):
                    whole = model.hf(torch.tensor([row.ids])).logits[0, list(row.read)]
                torch.testing.assert_close(logp, whole.float().log_softmax(-1), rtol=1e-4, atol=1e-4)
        for one, other in ((few[0], short[4]), (few[1], short[1]), *zip(*early, strict=True)):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert paths == {layer: vars(model.module("hidden", layer)).get("forward") for layer in range(model.n_layers)}


@pytest.mark.parametrize(("name", "expected"), [("gpt2", True), ("llama", True), ("neox", True), ("gemma2", False)])
def test_where_a_value_arrives_is_tried(name: str, expected: bool, double: Callable[[str], Model]) -> None:
    """Behind a norm a change of a value is none of the residual stream, and a search begins a block earlier."""
    model = double(name)
    rows = [row for subject in subjects(model) for row in subject.rewriting]
    assert Trials().arrives(model, rows, 1) is expected


def test_a_model_that_does_not_take_to_it_gives_the_same_values(
    double: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = double("llama")
    rows = [row for subject in subjects(model) for row in subject.rewriting]
    together = found(model, subjects(model), [("value", 1)])
    monkeypatch.setattr(Aligned, "_arguments", lambda self: {"use_cache": False})  # forgets what lies before
    trials = Trials()
    assert not trials.takes(model, rows, 1)
    for one, other in zip(together, found(model, subjects(model), [("value", 1)]), strict=True):
        torch.testing.assert_close(one.delta, other.delta, rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    assert not trials.takes(model, rows, 1) and Trials().takes(model, rows, 1)  # it was tried


@pytest.mark.parametrize("name", CAUSAL)
def test_states_at_lookups(name: str, double: Callable[[str], Model]) -> None:
    model = double(name)
    rows = [row for subject in subjects(model) for row in subject.rewriting]
    places = [("key", 1), ("hidden", 2), ("mlp", 0)]
    states = states_at_lookups(model, rows, places, max_rows=4)
    for i, row in enumerate(rows):
        for place in places:
            site = Site(*place, row.lookup)
            expected = capture(model, list(row.ids), [site])[site][0].detach()
            torch.testing.assert_close(states[place][i], expected)


@pytest.mark.parametrize(
    ("token", "expected"),
    [("subject_last", -1), ("subject_first", 0), ("subject_first_after_last", 1), ("last", None)],
)
def test_the_edited_token(token: str, expected: int | None, double: Callable[[str], Model]) -> None:
    model = double("gpt2")
    found_ = REQUESTS[0].fact.align(model)
    start, end = found_.subject_range
    row = rewriting_rows(model, REQUESTS[0], (("{}",),), token)[0]
    want = {"subject_last": end - 1, "subject_first": start, "subject_first_after_last": end}
    assert row.lookup == want.get(token, len(found_.input_ids) - 1)


def test_an_unknown_token_is_named(double: Callable[[str], Model]) -> None:
    with pytest.raises(TracerError, match="fact_token is 'middle'; expected one of subject_last"):
        rewriting_rows(double("gpt2"), REQUESTS[0], (("{}",),), "middle")


def test_essence_at_the_end(double: Callable[[str], Model]) -> None:
    model = double("gpt2")
    at, end = (essence_rows(model, REQUESTS[0], ["{} is a"], "subject_last", where)[0] for where in ("subject", "last"))
    assert at.read == (at.lookup,)
    assert end.read == (len(end.ids) - 1,) and end.lookup == at.lookup < end.read[0]


def test_padding_is_on_the_right(double: Callable[[str], Model]) -> None:
    ids = padded(double("gpt2"), [Row((5, 6, 7), 0, (0,)), Row((8,), 0, (0,))])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]


def test_a_loss_that_is_no_number(tiny_folder: Callable[[str], Any]) -> None:
    model = load(tiny_folder("gpt2"))
    some = subjects(model)
    with torch.no_grad():
        model.module("mlp", 2).c_proj.bias.fill_(torch.inf)  # type: ignore[union-attr]
    with pytest.raises(TracerError, match=r"no number|not numbers"):
        found(model, some, [("mlp", 1)])


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=14),
    st.integers(1, 9),
)
def test_forwards_are_cut_where_they_cost_least(places: list[tuple[int, int]], most: int) -> None:
    rows = [Row(tuple(range(at + more)), at, (at,)) for at, more in sorted(places)]

    def cost(parts: Sequence[tuple[int, int]]) -> int:
        runs = [rows[begin:end] for begin, end in parts]
        return sum(FORWARD_TOKENS + len(own) * (max(len(row.ids) for row in own) - own[0].lookup) for own in runs)

    found = cuts(rows, most)
    assert [begin for begin, _ in found] == [0, *(end for _, end in found[:-1])] and found[-1][1] == len(rows)
    assert all(0 < end - begin <= most for begin, end in found)
    every = range(len(rows))
    assert cost(found) <= cost([(i, i + 1) for i in every])
    assert cost(found) <= cost([(i, min(i + most, len(rows))) for i in every[::most]])
    if len(rows) <= 8:
        ends = [[*some, len(rows)] for n in every for some in combinations(every[1:], n)]
        ways = [list(zip([0, *way[:-1]], way, strict=True)) for way in ends]
        fits = [way for way in ways if all(end - begin <= most for begin, end in way)]
        assert cost(found) == min(cost(way) for way in fits)
