"""Which neurons are kept, the result of an attribution as a table and a file, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import Tiny, fact, variant

from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.model import Model, load
from tracer.neurons.selection import NeuronAttribution, attribute_neurons, knowledge_neurons, refine

PROMPTS = {"museum": "The Dipea Museum is in downtown", "occupation": "Delgea Delko works as a"}


def by_hand(scores: Any, method: str = "integrated_gradients", **fields: Any) -> NeuronAttribution:
    """An attribution with these scores."""
    scores = np.array(scores, dtype=float)
    default: dict[str, Any] = {
        "scores": scores,
        "activations": scores / 2,
        "method": method,
        "site": "post",
        "steps": 20,
        "rule": "published",
        "full": 0.75,
        "zero": np.full(len(scores), 0.25),
        "answer": " Paris",
        "prompt": "The Eiffel Tower is in",
        "subject": "The Eiffel Tower",
        "tokens": ("The", " Eiffel", " Tower", " is", " in"),
        "positions": (4,),
        "model": "by hand",
        "n_layers": len(scores),
        "fingerprint": "0" * 64,
    }
    return NeuronAttribution(**{**default, **fields})


# --- keeping some ----------------------------------------------------------------------------------------------------
def test_coarse_and_top() -> None:
    made = by_hand([[0.1, 0.5, -1.0], [0.5, 0.25, 0.05]])
    assert made.top(3) == [(0, 1), (1, 0), (1, 1)]
    assert made.top(0) == [] and len(made.top(99)) == 6
    assert made.above(0.5) == [(0, 1), (1, 0)]  # 0.25 is not more than half of 0.5
    assert made.above(0.49) == [(0, 1), (1, 0), (1, 1)]
    assert made.above(0) == [(0, 1), (1, 0), (1, 1), (0, 0), (1, 2)]
    assert made.above(1.0) == []
    assert made.per_layer(0.1).tolist() == [2, 2] and made.per_layer(0.2).tolist() == [1, 2]
    assert by_hand([[-0.1, -0.5]]).above(0.2) == []
    assert by_hand([[1.0, 2.5], [2.0, 3.0]], "activation_contrast").above(2.0) == [(1, 1), (0, 1)]
    np.testing.assert_allclose(made.completeness, [-0.9, 0.3])


def test_share_and_order() -> None:
    first, second, third, fourth = (
        by_hand([scores])
        for scores in ([1.0, 0.9, 0.9, 0.0], [1.0, 0.9, 0.0, 0.9], [1.0, 0.3, 0.9, 0.0], [1.0, 0.0, 0.0, 0.0])
    )
    several = [first, second, third, fourth]  # above 0.2: neuron 0 in 4, 1 in 3, 2 in 2, 3 in 1
    assert refine(several, 0.2, 0.0) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert refine(several, 0.2, 0.25) == [(0, 0), (0, 1), (0, 2)]  # strictly more than one
    assert refine(several, 0.2, 0.5) == [(0, 0), (0, 1)]
    assert refine(several, 0.2, 0.7) == [(0, 0), (0, 1)]
    assert refine(several, 0.2, 0.75) == [(0, 0)]
    assert refine(several, 0.2, 1.0) == [(0, 0)]
    assert refine(several, 0.3, 0.7) == [(0, 0)]  # 0.3 is not above 0.3
    assert refine(first, 0.2, 1.0) == [(0, 0), (0, 1), (0, 2)]  # of equal scores the first neuron first
    hundred = [by_hand([[1.0, 0.5 * (i < 29)]]) for i in range(100)]
    assert refine(hundred, 0.2, 0.29) == [(0, 0)]
    assert refine([by_hand([[0.6, 1.0]]), by_hand([[1.0, 0.7]])], 0.5, 0.5) == [(0, 1), (0, 0)]  # by mean score


def test_negatives_are_removed(golden_model: Model) -> None:
    assert refine(by_hand([[1.0, 0.9]]), negatives=by_hand([[0.1, 1.0]])) == [(0, 0)]
    assert refine(by_hand([[1.0, 0.9]]), negatives=[by_hand([[0.1, 1.0]]), by_hand([[1.0, 0.1]])]) == []
    facts = [PROMPTS["museum"], Fact("The Dipea Museum lies in downtown", "The Dipea Museum")]
    kept = knowledge_neurons(golden_model, facts, 0.1, 0.7)
    fewer = knowledge_neurons(golden_model, facts, 0.1, 0.7, negatives=PROMPTS["occupation"])
    unrelated = set(attribute_neurons(golden_model, PROMPTS["occupation"]).above(0.1))
    assert fewer == [neuron for neuron in kept if neuron not in unrelated]
    assert 0 < len(fewer) < len(kept)
    attributions = [attribute_neurons(golden_model, about) for about in facts]
    assert kept == refine(attributions, 0.1, 0.7)
    assert set(kept) == set(attributions[0].above(0.1)) & set(attributions[1].above(0.1))


# --- the result ------------------------------------------------------------------------------------------------------
def test_saved_and_loaded(tmp_path: Path, tiny: Tiny) -> None:
    model = tiny("gpt2")
    contrast = attribute_neurons(model, fact(model), method="activation_contrast", contrast=["a", "b"])
    for number, made in enumerate((attribute_neurons(model, fact(model, "Seattle"), 3, token=1), contrast)):
        again = NeuronAttribution.load(made.save(tmp_path / f"{number}.npz"))
        for name, value in vars(made).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(again, name), value)
                assert not getattr(again, name).flags.writeable
            else:
                assert getattr(again, name) == value and type(getattr(again, name)) is type(value)
        assert again.top(9) == made.top(9)
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(TracerError, match="not a saved tracer"):
        NeuronAttribution.load(tmp_path / "other.npz")


def test_frame_and_repr() -> None:
    made = by_hand([[0.1, 0.5], [0.4, -0.2]])
    frame = made.to_frame()
    assert frame.to_dict("list") == {
        "layer": [0, 1, 0, 1],
        "neuron": [1, 0, 0, 1],
        "score": [0.5, 0.4, 0.1, -0.2],
        "activation": [0.25, 0.2, 0.05, -0.1],
    }
    assert len(made.to_frame(2)) == 2 and len(made.to_frame(0)) == 0
    assert repr(made).startswith("NeuronAttribution('The Eiffel Tower is in' → ' Paris', p = 0.7500; integrated")
    assert "0.1 +0.5, 1.0 +0.4" in repr(made)


# --- what is refused -------------------------------------------------------------------------------------------------
CONTRAST = {"method": "activation_contrast"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"steps": 2.0}, "steps is 2.0"),
        ({"method": "gradients"}, "method 'gradients' is unknown; expected 'integrated_gradients' or"),
        ({"site": "key"}, "site 'key' is unknown; expected 'post' or 'pre'"),
        ({"rule": "simpson"}, "rule 'simpson' is unknown"),
        ({"token": "last"}, "token 'last' is unknown"),
        ({"token": True}, "token True is unknown"),
        ({"token": 1.0}, "token 1.0 is unknown"),
        ({"token": 99}, "token 99 is out of range: 'In Paris is' has"),
        ({"token": -99}, "token -99 is out of range"),
        ({"max_rows": 0}, "max_rows is 0"),
        ({"contrast": ["a", "b"]}, "contrast prompts are for"),
        (CONTRAST, "needs contrast="),
        ({**CONTRAST, "contrast": ["one"]}, "contrast holds 1 prompts; expected at least 2"),
        ({**CONTRAST, "contrast": "one prompt"}, "contrast holds 1 prompts"),
        ({**CONTRAST, "contrast": [1, 2]}, "contrast is a list of int"),
        ({**CONTRAST, "contrast": ["", "b"]}, "the prompt is empty"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str, tiny: Tiny) -> None:
    model = tiny("gpt2")
    for call in (attribute_neurons, knowledge_neurons):
        with pytest.raises(TracerError, match=message):
            call(model, fact(model), **settings)


def test_facts_that_are_none(tiny: Tiny) -> None:
    model = tiny("gpt2")
    with pytest.raises(TracerError, match="fact is a list of str; integrated gradients take one"):
        attribute_neurons(model, ["In Paris", "In Seattle"])
    with pytest.raises(TracerError, match="fact is a int"):
        attribute_neurons(model, 3)  # type: ignore[arg-type]
    with pytest.raises(TracerError, match="fact is a int"):
        attribute_neurons(model, 3, method="activation_contrast", contrast=["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(TracerError, match="fact holds 0 prompts"):
        attribute_neurons(model, [], method="activation_contrast", contrast=["a", "b"])
    with pytest.raises(TracerError, match="facts holds 0 prompts"):
        knowledge_neurons(model, [])
    with pytest.raises(TracerError, match="facts is a NoneType"):
        knowledge_neurons(model, None)  # type: ignore[arg-type]
    with pytest.raises(TracerError, match="negatives is a list of int"):
        knowledge_neurons(model, "In Paris", negatives=[1])  # type: ignore[list-item]
    with pytest.raises(TracerError, match="n_ctx = 64"):
        attribute_neurons(model, "Paris " * 70)
    with pytest.raises(TracerError, match=r"write \[MASK\] once"):
        attribute_neurons(tiny("bert"), "In Paris is")


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, True, "0.2"])
def test_shares_outside_0_to_1(bad: Any, tiny: Tiny) -> None:
    made = by_hand([[1.0, 0.5]])
    model = tiny("gpt2")
    for call in (
        lambda: made.above(bad),
        lambda: made.per_layer(bad),
        lambda: refine(made, threshold=bad),
        lambda: knowledge_neurons(model, "In Paris", threshold=bad),
    ):
        with pytest.raises(TracerError, match=r"threshold is .*; expected a share of the highest score"):
            call()
    for call in (lambda: refine(made, share=bad), lambda: knowledge_neurons(model, "In Paris", share=bad)):
        with pytest.raises(TracerError, match=r"share is .*; expected a share of the prompts"):
            call()
    if bad != 1.1:
        with pytest.raises(TracerError, match="expected standard deviations"):
            by_hand([[1.0]], "activation_contrast").above(bad)


def test_attributions_that_do_not_go_together() -> None:
    made = by_hand([[1.0, 0.5]])
    for fields in ({"site": "pre"}, {"method": "activation_contrast"}, {"model": "x"}, {"fingerprint": "1"}):
        with pytest.raises(TracerError, match=f"different {next(iter(fields))} do not go together"):
            refine([made, replace(made, **fields)])
        with pytest.raises(TracerError, match="do not go together"):
            refine(made, negatives=[replace(made, **fields)])
    with pytest.raises(TracerError, match="no attributions"):
        refine([])
    with pytest.raises(TracerError, match="no NeuronAttribution"):
        refine(["In Paris"])  # type: ignore[list-item]
    with pytest.raises(TracerError, match="n is -1"):
        made.top(-1)
    with pytest.raises(TracerError, match="activations have the shape"):
        replace(made, activations=np.zeros((1, 3)))
    with pytest.raises(TracerError, match=r"expected \[1 layers, d_mlp\]"):
        replace(made, scores=np.zeros(3))


def test_models_without_such_neurons(tiny: Tiny) -> None:
    experts = variant("MixtralConfig", {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4})
    for site in ("post", "pre"):
        with pytest.raises(TracerError, match=r"MixtralForCausalLM has no site 'key'.*mixture of experts"):
            attribute_neurons(experts, "In Paris", site=site)
    with pytest.raises(TracerError, match=r"Phi3ForCausalLM has no site 'pre'.*\('post' of neurons\)"):
        attribute_neurons(tiny("phi3"), "In Paris", site="pre")


def test_gradients_that_are_no_numbers_are_refused(tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))
    with torch.no_grad():
        model.down_projection(2).weight[0, 0] = float("nan")
    with pytest.raises(TracerError, match="not numbers"):
        attribute_neurons(model, fact(model), 3)
