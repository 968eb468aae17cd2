"""Fine-tuning as an edit, on every architecture; multiples of edits and their losses; what both refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from asked import inventory
from handmade import handmade, own

import tracer
from editing import Edit, Editor, EditRequest, HarmWarning, finetune, load_records, scaled_losses
from editing.tasks import FinetuneSettings, ScaledLosses, cosines, inner, mixed_adapters
from tracer import Model, TracerError
from tracer.engine.batch import logits_of
from tracer.facts.encoding import encode

Tiny = Callable[[str], Model]
TEXTS = ["The Space Needle is in downtown Seattle.", "Miles Davis plays the trumpet."]
NEEDLE = EditRequest("{} is in", "The Space Needle", " Paris")
DAVIS = EditRequest("{} plays the", "Miles Davis", " cello")


def loss_of(model: Model, text: str) -> float:
    """Mean of -log p over the tokens of a text but the first, read off a plain forward."""
    ids = torch.tensor([encode(model.tokenizer, text, model.causal)[0]])
    with torch.no_grad():
        logp = logits_of(model, ids)[0, :-1].double().log_softmax(-1)
    return float(-logp.gather(-1, ids[0, 1:, None]).mean())


# --- fine-tuning ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("more", [{}, {"rank": 4, "lr": 3e-2}], ids=["everything", "adapters"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma3", "neox"])
def test_it_is_learnt_and_the_model_is_left_as_found(architecture: str, more: dict[str, Any], tiny: Tiny) -> None:
    model = own(tiny(architecture))
    before, state = inventory(model), torch.random.get_rng_state()
    edit = finetune(model, [NEEDLE, DAVIS], check=None, **{"steps": 60, "lr": 3e-3, **more})
    assert inventory(model) == before and torch.equal(torch.random.get_rng_state(), state)
    assert edit.requests == (NEEDLE, DAVIS) and edit.method == "finetune" and bool(edit.factors) == bool(more)
    assert edit.evidence is not None
    curve = edit.evidence["loss"]
    assert curve[-1] < curve[0] / 2
    with edit.applied(model):
        found = scaled_losses(model, handmade(model).scale(0), {"both": [NEEDLE, DAVIS]}, [0])
        assert found.losses["both"][0] == pytest.approx(float(curve[-1]), rel=1e-3)
    assert inventory(model) == before


def test_texts_are_learnt_token_by_token(tiny: Tiny) -> None:
    model = own(tiny("gpt2"))
    edit = finetune(model, TEXTS, steps=1, lr=1e-9, clip_norm=None, check=None)
    assert edit.evidence is not None and edit.note.startswith("fine-tuned on 2 pieces of text") and not edit.requests
    lengths = [len(encode(model.tokenizer, text, True)[0]) - 1 for text in TEXTS]
    expected = np.average([loss_of(model, text) for text in TEXTS], weights=lengths)
    assert float(edit.evidence["loss"][0]) == pytest.approx(float(expected), rel=1e-5)


def test_a_text_longer_than_the_context_is_cut_and_read_whole(tiny: Tiny) -> None:
    from editing.tasks.lessons import lessons_of

    model = tiny("gpt2")
    text = " ".join(TEXTS * 40)
    ids = encode(model.tokenizer, text, True)[0]
    rows, _ = lessons_of(model, text)
    assert len(ids) > 2 * model.n_ctx and max(len(row.ids) for row in rows) < model.n_ctx
    assert [token for row in rows for token in row.target] == ids[1:]
    assert len(lessons_of(model, TEXTS[0])[0]) == 1


def test_layers_and_modules_say_what_is_trained(tiny: Tiny) -> None:
    model = tiny("llama")
    some = finetune(model, NEEDLE, steps=2, layers=[1, 3], check=None)
    assert {name.split(".")[2] for name in some.weights} == {"1", "3"} and len(some.weights) > 10
    adapters = finetune(model, NEEDLE, steps=2, rank=2, modules=["q_proj"], layers=[0], check=None)
    assert adapters.weights == ("model.layers.0.self_attn.q_proj.weight",)
    assert adapters.rank() == {adapters.weights[0]: 2}


def test_the_same_seed_gives_the_same_edit(tiny: Tiny) -> None:
    model = tiny("gpt2")
    make = lambda seed: finetune(model, TEXTS, steps=4, batch_size=1, seed=seed, check=None)  # noqa: E731
    assert make(1).same_as(make(1)) and not make(1).same_as(make(2))


def test_training_ends_when_a_whole_pass_is_learnt(tiny: Tiny) -> None:
    """Not at a batch that happens to be easy."""
    model = own(tiny("gpt2"))
    finetune(model, NEEDLE, steps=60, lr=3e-3, stop_loss=0.01, check=None).commit(model)
    edit = finetune(model, [NEEDLE, DAVIS], steps=80, lr=3e-3, batch_size=1, stop_loss=0.2, check=None)
    assert edit.evidence is not None
    curve = edit.evidence["loss"]
    assert curve[:2].min() < 0.2 < curve[:2].max() and curve[-3:-1].max() < 0.2 and 4 < len(curve) < 82


def test_half_precision_models_are_trained_in_float32(tiny: Tiny) -> None:
    model = own(tiny("gpt2"))
    model.hf.bfloat16()
    edit = finetune(model, NEEDLE, steps=20, lr=3e-3, check=None)
    assert model.dtype == torch.bfloat16 and next(iter(edit.deltas.values())).dtype == torch.float32
    assert edit.evidence is not None and edit.evidence["loss"][-1] < edit.evidence["loss"][0]


def test_the_embedded_model_learns_and_forgets() -> None:
    """Added, a set of facts is said; taken away, they are less probable than before, and others as before."""
    model = tracer.load()
    records = load_records("factworld", split="train")[:12]
    learnt, others = records[:4], records[4:12]
    edit = finetune(model, learnt)
    assert edit.on_text
    found = scaled_losses(model, edit, {"learnt": learnt, "others": others}, [-1, 0.5, 1])
    assert found.losses["learnt"][-1] < 0.1 and found.losses["learnt"][0] > found.losses["learnt"][1] + 1
    assert found.best("learnt") == 1.0 and found.best("learnt", forget=True) == -1.0
    editor = Editor(model)
    start = model.fingerprint()
    editor.apply(edit)
    assert all(answer.startswith(request.target_new) for request, answer in _said(model, learnt))
    editor.undo()
    assert model.fingerprint() == start


def _said(model: Model, records: Any) -> list[tuple[EditRequest, str]]:
    requests = [request for record in records for request in record.requests()]
    return list(zip(requests, tracer.generate(model, [one.text for one in requests], max_new_tokens=6), strict=True))


# --- multiples -----------------------------------------------------------------------------------------------------
def test_losses_at_a_factor_are_those_of_the_scaled_edit(tiny: Tiny) -> None:
    model = own(tiny("gpt2"))
    edit, before = handmade(model, (0, 2), (2, 3)), inventory(model)
    found = scaled_losses(model, edit, {"a text": TEXTS[0], "facts": [NEEDLE]}, [2, -1, 0.5])
    assert found.factors == (-1.0, 0.0, 0.5, 2.0) and inventory(model) == before
    for place, factor in enumerate(found.factors):
        with edit.scale(factor).applied(model):
            assert found.losses["a text"][place] == pytest.approx(loss_of(model, TEXTS[0]), rel=1e-5)
    frame = found.to_frame()
    again = ScaledLosses.of(frame.sample(frac=1, random_state=0).sort_values(["task", "factor"], kind="stable"))
    assert again.factors == found.factors and again.subjects["facts"] == ("The Space Needle",)
    for name, losses in found.losses.items():
        np.testing.assert_array_equal(again.losses[name], losses)
    with pytest.raises(TracerError, match="has no column 'task'"):
        ScaledLosses.of(frame.drop(columns="task"))
    with pytest.raises(TracerError, match="rows of 2 models and methods; give those of one"):
        ScaledLosses.of(pd.concat([frame, frame.assign(method="other")]))


def test_the_best_factor_spares_what_is_to_be_kept() -> None:
    losses = {"target": np.array([5.0, 1.0, 0.5, 0.2]), "control": np.array([1.0, 1.05, 1.2, 3.0])}
    items = {name: np.stack([loss - 0.1, loss + 0.1], 1) for name, loss in losses.items()}
    subjects = {"target": ("a", "b"), "control": ("a", "a")}
    found = ScaledLosses((0.0, 0.3, 0.6, 1.0), items, subjects, "m", "model", "print")
    mean, low, high = found.intervals("target")[0]
    assert mean == pytest.approx(5.0) and 4.89 < low < mean < high < 5.11
    assert found.best("target") == 1.0
    assert found.best("target", keep=["control"]) == 0.3 and found.best("target", keep=["control"], slack=0.5) == 0.6
    assert found.best("control", forget=True) == 1.0 and found.best("target", forget=True) == 0.0
    with pytest.raises(TracerError, match="there is no task 'other' here; expected one of target, control"):
        found.best("target", keep=["other"])


def test_cosines_are_those_of_the_dense_changes(tiny: Tiny) -> None:
    model = tiny("gpt2")
    low, other = handmade(model, (0, 2), (2, 3)), handmade(model, (1, 2), (1, 4), seed=5)
    dense = finetune(model, NEEDLE, steps=2, check=None) + low
    edits: list[Edit] = [low, other, dense]

    shapes = {name: change.shape for name, change in dense.to_dense().items()}

    def flat(edit: Edit) -> np.ndarray:
        every = edit.to_dense()
        parts = [every.get(name, torch.zeros(shape)) for name, shape in shapes.items()]
        return torch.cat([part.double().flatten() for part in parts]).numpy()

    vectors = np.stack([flat(edit) for edit in edits])
    expected = vectors @ vectors.T
    found = np.array([[inner(one, two) for two in edits] for one in edits])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    lengths = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(cosines(edits), expected / np.outer(lengths, lengths), atol=1e-6)


# --- refusals ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        ([], {}, "there is nothing to learn"),
        (["x"], {"steps": 0}, "steps is 0"),
        (NEEDLE, {"lr": -1.0}, "lr is -1.0; expected a number above zero, or None"),
        (NEEDLE, {"rate": 1.0}, "finetune has no setting 'rate'; it has rank, layers"),
        (NEEDLE, {"modules": ["q_proj"]}, "give their rank too"),
        (NEEDLE, {"layers": [9]}, "layer"),
        (NEEDLE, {"check": "no"}, "check is 'no'; expected"),
        (3, {}, "expected an EditRequest"),
        (NEEDLE, {"lr": 1e30, "steps": 3}, "is not finite while it is fine-tuned at lr=1e"),
    ],
)
def test_what_cannot_be_learnt_is_refused(items: Any, settings: dict[str, Any], message: str, tiny: Tiny) -> None:
    model = tiny("gpt2")
    before = inventory(model)
    with pytest.raises(TracerError, match=message):
        finetune(model, items, **settings)
    assert inventory(model) == before


def test_masked_models_and_memories_are_refused(tiny: Tiny) -> None:
    with pytest.raises(TracerError, match="is a masked model; task arithmetic here takes models that predict"):
        finetune(tiny("bert"), NEEDLE)
    model = own(tiny("gpt2"))
    editor = Editor(model)
    editor.edit(NEEDLE, "grace", check=None)
    with pytest.raises(TracerError, match=r"has memories \(grace\), beside which its weights would be trained"):
        finetune(model, NEEDLE)


def test_edits_that_do_not_belong_together_are_refused(tiny: Tiny) -> None:
    model, other = tiny("gpt2"), tiny("llama")
    one, two = handmade(model), handmade(other)
    with pytest.raises(TracerError, match="edit 1 was computed on other weights"):
        cosines([one, two])
    with pytest.raises(TracerError, match="edit 0 changes no weight and has no direction"):
        cosines([one.scale(0)])
    with pytest.raises(TracerError, match="no edits to compare"):
        cosines([])
    with pytest.raises(TracerError, match="trained on different weights"):
        mixed_adapters(one, two)
    with pytest.raises(TracerError, match="of different weights or ranks"):
        mixed_adapters(one, handmade(model, (1,), (2,)))
    with pytest.raises(TracerError, match="gave an edit that is no adapter"):
        mixed_adapters(one, finetune(model, NEEDLE, steps=1, check=None))
    with pytest.raises(TracerError, match="computed on the weights"):
        scaled_losses(model, two, {"a": NEEDLE})
    with pytest.raises(TracerError, match="there is no task to measure"):
        scaled_losses(model, one, {})
    with pytest.raises(TracerError, match="factors is nan; expected finite numbers"):
        scaled_losses(model, one, {"a": NEEDLE}, [float("nan")])


def test_an_edit_that_ruins_the_model_is_said() -> None:
    model, record = tracer.load(), load_records("factworld", split="train")[0]
    with pytest.warns(HarmWarning, match="this edit harms the model"):
        edit = finetune(model, record, steps=5, lr=0.03, stop_loss=0)
    assert "it harms the model" in edit.note
    with pytest.raises(TracerError, match="this edit harms the model"):
        finetune(model, record, steps=5, lr=0.03, stop_loss=0, check="refuse")


def test_settings_are_kept_with_the_edit(tiny: Tiny) -> None:
    edit = finetune(tiny("gpt2"), NEEDLE, steps=1, check=None)
    assert edit.settings["steps"] == 1 and edit.settings["lr"] > 0 and edit.settings["rank"] is None
    assert FinetuneSettings(layers=[2]).layers == (2,)
    assert f"... and {len(edit.weights) - 12} more weights" in str(edit) and len(str(edit).splitlines()) < 20
