"""Routers: rules as tables, features by hand, decisions that are of the prompt alone, numbers that are measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from asked import TEXTS, ids_of
from routed import lines
from serac_wise import prepared

from editing.memories import Router
from editing.memories.routing import head
from editing.memories.routing.features import similarities
from editing.memories.serac import Serac
from editing.methods.routed.measure import OTHERS, Scored, Trial, margins, overlaps, stands_out
from editing.methods.routed.routers import classifier_of
from tracer import Model, TracerError
from tracer.engine import Site, capture

Tiny = Callable[[str], Model]
NAN = math.nan
RASE = {"threshold": 0.9, "margin": 0.15, "deviation": 0.05}  # as published
TABLE = [
    # rule, settings, scores, sentinel -> hit, entry, threshold, runner-up
    ("nearest", {}, [-5.0, -7.0], NAN, (True, 0, NAN, 1)),
    ("nearest", {}, [0.2, 0.2, 0.1], NAN, (True, 1, NAN, 0)),  # of two that are as near the later one
    ("threshold", {"threshold": 0.5}, [0.1, 0.6], NAN, (True, 1, 0.5, 0)),
    ("threshold", {"threshold": 0.6}, [0.1, 0.6], NAN, (False, 1, 0.6, 0)),  # above, not at
    ("threshold", {"threshold": 0.5}, [0.7], NAN, (True, 0, 0.5, -1)),
    ("margin", RASE, [0.95, 0.94, 0.1], NAN, (True, 0, 0.9, 1)),  # by the threshold
    ("margin", RASE, [0.5, 0.8, 0.5], NAN, (True, 1, 0.9, 2)),  # it stands out
    ("margin", RASE, [0.7, 0.8, 0.5], NAN, (False, 1, 0.9, 0)),  # not enough
    ("margin", {**RASE, "deviation": 0.2}, [0.5, 0.8, 0.5], NAN, (False, 1, 0.9, 2)),
    ("margin", {**RASE, "top": 2}, [0.5, 0.8, -0.5], NAN, (True, 1, 0.9, 0)),
    ("margin", RASE, [0.8], NAN, (False, 0, 0.9, -1)),  # alone, nothing to stand out from
    ("sentinel", {}, [0.3, 0.4], 0.39, (True, 1, 0.39, 0)),
    ("sentinel", {}, [0.3, 0.4], 0.4, (False, 1, 0.4, 0)),
]


def router(rule: str, **settings: Any) -> Router:
    tensors = {"sentinel": torch.zeros(1, 4)} if rule == "sentinel" else {}
    return Router(rule, "states", {"layer": 1, **settings}, tensors)


@pytest.mark.parametrize(("rule", "settings", "scores", "sentinel", "expected"), TABLE)
def test_rules(rule: str, settings: dict[str, Any], scores: list[float], sentinel: float, expected: tuple) -> None:
    route = router(rule, **settings).decided(torch.tensor(scores, dtype=torch.float64), sentinel)
    hit, entry, threshold, runner_up = expected
    assert (route.hit, route.entry, route.runner_up) == (hit, entry, runner_up)
    assert route.score == max(scores) and (route.threshold == threshold or math.isnan(threshold))
    assert math.isnan(route.threshold) == math.isnan(threshold)
    assert (route.runner_up_score == sorted(scores)[-2]) if len(scores) > 1 else math.isnan(route.runner_up_score)


def test_a_memory_without_entries_lets_nothing_act() -> None:
    for rule, settings in (("nearest", {}), ("threshold", {"threshold": -9.0}), ("margin", RASE), ("sentinel", {})):
        assert not router(rule, **settings).decided(torch.zeros(0)).hit


def test_states_are_those_of_the_bare_model_and_each_prompts_own(model: Model) -> None:
    ids = [ids_of(model, text) for text in TEXTS]
    mean = torch.linspace(-1, 1, model.d_model)
    last = Router("nearest", "states", {"layer": 2}, {"mean": mean})
    whole = Router("nearest", "states", {"layer": 1, "site": "mlp_in", "pool": "mean", "similarity": "dot"})
    found = last.queries(model, ids)
    for row, prompt in enumerate(ids):
        states = {s: capture(model, list(prompt), [s])[s][0].detach() for s in (Site("hidden", 2), Site("mlp_in", 1))}
        assert torch.allclose(found[row], states[Site("hidden", 2)][-1] - mean, atol=1e-5)
        assert torch.allclose(whole.queries(model, [prompt])[0], states[Site("mlp_in", 1)].mean(0), atol=1e-5)
        assert torch.equal(last.queries(model, [prompt])[0], found[row])
    keys = last.keys(model, lines(model))
    assert torch.equal(keys, found[:2])
    routes = last.routes(model, ids, keys, lines(model))
    assert routes[0].entry == 0 and routes[0].score == pytest.approx(1) and routes[1].entry == 1
    for prompt, route in zip(ids, routes, strict=True):
        (alone,) = last.routes(model, [prompt], keys, lines(model))
        assert (alone.hit, alone.entry, alone.score, alone.runner_up) == (
            True,
            route.entry,
            route.score,
            1 - route.entry,
        )
    fact = Router("nearest", "states", {"layer": 2, "known_by": "fact"})
    text = f"{TEXTS[0]} Spanish"
    assert torch.equal(fact.keys(model, lines(model))[0], fact.queries(model, [ids_of(model, text)])[0])


def test_similarities_and_heads() -> None:
    draw = torch.Generator().manual_seed(0)
    query, keys = torch.randn(8, generator=draw), torch.randn(3, 8, generator=draw)
    product = (keys.double() @ query.double()).numpy()
    lengths = keys.norm(dim=1).numpy() * float(query.norm())
    for how, expected in (("dot", product), ("scaled_dot", product / 8**0.5), ("cosine", product / lengths)):
        assert np.allclose(similarities(query, keys, how), expected, atol=1e-6)
    tensors = {
        f"{side}.{name}": torch.randn(*shape, generator=draw)
        for side in ("knowledge", "query")
        for name, shape in (
            ("linear.weight", (5, 8)),
            ("linear.bias", (5,)),
            ("branch.weight", (5, 5)),
            ("branch.bias", (5,)),
        )
    }
    linear = keys @ tensors["query.linear.weight"].T + tensors["query.linear.bias"]
    branch = linear @ tensors["query.branch.weight"].T + tensors["query.branch.bias"]
    assert torch.allclose(head(tensors, "query", keys), linear + branch.clamp_min(0), atol=1e-5)
    assert head({}, "query", keys) is keys


def test_a_sentinel_is_scored_as_a_key(tiny: Tiny) -> None:
    model = tiny("gpt2")
    ids = [ids_of(model, text) for text in TEXTS]
    plain = Router("nearest", "states", {"layer": 1, "similarity": "scaled_dot"})
    states = plain.queries(model, ids)
    for sentinel, hits in ((states[0] * 0.99, 2), (states[0] * 1.01, 0)):
        found = Router("sentinel", "states", plain.settings, {"sentinel": sentinel})
        routes = found.routes(model, ids[:1] * 2, found.keys(model, lines(model)[:1]), lines(model)[:1])
        assert sum(route.hit for route in routes) == hits
        assert routes[0].threshold == pytest.approx(float(states[0] @ sentinel) / model.d_model**0.5, rel=1e-5)


def test_the_string_match_and_chance(tiny: Tiny) -> None:
    model, some = tiny("gpt2"), lines(tiny("gpt2"))
    string, drawn = Router("threshold", "string", {"threshold": 0.0}), Router("nearest", "random")
    texts = (
        *TEXTS,
        "I saw The Space Needle",
        "the space needle is in",
        "Быстрая лиса 北京",
        "Miles Davis met The Space Needle",
    )
    ids = [ids_of(model, text) for text in texts]
    routes = string.routes(model, ids, string.keys(model, some), some)
    assert [route.entry if route.hit else None for route in routes] == [0, 1, None, None, 0, None, None, 0]
    twice = [some[0], some[1], {**some[0], "target": " drums"}]
    (route,) = string.routes(model, ids[:1], string.keys(model, twice), twice)
    assert route.entry == 2 and route.runner_up == 0  # the later one of two for one subject
    many = [some[0]] * 10
    prompts = [(i, i + 1, 7) for i in range(1000)]
    found = drawn.routes(model, prompts, drawn.keys(model, many), many)
    counts = np.bincount([route.entry for route in found], minlength=10)
    assert counts.sum() == 1000 and counts.min() > 60 and counts.max() < 140
    assert drawn.routes(model, prompts[500:501], drawn.keys(model, many), many)[0].entry == found[500].entry
    other = drawn.set(seed=1).routes(model, prompts, drawn.keys(model, many), many)
    assert sum(a.entry == b.entry for a, b in zip(found, other, strict=True)) < 200


def test_shared_tokens_count_as_they_are_rare(tiny: Tiny) -> None:
    model = tiny("gpt2")
    weights = {"tokens": torch.tensor([1, 2, 3]), "idf": torch.tensor([1.0, 4.0, 9.0])}
    found = Router("threshold", "overlap", {"threshold": 0.5}, weights)
    some = [{"ids": [1, 2, 2]}, {"ids": [3, 8]}]
    scores = found.scores(model, [(1, 2), (2, 3), (8,), (1,)], found.keys(model, some), some)
    expected = [[1, 0], [4 / 65**0.5, 9 / 234**0.5], [0, 9 / 162**0.5], [1 / 5**0.5, 0]]
    assert torch.allclose(scores, torch.tensor(expected), atol=1e-6)  # 8 is not known, and counts as the rarest
    assert [route.hit for route in found.routes(model, [(1, 2), (1,)], found.keys(model, some), some)] == [True, False]


def test_the_classifier_decides_as_serac_does(tiny: Tiny) -> None:
    from editing.memories import Memory
    from editing.memories.lines import packed

    model = tiny("gpt2")
    made, some = prepared(model), lines(model)
    found = classifier_of(made, 0.4)
    keys, ids = found.keys(model, some), [ids_of(model, text) for text in TEXTS]
    header = {
        "scope": made.header["scope"],
        "similarity": made.header["similarity"],
        "threshold": 0.4,
        "output": "hard",
    }
    tensors = {**made.tensors, "keys": keys, "entries": packed(some)}
    serac = Memory("serac", "serac", model.weights_fingerprint(), tensors, header)
    routes = found.routes(model, ids, keys, some)
    for one, two in zip(routes, Serac().routes(serac, model, ids), strict=True):
        assert (one.hit, one.entry) == (two.hit, two.entry) and one.score == pytest.approx(two.score, abs=1e-6)
    assert not any(name.startswith("answering") for name in found.tensors)


def test_what_does_not_make_a_router_is_refused(tiny: Tiny) -> None:
    model = tiny("gpt2")
    wrong: list[tuple[str, Callable[[], Any]]] = [
        ("rule of a router is 'best'", lambda: Router("best", "states", {"layer": 1})),
        ("features of a router is 'vibes'", lambda: Router("nearest", "vibes")),
        ("needs 'layer', which was neither given nor prepared", lambda: Router("nearest", "states")),
        ("needs 'threshold'", lambda: Router("threshold", "string")),
        ("needs 'sentinel'", lambda: Router("sentinel", "states", {"layer": 1})),
        ("needs 'tokens'", lambda: Router("nearest", "overlap")),
        ("threshold is nan", lambda: Router("threshold", "string", {"threshold": math.nan})),
        ("top is 1", lambda: router("margin", **{**RASE, "top": 1})),
        ("pool of a router is 'max'", lambda: router("nearest", pool="max")),
        ("a sentinel is a vector", lambda: Router("sentinel", "string", {}, {"sentinel": torch.zeros(4)})),
        ("plain json values", lambda: router("nearest", more=torch.zeros(1))),
        ("does not have .*layer 99", lambda: router("nearest", layer=99).check(model)),
        ("5 wide and those", lambda: Router("nearest", "states", {"layer": 1}, {"mean": torch.zeros(5)}).check(model)),
        ("without a router", lambda: Router.of({"router": None}, {})),
    ]
    for message, call in wrong:
        with pytest.raises(TracerError, match=message):
            call()


# --- what is measured ------------------------------------------------------------------------------------------------
def drawn_scores(seed: int = 0) -> Scored:
    draw = torch.Generator().manual_seed(seed)
    owner = torch.arange(40) % 20
    about = 0.3 * torch.randn(40, 20, generator=draw)
    about[torch.arange(40), owner] += 1
    apart = {OTHERS: 0.4 * torch.randn(200, 20, generator=draw), "neighbour": torch.full((3, 20), 2.0)}
    return Scored(about, owner, apart)


def test_rates_are_counted_from_scores() -> None:
    one = drawn_scores()
    threshold = one.threshold(0.05)
    above = (one.apart[OTHERS].amax(1) > threshold).float().mean()
    assert float(above) == pytest.approx(0.05)
    rates = one.rates(lambda scores: scores.amax(1) > threshold)
    right = one.about.argmax(1) == one.owner
    assert rates["hit"] == pytest.approx(float(right.float().mean())) and 0.5 < rates["hit"] < 1
    assert rates["passed"] == pytest.approx(float((right & (one.about.amax(1) > threshold)).float().mean()))
    assert rates["neighbour"] == 1 and rates[OTHERS] == pytest.approx(0.05)
    assert rates["score"] == pytest.approx(rates["passed"] - (1 + rates[OTHERS]) / 2)


def test_the_margin_rule_finds_no_less_at_as_many_false_alarms() -> None:
    one = drawn_scores(3)
    rule = margins(one, 0.05)
    alarms = stands_out(one.apart[OTHERS], **rule)  # type: ignore[arg-type]
    assert float(alarms.double().mean()) <= 0.05
    plain = one.rates(lambda scores: scores.amax(1) > one.threshold(0.05))
    assert one.rates(lambda scores: stands_out(scores, **rule))["passed"] >= plain["passed"]  # type: ignore[arg-type]
    for row in one.about[:5]:  # as the router decides
        assert router("margin", **rule).decided(row).hit == bool(stands_out(row.unsqueeze(0), **rule)[0])  # type: ignore[arg-type]


def test_what_is_measured_by_shared_tokens_is_what_the_router_says(tiny: Tiny) -> None:
    model = tiny("gpt2")
    entries = tuple(ids_of(model, text) for text in TEXTS[:2])
    trial = Trial(
        entries, ((ids_of(model, "Miles Davis plays"), 1),), {OTHERS: tuple(ids_of(model, t) for t in TEXTS[2:])}
    )
    scored, weights = overlaps(trial)
    found = Router("threshold", "overlap", {"threshold": 0.0}, weights)
    some = [{"ids": list(ids)} for ids in entries]
    for prompts, scores in (([trial.about[0][0]], scored.about), (list(trial.apart[OTHERS]), scored.apart[OTHERS])):
        assert torch.allclose(found.scores(model, prompts, torch.zeros(2, 0), some), scores, atol=1e-5)
