"""SERAC against the outputs of the published code: formulas, contexts, vectors, decisions and logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import Arrays, arrays

import editing
from editing.memories import Memory, attached
from editing.memories.scope import context_of, encoded, vectors_of
from editing.memories.serac import Serac
from editing.memories.similarity import balanced_bce, log_similarities, mixed
from editing.memories.small import Parts, answering_of
from tracer import Model
from tracer.engine import Line
from tracer.engine.follow import follow
from tracer.engine.memories import asked, decided
from tracer.facts.encoding import encode

PUBLISHED = {"known_by": "words", "join": " "}


@pytest.fixture(scope="module")
def numbers(golden: Path) -> Arrays:
    return arrays(golden / "memory" / "serac.npz")


@pytest.fixture(scope="module")
def prepared(golden: Path, golden_model: Model) -> editing.Prepared:
    folders = {name: str(golden / "memory" / f"serac_{name}") for name in ("classifier", "counterfactual")}
    records = [
        {"prompt": "{} works as a", "subject": name, "target_new": "poet", "rephrase_prompt": f"The work of {name} is"}
        for name in ("Cudran Lipai", "Pelcha Peavel")
    ]
    more: dict[str, Any] = {"classifier": folders["classifier"], "answers": folders["counterfactual"]}
    return editing.prepare(golden_model, "serac", records, cache=False, **more)


def edited(model: Model, numbers: Arrays, prepared: editing.Prepared, **settings: Any) -> Memory:
    """The memory of the golden edits, made one after the other."""
    editor = editing.Editor(model, prepared=prepared)
    try:
        for prompt, target in zip(numbers["edit_prompts"], numbers["edit_targets"], strict=True):
            subject = " ".join(str(prompt).split(" ")[:2])
            request = editing.EditRequest(str(prompt).replace(subject, "{}"), subject, str(target))
            editor.edit(request, "serac", known="edit", check=None, **{**PUBLISHED, **settings})
        (memory,) = model.memories
        assert isinstance(memory, Memory)
        return memory
    finally:
        editor.reset()


@pytest.fixture(scope="module")
def hard(golden_model: Model, numbers: Arrays, prepared: editing.Prepared) -> Iterator[Memory]:
    yield edited(golden_model, numbers, prepared)


def ids_of(model: Model, text: str) -> tuple[int, ...]:
    return tuple(encode(model.tokenizer, str(text), True)[0])


def close(found: Any, expected: Any, allowed: float = 1e-5) -> bool:
    expected = np.asarray(expected)
    size = max(1.0, float(np.abs(expected).max()))  # another processor rounds otherwise
    return bool(np.abs(np.asarray(found) - expected).max() <= allowed * size)


# --- the formulas ----------------------------------------------------------------------------------------------------
def test_similarities_and_losses_are_the_published_ones(golden: Path) -> None:
    given = arrays(golden / "memory" / "serac_formulas.npz")
    vectors = torch.tensor(given["query_embeddings"]), torch.tensor(given["context_embeddings"])
    rules: dict[str, dict[str, Any]] = {
        "squared": {},
        "plain": {"rule": "plain"},
        "cosine": {"rule": "cosine"},
        "heads": {"heads": 3},
        "bounded": {"bounded": True},
        "cosine_heads": {"rule": "cosine", "heads": 4},
    }
    for name, rule in rules.items():
        found = log_similarities(*vectors, scale=float(given["scale"]), **rule)
        assert close(found, given[f"log_similarity_{name}"]), name
    logs, labels = torch.tensor(given["bce_log_similarity"]), torch.tensor(given["bce_labels"]).bool()
    assert float(balanced_bce(logs, labels)) == pytest.approx(float(given["balanced_bce"]), abs=1e-5)
    assert float(balanced_bce(logs[~labels], labels[~labels])) == pytest.approx(
        float(given["balanced_bce_only_negative"]), abs=1e-5
    )


# --- the two models --------------------------------------------------------------------------------------------------
def test_edits_and_questions_have_the_published_vectors(golden_model: Model, numbers: Arrays, hard: Memory) -> None:
    scope, parts = hard.header["scope"], Parts.of(hard)
    separator = str(golden_model.tokenizer.eos_token)
    pairs = zip(numbers["edit_prompts"], numbers["edit_targets"], strict=True)
    contexts = [context_of(scope, separator, str(prompt), str(target)) for prompt, target in pairs]
    assert contexts == numbers["classifier_contexts"].tolist()
    found = torch.cat([encoded(parts, scope, golden_model, context) for context in contexts])
    assert close(found, numbers["context_embeddings"]) and close(hard.tensors["keys"], numbers["context_embeddings"])
    prompts = [ids_of(golden_model, text) for text in numbers["query_prompts"]]
    vectors = vectors_of(parts, scope, golden_model, prompts)
    assert close(vectors, numbers["query_embeddings"])
    assert close(log_similarities(vectors, hard.tensors["keys"]), numbers["log_similarity"], 1e-3)


def test_decisions_texts_and_answers_are_the_published_ones(golden_model: Model, numbers: Arrays, hard: Memory) -> None:
    model = golden_model
    prompts = [ids_of(model, text) for text in numbers["query_prompts"]]
    routes = hard.routes(model, prompts)
    assert [route.hit for route in routes] == numbers["hit"].tolist()
    assert [route.entry for route in routes] == numbers["index"].tolist()
    assert close([route.score for route in routes], numbers["similarity"])
    bare = [line.log_probs[0] for line in follow(model, [Line(prompt, ((7,),)) for prompt in prompts])]
    with attached(model, hard):
        questions, _ = asked(model, prompts)
        written = [line.written for line in follow(model, [Line(prompt, tokens=3) for prompt in prompts])]
        every = tuple((token,) for token in range(model.n_tokens))
        read = follow(model, [Line(prompt, every) for prompt in prompts])
    for row, route in enumerate(routes):
        if route.hit:
            expected = [token for token in numbers["counterfactual_input_ids"][row].tolist() if token >= 0]
            assert list(questions[row].ids) == expected
        else:
            np.testing.assert_allclose(read[row].log_probs[7], bare[row], rtol=1e-6)  # run beside other rows
        logits = torch.tensor(numbers["logits_hard"][row]).double().log_softmax(-1)
        assert close(np.concatenate(read[row].log_probs), logits.numpy())
        stated = numbers["generated"][row].tolist()
        assert list(written[row]) == stated[: len(written[row])]  # a text ends before its end token
        assert stated[len(written[row]) :][:1] in ([], [model.tokenizer.eos_token_id])


def test_the_soft_answer_is_the_published_mixture(
    golden_model: Model, numbers: Arrays, prepared: editing.Prepared
) -> None:
    model, soft = golden_model, edited(golden_model, numbers, prepared, output="soft")
    base, other = (torch.tensor(numbers[f"logits_{name}"]) for name in ("base", "counterfactual"))
    for row, score in enumerate(numbers["similarity"].tolist()):
        assert close(mixed(base[row], other[row], score), numbers["logits_soft"][row])
    prompts = [ids_of(model, text) for text in numbers["query_prompts"]]
    with attached(model, soft):
        assert all(route.hit for route in soft.routes(model, prompts))
        every = tuple((token,) for token in range(model.n_tokens))
        read = follow(model, [Line(prompt, every) for prompt in prompts])
    for row in range(len(prompts)):
        logits = torch.tensor(numbers["logits_soft"][row]).double().log_softmax(-1)
        assert close(np.concatenate(read[row].log_probs), logits.numpy())
    assert not model.memories


def test_an_empty_memory_is_the_model_itself(golden_model: Model, numbers: Arrays, hard: Memory) -> None:
    tensors = {**hard.tensors, "keys": hard.tensors["keys"][:0], "entries": hard.tensors["entries"][:0]}
    empty = Memory("serac", "serac", hard.fingerprint, tensors, hard.header)
    ids = torch.tensor([ids_of(golden_model, numbers["query_prompts"][0])])
    with torch.no_grad():
        bare = golden_model.hf(ids).logits
        with attached(golden_model, empty):
            assert torch.equal(golden_model.hf(ids).logits, bare)
            assert float(numbers["empty_memory_max_difference"]) == 0.0
            frame = decided(golden_model, [tuple(ids[0].tolist())])
    assert frame is not None and frame.decided["serac"] == (None,)
    assert answering_of(Parts.of(empty), {"by": "self"}, golden_model) is None
    assert Serac.rewrites
