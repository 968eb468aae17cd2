"""Editors that keep edits in memories, on encoder-decoder models: SERAC, IKE and RASE."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from edit_command import RECORDS as GIVEN
from handmade import own
from stacked import stacked

import editing
from editing.datasets import in_spans
from editing.edits.weights import applied
from editing.memories.scope import question_of, states_of
from editing.methods.meta.episodes import line_of
from editing.methods.routed.demonstrations import Demonstration
from editing.methods.training import losses
from tracer.engine import capture, generate, own_answer
from tracer.engine.memories import asked
from tracer.engine.prompt_states import mean_state
from tracer.engine.sites import Site
from tracer.errors import EncoderDecoderError
from tracer.facts import prompt_ids, stated
from tracer.facts.prompt import source_length, span_mark
from tracer.model import Model

QUICK: dict[str, Any] = {"known": "edit", "check": None}
SMALL: dict[str, dict[str, Any]] = {
    "serac": {"steps": 20, "width": 8, "batch": 3, "lr": 1e-2, "answers": "self"},
    "student": {"answers": "student", "student_steps": 2, "student_width": 16, "student_batch": 2},
    "routed": {"entries": 2, "false_alarms": 0.2},
}


@pytest.fixture(params=("t5", "bart"))
def model(request: pytest.FixtureRequest) -> Model:
    return own(stacked(request.param))


def records(model: Model) -> list[Any]:
    return in_spans(model, json.loads(json.dumps(GIVEN).replace("Rome", "Seattle")))


def logits_of_prompt(model: Model, text: str) -> torch.Tensor:
    """Logits where the answer to a text is read, by a plain call of the library."""
    ids = prompt_ids(model, text)
    source, hf = source_length(model, ids), model.hf
    with torch.no_grad():
        found = hf(input_ids=torch.tensor([ids[:source]]), decoder_input_ids=torch.tensor([ids[source:]]))
    return found.logits[0, -1]


def test_a_question_is_read_back_from_its_row_and_an_answer_stands_in_its_place(model: Model) -> None:
    mark = span_mark(model)
    for text in (f"The city is in {mark}", f"Who lives in {mark} today?", "Where is Paris?"):
        found = question_of(model, tuple(prompt_ids(model, text)))
        assert prompt_ids(model, found) == prompt_ids(model, text)
        assert found.replace(" ", "") == text.replace(" ", "")
    assert stated(model, f"The city is in {mark}", " Rome") == "The city is in Rome"
    assert stated(model, f"{mark} is a city", " Rome") == "Rome is a city"
    assert stated(model, "Where is it?", "Rome") == "Where is it? Rome"


@pytest.mark.parametrize("answers", ["self", "student"])
def test_serac_puts_the_edit_in_front_of_the_source(model: Model, answers: str) -> None:
    before, request = model.fingerprint(), records(model)[0].requests()[0]
    more = SMALL["serac"] | (SMALL["student"] if answers == "student" else {})
    prepared = editing.prepare(model, "serac", records(model), cache=False, **more)
    editor, other = editing.Editor(model, prepared=prepared), records(model)[1].requests()[0]
    bare = [tuple(own_answer(model, one.fact)) for one in (request, other)]
    edit = editor.edit(request, "serac", threshold=0.9999, **QUICK)
    ids = tuple(prompt_ids(model, request.text))
    (question,), _ = asked(model, [ids])
    front = stated(model, request.text, request.target_new) + ". "
    assert question.ids == tuple(prompt_ids(model, front + request.text)) and question.ids[-1] == ids[-1]
    assert (question.model is None) == (answers == "self")
    if answers == "self":
        (said,) = generate(model, [request.text], max_new_tokens=3)
        editor.checkout(0)
        assert generate(model, [front + request.text], max_new_tokens=3) == [said]
        editor.checkout(1)
    assert tuple(own_answer(model, other.fact)) == bare[1]  # another question, to the bit
    assert edit.memories and not edit.factors
    editor.undo()
    assert model.fingerprint() == before and tuple(own_answer(model, request.fact)) == bare[0]


def test_a_mixture_weighs_what_both_read(model: Model) -> None:
    request = records(model)[0].requests()[0]
    prepared = editing.prepare(model, "serac", records(model), cache=False, **SMALL["serac"])
    editor = editing.Editor(model, prepared=prepared)
    front = stated(model, request.text, request.target_new) + ". "
    plain, read = (logits_of_prompt(model, text).softmax(-1) for text in (request.text, front + request.text))
    editor.edit(request, "serac", output="soft", **QUICK)
    (question,), _ = asked(model, [tuple(prompt_ids(model, request.text))])
    assert question.model is not None
    with torch.no_grad():
        found = question.model.hf(torch.tensor([question.ids])).logits[0, -1].softmax(-1)
    torch.testing.assert_close(found, read, atol=1e-4, rtol=1e-3)  # the same prompt: a similarity of 1
    assert (found - plain).abs().max() > 1e-4


def test_states_of_a_question_are_those_where_the_decoder_answers(model: Model) -> None:
    last, ids = model.n_layers - 1, tuple(prompt_ids(model, records(model)[0].requests()[0].text))
    found = states_of(model, [ids], [last])
    site = Site("hidden", last, len(ids) - 1)
    state = capture(model, list(ids), [site])[site]
    torch.testing.assert_close(found, torch.layer_norm(state, (model.d_model,)), atol=1e-5, rtol=1e-4)
    for method, more in (("serac", SMALL["serac"]), ("ike", SMALL["routed"])):
        with pytest.raises(EncoderDecoderError, match=r"layer 0 of .* is in the encoder.*layers of the decoder"):
            editing.prepare(model, method, records(model), cache=False, layers=[0], **more)


def test_texts_are_compared_by_the_encoder(model: Model) -> None:
    ids, layer = prompt_ids(model, "The city of Paris"), model.stacks["encoder"][-1]
    hf: Any = model.hf
    with torch.no_grad():
        states = capture(model, ids, [Site("hidden", layer)])[Site("hidden", layer)][0]
    source = source_length(model, ids)
    assert not states[source:].any() and states[:source].any(1).all()
    torch.testing.assert_close(mean_state(model, ids, ("hidden", layer)), states[:source].mean(0))
    if model.name == "bart":  # has no norm behind its last block
        with torch.no_grad():
            read = hf.get_encoder()(input_ids=torch.tensor([ids[:source]])).last_hidden_state[0]
        torch.testing.assert_close(states[:source], read)


def test_ike_puts_statements_and_the_new_fact_in_front(model: Model) -> None:
    before, request, mark = model.fingerprint(), records(model)[0].requests()[0], span_mark(model)
    every = [Demonstration.of(record, mark) for record in records(model)]
    assert every[0].fact == "The Space Needle is in Paris"
    assert every[0].shown(f"Big Ben is in {mark}", "Rome").endswith("Prompt: Big Ben is in Rome\n\n")
    prepared = editing.prepare(model, "ike", records(model), cache=False, **SMALL["routed"])
    assert {row["layer"] for row in prepared.history} == set(model.stacks["decoder"])
    editor = editing.Editor(model, prepared=prepared)
    short = {"variant": "bare", "router": "string", "template": "Now {fact}\n{question}"}
    edit = editor.edit(request, "ike", **short, **QUICK)
    ids = tuple(prompt_ids(model, request.text))
    (question,), _ = asked(model, [ids])
    assert question.ids == tuple(prompt_ids(model, f"Now The Space Needle is in Paris\n{request.text}"))
    assert edit.evidence is not None and not edit.factors
    editor.undo()
    assert model.fingerprint() == before


def test_a_rase_entry_is_what_rome_writes_into_the_encoder(model: Model) -> None:
    before, request = model.fingerprint(), records(model)[0].requests()[0]
    short: dict[str, Any] = {"v_steps": 3, "mom2_adjustment": False, "context_templates": ["{}"]}
    plain = editing.compute_edit(model, request, "rome", layers=[1], **short, **QUICK)
    editor = editing.Editor(model)
    editor.edit(request, "rase", router="string", layers=[1], editor_settings=short, **QUICK)
    row = line_of(model, request.fact)
    with torch.no_grad():
        found = float(losses(model, [row]))
    editor.undo()
    with torch.no_grad():
        bare = float(losses(model, [row]))
        with applied(model, plain.factors):
            np.testing.assert_allclose(found, float(losses(model, [row])), rtol=1e-4)
    assert abs(found - bare) > 1e-3 and model.fingerprint() == before
    with pytest.raises(EncoderDecoderError, match="which pmet does not edit yet"):
        editing.compute_edit(model, request, "rase", router="string", editor="pmet", **QUICK)
