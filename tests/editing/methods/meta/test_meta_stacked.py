"""Trained editors of encoder-decoder models: factors at the tokens of each stack, and ordinary edits of either."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from edit_command import RECORDS as GIVEN
from handmade import own
from stacked import stacked

import editing
from editing.datasets import in_spans
from editing.edits.weights import applied
from editing.methods.lessons import lessons_of
from editing.methods.meta.episodes import Episodes, line_of
from editing.methods.meta.factors import inputs_at, token_factors
from editing.methods.meta.lowrank import LowRank, edited
from editing.methods.meta.mend import Mend
from editing.methods.meta.nets import Nets, new_parameters
from editing.methods.meta.places import keys_of, places_of
from editing.methods.meta.statistics import Statistics
from editing.methods.training import losses, read_logits
from tracer.engine.above import Above
from tracer.engine.hooks import capture, frozen
from tracer.engine.sites import Site
from tracer.errors import EncoderDecoderError
from tracer.facts import Fact
from tracer.facts.prompt import source_length
from tracer.model import Model

FAMILIES = ("t5", "t5 v1.1", "bart")
QUICK: dict[str, Any] = {"steps": 0, "rank": 4, "measured": 4, "cache": False, "directions": 0}
EDIT: dict[str, Any] = {"known": "edit", "check": None}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return stacked(request.param)


def facts(model: Model) -> list[Fact]:
    """Spans of different lengths, and a question; targets of several tokens."""
    given = [("{} is in", "The Space Needle", " Paris"), ("{} plays the", "Miles Davis", " capital of France")]
    spans = [Fact.span(model, *each) for each in given]
    return [*spans, Fact("Where was {} born?", "Yo-Yo Ma", "Seattle")]


def records(model: Model) -> list[Any]:
    return in_spans(model, json.loads(json.dumps(GIVEN).replace("Rome", "Seattle")))


def both(model: Model) -> tuple[Any, ...]:
    """Every projection of the last block of each stack."""
    return places_of(model, keys_of(model, [stack[-1] for stack in model.stacks.values()], None))


def plain_nets(places: Any) -> Nets:
    """Nets that leave every factor as it is."""
    parameters = new_parameters(places, "mend", 4, 1, 1.0, torch.Generator(), torch.device("cpu"))
    widths = {place.shape: sum(place.width) for place in places}
    none = {shape: replace(Statistics.none(n), count=2.0, squares=torch.ones(n)) for shape, n in widths.items()}
    own = {**parameters, "rate": torch.ones(len(places))}
    return Nets(places, own, none, blocks=1, rule="mend", epsilon=0.0, floor=0.0)


def test_factors_of_either_stack_make_up_the_gradient(model: Model) -> None:
    model = own(model)
    places, rows = both(model), [line_of(model, fact) for fact in facts(model)]
    assert len({source_length(model, row.ids) for row in rows}) > 1  # they are filled up
    weights = [model.hf.get_parameter(place.weight) for place in places]
    with torch.enable_grad():
        losses(model, rows[1:2]).sum().backward()
    gradients = [weight.grad.clone() for weight in weights if weight.grad is not None]
    assert len(gradients) == len(places)
    with frozen(model):
        low = Mend(plain_nets(places)).changes(model, [rows[:1], rows[1:2], rows[2:]]).low
    for place, gradient in zip(places, gradients, strict=True):
        u, v = low[place.key].factors(place, 1)
        torch.testing.assert_close(u @ v.T, gradient, atol=1e-6, rtol=1e-4)
    assert all(bool(gradient.any()) for gradient in gradients)


def test_factors_are_at_the_tokens_of_their_stack(model: Model) -> None:
    rows = [line_of(model, fact) for fact in facts(model)]
    places = both(model)
    with frozen(model):
        found = token_factors(model, rows, places).factors
    for place in places:
        encoder = place.layer in model.stacks["encoder"]
        for number, row in enumerate(rows):
            source = source_length(model, row.ids)
            expected = range(source) if encoder else range(source, len(row.ids))
            at = found[place.key].where(found[place.key].row == number)
            assert at.position.tolist() == list(expected), place.key
            if place.key.endswith("down"):
                sites = [Site("key", place.layer, token) for token in expected]
                states = capture(model, list(row.ids), sites)
                torch.testing.assert_close(at.x, torch.cat([states[site] for site in sites]), atol=1e-5, rtol=1e-4)


def test_inputs_where_answers_are_read_and_of_every_token_of_a_source(model: Model) -> None:
    rows = [line_of(model, fact) for fact in facts(model)]
    down = places_of(model, [f"{stack[-1]}.down" for stack in model.stacks.values()])
    found = inputs_at(model, rows, down)
    for place, positions in zip(
        down, ([range(source_length(model, row.ids)) for row in rows], [row.read for row in rows]), strict=True
    ):
        each = [capture(model, list(row.ids), [Site("key", place.layer)]) for row in rows]
        states = [next(iter(one.values()))[0] for one in each]
        expected = torch.cat([state[list(at)] for state, at in zip(states, positions, strict=True)])
        torch.testing.assert_close(found[place.key], expected, atol=1e-5, rtol=1e-4)


def test_a_forward_of_low_rank_is_that_of_the_written_edit(model: Model) -> None:
    places, rows = both(model), [line_of(model, fact) for fact in facts(model)]
    draw = torch.Generator().manual_seed(1)
    low = {
        place.key: LowRank(*(0.3 * torch.randn(2, 3, width, generator=draw) for width in place.width))
        for place in places
    }
    with torch.no_grad(), edited(model, places, low, [0, 1, 0]):
        together = read_logits(model, rows).split([len(row.read) for row in rows])
    for group, members in ((0, (0, 2)), (1, (1,))):
        written = {place.weight: low[place.key].factors(place, group) for place in places}
        with applied(model, written), torch.no_grad():
            for i in members:
                torch.testing.assert_close(together[i], read_logits(model, [rows[i]]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["mend", "malmen", "rledit", "ke"])
def test_edits_are_ordinary_ones_and_are_undone_to_the_bit(method: str, model: Model) -> None:
    model = own(model)
    before = model.fingerprint()
    quick = {name: value for name, value in QUICK.items() if method != "ke" or name not in ("rank", "measured")}
    given: dict[str, Any] = {"tokens": "all"} if method != "ke" else {"reader": 4, "width": 8, "hidden": 4}
    more: dict[str, Any] = {"sequence": 2} if method == "rledit" else {}
    layers = [stack[-1] for stack in model.stacks.values()]
    lessons = records(model)
    quick |= {"steps": 1, "batch": 2, "validate_every": 1, "others": 2}
    editor = editing.prepare(model, method, lessons, layers=layers, held_out=lessons[:1], **quick, **given, **more)
    assert set(editor.history[-1]) >= {"loss", "rewrite", "paraphrase", "neighbour"}
    ledger = editing.Editor(model, prepared=editor)
    edit = ledger.edit(lessons[0].requests()[0], method, **EDIT)
    assert edit.settings["layers"] == layers and edit.settings["places"] == editor.header["places"]
    assert all(float(change.norm()) > 0 for change in edit.to_dense().values())
    assert model.fingerprint() != before
    ledger.undo()
    assert model.fingerprint() == before


def test_by_default_the_decoder_is_edited_and_tokens_of_the_other_stack_are_refused(model: Model) -> None:
    decoder = model.stacks["decoder"]
    assert {int(key.partition(".")[0]) for key in keys_of(model, None, None)} == set(decoder[-3:])
    for layers, tokens, message in (
        ([0], "predicting", "0.up is in the encoder of .* give tokens='subject_last' or 'all'"),
        ([decoder[0]], "subject_last", "is in the decoder of .* give tokens='predicting' or 'all'"),
    ):
        given = {"layers": layers, "tokens": tokens, "projections": ["up"], **QUICK}
        with pytest.raises(EncoderDecoderError, match=message):
            editing.prepare(model, "malmen", records(model), **given)
    at = editing.prepare(model, "malmen", records(model), layers=[0], tokens="subject_last", **QUICK)
    request = records(model)[1].requests()[0]
    edit = editing.compute_edit(model, request, "malmen", prepared=at, **EDIT)
    (weight,) = (place.weight for place in places_of(model, ["0.down"]))
    assert edit.evidence is not None and len(edit.evidence["x.0.down"]) == 1
    site = Site("key", 0, request.fact.align(model).subject_range[1] - 1)
    state = capture(model, list(request.fact.align(model).input_ids), [site])[site]
    torch.testing.assert_close(edit.evidence["x.0.down"], state, atol=1e-5, rtol=1e-4)
    assert weight in edit.factors


def test_rows_kept_everywhere_are_read_in_the_decoder_and_nothing_is_passed_by(model: Model) -> None:
    lessons = lessons_of(model, records(model), "mend")
    row = Episodes(model, lessons, others=1, drawn=0.0, everywhere=True).kept_row(lessons[0].apart[0])
    assert row.read == tuple(range(source_length(model, row.ids), len(row.ids)))
    above, rows = Above(model, model.stacks["decoder"][1]), [line_of(model, fact) for fact in facts(model)]
    with torch.no_grad():
        with above.begun(rows):
            found = read_logits(model, rows)
        torch.testing.assert_close(found, read_logits(model, rows))
