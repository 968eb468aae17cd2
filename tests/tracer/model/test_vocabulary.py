"""A tokenizer with more tokens than the model has rows for: told at load, refused in a line where it matters."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import editing
from editing.health.drift import perplexity
from tracer import Fact, GaussianNoise, TracerError, TracerNote, attribute_neurons, causal_trace, generate
from tracer.engine.answer import own_answer
from tracer.engine.hooks import Site, capture
from tracer.model import Model, load


@pytest.fixture
def larger(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint whose tokenizer had two tokens added."""
    folder = tmp_path / "larger"
    shutil.copytree(tiny_folder("gpt2"), folder)
    tokenizer = load(folder).tokenizer
    tokenizer.add_tokens(["Lutetia", "Zyx"])
    tokenizer.save_pretrained(folder)
    return folder


def test_a_tokenizer_larger_than_the_embedding_is_told_at_load(larger: Path) -> None:
    with pytest.warns(TracerNote, match=r"has 2 tokens \('Lutetia', 'Zyx'\) that the model has no row for"):
        model = load(larger)
    with pytest.warns(TracerNote, match="has no row for"):
        Model.of(model.hf, model.tokenizer)
    with torch.no_grad():
        assert own_answer(model, Fact("{} is in", "The Space Needle"))  # other texts run as ever


@pytest.mark.parametrize(
    "work",
    [
        lambda model: Fact("{} is in", "Lutetia").align(model),
        lambda model: Fact("{} is in", "Paris", "Lutetia").align(model),
        lambda model: causal_trace(model, Fact("{} is in", "Lutetia")),
        lambda model: attribute_neurons(model, Fact("{} is in", "Paris", "Lutetia")),
        lambda model: capture(model, "Lutetia is in", [Site("hidden", 1)]),
        lambda model: generate(model, ["Lutetia is in"]),
        lambda model: GaussianNoise(subjects=("Paris", "Lutetia")).level_for(model),
        lambda model: editing.Editor(model).edit([editing.EditRequest("{} is in", "Paris", "Lutetia")], "ft_l"),
        lambda model: editing.Editor(model).edit([editing.EditRequest("{} is in", "Lutetia", "the")], "rome"),
        lambda model: editing.estimate_covariance(model, [1], ["Lutetia is in the heart of Paris. " * 20], cache=False),
        lambda model: perplexity(model, ["Lutetia is in the heart of Paris. " * 20]),
    ],
    ids=lambda work: "",
)
def test_a_text_with_a_token_that_has_no_row_is_refused_in_a_line(work: Callable[[Model], Any], larger: Path) -> None:
    with pytest.warns(TracerNote):
        model = load(larger)
    rows = model.module("embed").weight.shape[0]  # type: ignore[union-attr,index]
    with pytest.raises(
        TracerError, match=f"token 'Lutetia' has the id {rows}, and .* has rows for {rows} tokens"
    ) as found:
        work(model)
    assert "\n" not in str(found.value)
