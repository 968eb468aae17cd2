"""WISE against the outputs of the published code: the rows, the training of the copy, and the routes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import Arrays, arrays

from editing.memories import Memory, attached
from editing.memories.lines import packed
from editing.methods.wise.published import Learnt, learn, lesson_of
from editing.methods.wise.settings import WISESettings
from tracer import Model, load
from tracer.engine.hooks import frozen
from tracer.facts.encoding import encode


@pytest.fixture(scope="module")
def numbers(golden: Path) -> Arrays:
    return arrays(golden / "memory" / "wise.npz")


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    found = load(golden / "model")
    found.hf.set_attn_implementation("eager")  # as published: what padding reads counts in its distances
    return found


@pytest.fixture(scope="module")
def settings(numbers: Arrays) -> WISESettings:
    names = {"steps": "n_iter", "threshold": "act_ratio"}
    names |= {name: name for name in ("lr", "alpha", "beta", "gamma", "norm_constraint", "weight_decay")}
    given = {name: numbers[key].item() for name, key in names.items()}
    templates = tuple(map(str, numbers["templates"]))
    return WISESettings(rule="published", site="up", layers=(4,), templates=templates, **given)


@pytest.fixture(scope="module")
def learnt(numbers: Arrays, model: Model, settings: WISESettings) -> list[Learnt]:
    """The copy after each of the two edits."""
    mask = torch.tensor(np.unpackbits(numbers["mask"])[: 192 * 768].reshape(192, 768)).float()
    delta, distance, found = torch.zeros(192, 768), float("inf"), []
    with frozen(model):
        for i in (1, 2):
            prompt, target, other = (str(numbers[n][i - 1]) for n in ("edit_prompts", "edit_targets", "irrelevant"))
            lesson = lesson_of(model, prompt, target, settings.templates, other)
            for name, rows in (("input_ids", lesson.ids), ("attention_mask", lesson.real), ("labels", lesson.labels)):
                assert np.array_equal(rows.numpy(), numbers[f"{name}_{i}"]), name
            found.append(learn(model, 4, lesson, delta, mask, settings, distance))
            delta, distance = found[-1].delta, found[-1].distance
    return found


def test_the_copy_is_trained_as_published(numbers: Arrays, learnt: list[Learnt]) -> None:
    """The rule step by step, until rounding moves a margin over zero.

    Margins are means of what is above zero and jump then, sooner or later by the processor; the second edit begins with
    what the first one became.
    """
    for i, found in enumerate(learnt, 1):
        near = (1, 10)[i - 1]
        gaps = np.abs(found.curve.numpy() - numbers[f"curve_{i}"])  # total, targets, margins
        assert gaps[:, 1].max() < 2e-3 * near and gaps.max() < 0.1 * near
        assert i == 2 or gaps[:10].max() < 5e-3
        assert found.distance == pytest.approx(float(numbers[f"min_distance_{i}"]), rel=1e-3 * near)
        assert float(found.delta.norm()) == pytest.approx(float(numbers[f"delta_norm_{i}"]), rel=1e-3 * near)
        rows, expected = found.delta[:8].numpy(), numbers[f"delta_rows_{i}"]
        assert np.linalg.norm(rows - expected) / np.linalg.norm(expected) < 2e-2 * near


def test_routes_and_answers_are_the_published_ones(
    numbers: Arrays, model: Model, learnt: list[Learnt], settings: WISESettings
) -> None:
    header = {"rule": "published", "layer": 4, "site": "up", "threshold": settings.threshold}
    tensors = {"delta": learnt[-1].delta.unsqueeze(0), "distances": torch.tensor([learnt[-1].distance])}
    tensors["entries"] = packed([{"prompt": "both"}])
    memory = Memory("wise", "wise", model.weights_fingerprint(), tensors, header)
    prompts = [tuple(encode(model.tokenizer, str(text), True)[0]) for text in numbers["query_prompts"]]
    routes = memory.routes(model, prompts)
    assert [route.hit for route in routes] == numbers["side"].tolist()
    assert np.allclose([route.score for route in routes], numbers["distance"], rtol=2e-2)
    assert routes[0].threshold == pytest.approx(float(numbers["threshold"]), rel=1e-2)
    with attached(model, memory), torch.no_grad():
        for prompt, side, expected in zip(prompts, numbers["side"], numbers["logits"], strict=True):
            logits = model.hf(torch.tensor([prompt])).logits[0, -1].numpy()
            assert np.abs(logits - expected).max() < (0.5 if side else 1e-4)
