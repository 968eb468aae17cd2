"""Edits of encoder-decoder models: what they write, by the library's own labels, and undoing them to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stacked import fact_for, loss_by_labels, stacked

import editing
from editing import Editor, EditRequest
from editing.covariance.estimate import estimate_covariance
from editing.covariance.text import windows
from editing.methods.compute import METHODS, method_named
from editing.methods.value.context_templates import context_templates
from tracer.engine import capture, generate, own_answer
from tracer.engine.sites import Site
from tracer.errors import EncoderDecoderError, HyperparameterError
from tracer.facts import prompt_ids
from tracer.model import Model
from tracer.neurons import attribute_neurons

ABLE = (
    "rome",
    "r_rome",
    "memit",
    "emmet",
    "alphaedit",
    "ft_l",
    "ft_m",
    "lora",
    "kn",
    "grace",
    "serac",
    "mend",
    "malmen",
    "rledit",
    "ke",
    "rase",
    "ike",
)
STRONG: dict[str, Any] = {"steps": 200, "lr": 0.05, "stop_loss": 1e-2}
TEXTS = ["The city of Paris is old and large. " * 3, "Rome has seven hills, and many ways lead there. " * 3]


@pytest.fixture(params=("t5", "flan", "bart"))
def model(request: pytest.FixtureRequest) -> Model:
    return stacked(request.param)


def request_for(model: Model) -> EditRequest:
    fact = fact_for(model)
    return EditRequest(fact.prompt, fact.subject, " Rome")


@pytest.mark.parametrize(("method", "settings"), [("ft_m", {"norm_constraint": False}), ("lora", {"rank": 4})])
def test_training_teaches_what_the_library_predicts(model: Model, method: str, settings: dict[str, Any]) -> None:
    """The published off-by-one would reach a loss of nothing by copying, and leave the answer as it was."""
    model = stacked(model.name, certain=True)
    request, before = request_for(model), model.fingerprint()
    last = [model.n_layers - 1, *((model.n_layers - 2,) if method == "lora" else ())]
    edit = editing.compute_edit(model, request, method, layers=last, **STRONG, **settings)
    editor = Editor(model)
    assert edit.evidence is not None
    np.testing.assert_allclose(float(edit.evidence["loss"][0, 0]), loss_by_labels(model, request.fact), rtol=1e-4)
    editor.apply(edit)
    loss = loss_by_labels(model, request.fact)
    np.testing.assert_allclose(float(edit.evidence["loss"][-1, 0]), loss, atol=1e-3)
    assert loss < 0.5
    assert tuple(own_answer(model, request.fact)) == request.fact.align(model).target_ids
    assert generate(model, request.text, max_new_tokens=8)[0].startswith(" Rome")
    editor.undo()
    assert model.fingerprint() == before


def test_rome_writes_its_value_at_the_encoder(model: Model) -> None:
    request, before = request_for(model), model.fingerprint()
    covariance = estimate_covariance(model, [0], TEXTS, cache=False)
    given: dict[str, Any] = {"layers": [0], "covariance": covariance, "context_templates": ["{}"]}
    edit = editing.compute_edit(model, request, "rome", **given)
    assert list(edit.factors) == [model.down_projection(0).name] and edit.evidence is not None
    alignment = request.fact.align(model)
    site = Site("value", 0, alignment.subject_range[1] - 1)
    wanted = edit.evidence["target_init"] + edit.evidence["delta"]
    assert edit.evidence["delta"].abs().max() > 0
    losses = edit.evidence["loss"][0, :, 1]
    assert losses[~losses.isnan()][-1] < losses[0]
    editor = Editor(model)
    editor.apply(edit)
    with torch.no_grad():
        found = capture(model, list(alignment.input_ids), [site])[site]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    editor.undo()
    assert model.fingerprint() == before


@pytest.mark.parametrize("method", ["memit", "emmet", "alphaedit"])
def test_the_subject_moves_towards_its_target(model: Model, method: str) -> None:
    request = request_for(model)
    covariance = estimate_covariance(model, [0, 1], TEXTS, cache=False)
    more: dict[str, dict[str, Any]] = {"memit": {"mom2_weight": 1e-4}, "alphaedit": {"nullspace_share": 0.2}}
    given: dict[str, Any] = {"layers": [0, 1], "covariance": covariance, "context_templates": ["{}"]}
    edit = editing.compute_edit(model, request, method, **given, **more.get(method, {}))
    alignment = request.fact.align(model)
    site = Site("hidden", 1, alignment.subject_range[1] - 1)
    assert edit.evidence is not None
    with torch.no_grad():
        before = capture(model, list(alignment.input_ids), [site])[site]
        with edit.applied(model):
            after = capture(model, list(alignment.input_ids), [site])[site]
    torch.testing.assert_close(before, edit.evidence["target_init"], atol=1e-5, rtol=1e-5)
    wanted = edit.evidence["zs"].T
    # a norm behind the sum (BART) lets states move so far only
    assert (after - wanted).norm() < (0.95 if model.name == "bart" else 0.5) * (before - wanted).norm()
    if method == "alphaedit":  # nothing is written along the directions that text has
        for layer in (0, 1):
            values, vectors = torch.linalg.eigh(covariance.moments[layer].double())
            taken = values.clamp_min(0).cumsum(0) > 0.2 * values.clamp_min(0).sum()
            down = model.down_projection(layer)
            change = edit.to_dense()[down.name].double()
            change = change if change.shape[0] == model.d_mlp else change.T  # input x output
            assert (vectors[:, taken].T @ change).norm() < 1e-4 * change.norm()


def test_keys_over_text_are_those_of_the_encoder(model: Model) -> None:
    covariance = estimate_covariance(model, [1], TEXTS, window=24, cache=False)
    total, count = torch.zeros(model.d_mlp, model.d_mlp, dtype=torch.float64), 0
    keys: list[torch.Tensor] = []
    module = model.module("key", 1)
    handle = module.register_forward_pre_hook(lambda _, args: keys.append(args[0][0].double()))
    hf: Any = model.hf
    try:
        with torch.no_grad(), windows(model, TEXTS, 24, None) as corpus:
            for row in corpus.rows(0, len(corpus.ends)):
                assert row[-1] == hf.config.eos_token_id
                hf.get_encoder()(input_ids=torch.tensor(row)[None].long())
                total += keys[-1].T @ keys[-1]
                count += len(row)
    finally:
        handle.remove()
    assert count == covariance.tokens
    torch.testing.assert_close(covariance.moments[1].double(), total / count, atol=1e-5, rtol=1e-4)
    with pytest.raises(EncoderDecoderError, match="running text is read by the encoder"):
        estimate_covariance(model, [model.n_layers - 1], TEXTS, cache=False)


def test_neurons_of_the_decoder_make_the_new_answer_more_probable(model: Model) -> None:
    request, before = request_for(model), model.fingerprint()
    found = attribute_neurons(model, request.fact, token="answer", rule="gauss", steps=24)
    encoder, decoder = (list(model.stacks[name]) for name in ("encoder", "decoder"))
    np.testing.assert_allclose(found.scores[encoder], 0, atol=1e-12)  # no token of theirs is an answer
    assert np.abs(found.completeness).max() < 0.02 * np.abs(found.full - found.zero[decoder]).max()
    there = attribute_neurons(model, request.fact, token="subject_last", rule="gauss", steps=24)
    np.testing.assert_allclose(there.scores[decoder], 0, atol=1e-12)
    assert np.abs(there.scores[encoder]).max() > 0
    edit = editing.compute_edit(model, request, "kn", token="answer", steps=8)
    assert {name.split(".")[0] for name in edit.factors} <= {"decoder", "model"}
    loss, editor = loss_by_labels(model, request.fact), Editor(model)
    editor.apply(edit)
    assert loss_by_labels(model, request.fact) < loss
    editor.undo()
    assert model.fingerprint() == before
    with pytest.raises(HyperparameterError, match="give token='answer'"):
        editing.compute_edit(model, request, "kn")


def test_a_codebook_stands_in_the_decoder_and_leaves_other_prompts_alone(model: Model) -> None:
    request, before = request_for(model), model.fingerprint()
    other = EditRequest(request.prompt, "Venice", " Rome").fact
    layer = model.stacks["decoder"][-1]
    edit = editing.compute_edit(model, request, "grace", layers=[layer], radius=1e-3)
    answers = own_answer(model, other)
    editor = Editor(model)
    editor.apply(edit)
    assert tuple(own_answer(model, request.fact)) == request.fact.align(model).target_ids
    assert generate(model, request.text, max_new_tokens=8)[0].startswith(" Rome")
    assert own_answer(model, other) == answers
    editor.undo()
    assert model.fingerprint() == before
    with pytest.raises(EncoderDecoderError, match="is in the encoder, and the codebook looks up"):
        editing.compute_edit(model, request, "grace", layers=[0])


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(ABLE)))
def test_what_is_not_carried_over_is_said(method: str) -> None:
    model = stacked("t5")
    with pytest.raises(EncoderDecoderError, match=f"which {method} does not edit yet; choose one of rome"):
        editing.compute_edit(model, request_for(model), method)


def test_the_list_of_able_methods() -> None:
    assert tuple(name for name in METHODS if method_named(name).seq2seq) == ABLE


def test_what_only_one_stack_can_do_is_said(model: Model) -> None:
    from editing.health.drift import Drift
    from editing.tasks import finetune

    request = request_for(model)
    decoder = model.stacks["decoder"][0]
    for method in ("rome", "memit"):
        with pytest.raises(EncoderDecoderError, match="which has no states of the subject's tokens"):
            editing.compute_edit(model, request, method, layers=[decoder])
    with pytest.raises(EncoderDecoderError, match="predicts no next token of running text"):
        Drift.recorded(model)
    with pytest.raises(EncoderDecoderError, match="give it requests"):
        finetune(model, ["A text of some length."])


def test_contexts_are_plain_sentences(model: Model) -> None:
    templates = context_templates(model, ((5, 3), (10, 2)), seed=4)
    assert templates == context_templates(model, ((5, 3), (10, 2)), seed=4)
    assert templates[0] == ("{}",) and len(templates[1]) == 5
    assert all(text.endswith(". {}") and len(text) > 6 for text in templates[1])
    assert prompt_ids(model, templates[1][0].replace("{}", "Paris"))
