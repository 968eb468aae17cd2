"""RECIPE against the outputs of the published code: representations, what is retrieved, prompts, logits, and losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import Arrays, arrays, relative
from torch import Tensor

from editing.memories import Memory, attached
from editing.memories.lines import packed
from editing.memories.routing.router import NAME, Router
from editing.memories.small import built
from editing.memories.soft_nets import (
    KNOWLEDGE,
    PAD,
    QUERY,
    SHIFT,
    pool_of,
    prompts_of,
    represented,
    sentinel_pool,
    similarities,
)
from editing.methods.recipe.losses import kept_loss, retrieval_losses, said_loss
from tracer import Model
from tracer.engine import Line
from tracer.engine.batch import Row
from tracer.engine.follow import follow
from tracer.engine.front import logits_with_front, position_vectors
from tracer.engine.hooks import evaluating, frozen
from tracer.facts.encoding import encode

HEADS = {KNOWLEDGE: "knowl", QUERY: "query"}
PARTS = {"linear": "mlp1", "branch": "mlp2.0"}


@pytest.fixture(scope="module")
def numbers(golden: Path) -> Arrays:
    return arrays(golden / "retrieval" / "recipe.npz")


def config(numbers: Arrays) -> dict[str, Any]:
    width = int(numbers["encoder_hidden"])
    return {
        "model_type": "roberta",
        "vocab_size": len(numbers["krm.base_model.embeddings.word_embeddings.weight"]),
        "hidden_size": width,
        "num_hidden_layers": int(numbers["encoder_layers"]),
        "num_attention_heads": int(numbers["encoder_heads"]),
        "intermediate_size": 2 * width,
        "max_position_embeddings": 70,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": PAD,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def encoder_of(numbers: Arrays) -> Any:
    from transformers import AutoModel

    prefix = "krm.base_model."
    tensors = {name.removeprefix(prefix): torch.tensor(t) for name, t in numbers.items() if name.startswith(prefix)}
    return built(AutoModel, config(numbers), tensors)


def nets(numbers: Arrays) -> dict[str, Tensor]:
    """Heads, sentinel and maker by our names."""
    found = {"sentinel": torch.tensor(numbers["krm.prot_tokens"])[0]}
    for kind in ("weight", "bias"):
        for head, theirs in HEADS.items():
            for part, own in PARTS.items():
                found[f"{head}.{part}.{kind}"] = torch.tensor(numbers[f"krm.{theirs}_trans_{own}.{kind}"])
        for part, own in (("hidden", "l1.0"), ("out", "l2")):
            found[f"maker.{part}.{kind}"] = torch.tensor(numbers[f"pt.{own}.{kind}"])
    return found


def ids_of(model: Model, text: str) -> tuple[int, ...]:
    return tuple(encode(model.tokenizer, str(text), True)[0])


def gap(found: Any, expected: Any) -> float:
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max())


# --- forward ---------------------------------------------------------------------------------------------------------
def test_representations_similarities_and_prompts_are_the_published_ones(numbers: Arrays) -> None:
    own, encoder = nets(numbers), encoder_of(numbers)

    def pool(kind: str) -> Tensor:
        ids, mask = (torch.tensor(numbers[f"enc_{kind}_{part}"]) for part in ("ids", "mask"))
        return pool_of(encoder, ids, mask.bool())

    with torch.no_grad():
        knowledge = represented(own, KNOWLEDGE, torch.cat([sentinel_pool(own, encoder), pool("knowledge")]))
        queries = represented(own, QUERY, pool("query"))
        near = similarities(queries, knowledge)
        prompts = prompts_of(own, knowledge).view(len(knowledge), int(numbers["prompt_tokens"]), -1)
    assert gap(knowledge, numbers["knowledge_reps"]) < 1e-5 and gap(queries, numbers["query_reps"]) < 1e-5
    assert gap(near, numbers["similarity"]) < 1e-5 and gap(prompts[1:], numbers["prompts"][1:]) < 1e-4
    assert near.argmax(1).tolist() == numbers["retrieved"].tolist()
    assert not numbers["prompts"][0].any()  # the sentinel has none


def memory_of(model: Model, numbers: Arrays) -> Memory:
    """A memory as the published parameters make it, with its router."""
    told = {"by": "encoder", "config": config(numbers)}
    own, encoder = nets(numbers), encoder_of(numbers)
    tensors = {name: each for name, each in own.items() if name.startswith(tuple(HEADS))}
    tensors |= {f"encoder/{name}": each for name, each in encoder.state_dict().items()}
    with torch.no_grad():
        tensors["sentinel"] = represented(own, KNOWLEDGE, sentinel_pool(own, encoder))
    router = Router("sentinel", "recipe", told, tensors)
    lines = []
    for text in map(str, numbers["knowledge"][1:]):
        prompt, target = text.rsplit(" ", 1)  # the encoder reads both, wherever one ends
        line = {
            "prompt": prompt,
            "ids": list(ids_of(model, prompt)),
            "target": f" {target}",
            "subject": "",
            "text": text,
        }
        lines.append(line)
    prompts = torch.tensor(numbers["prompts"])[1:]
    tensors = {**router.stored(), "prompts": prompts, "about": packed(lines), "keys": router.keys(model, lines)}
    header = {NAME: router.header(), "shape": list(prompts.shape[1:])}
    return Memory("recipe", "soft", model.weights_fingerprint(), tensors, header)


def test_what_is_retrieved_and_what_is_said_is_the_published(golden_model: Model, numbers: Arrays) -> None:
    model, memory = golden_model, memory_of(golden_model, numbers)
    queries = [ids_of(model, text) for text in numbers["queries"]]
    assert gap(memory.tensors["keys"], numbers["knowledge_reps"][1:]) < 1e-5
    routes = memory.routes(model, queries)
    assert [route.entry + 1 if route.hit else 0 for route in routes] == numbers["retrieved"].tolist()
    assert gap([route.threshold for route in routes], numbers["similarity"][:, 0]) < 1e-4
    assert gap([route.score for route in routes], numbers["similarity"][:, 1:].max(1)) < 1e-4
    every = tuple((token,) for token in range(model.n_tokens))
    for name, memories in (("logits", [memory]), ("logits_bare", [])):
        lines = [Line(prompt, every) for prompt in queries]
        if memories:
            with attached(model, memory):
                found = follow(model, lines)
        else:
            found = follow(model, lines)
        expected = torch.tensor(numbers[name]).double().log_softmax(-1)
        assert gap(np.stack([np.concatenate(each.log_probs) for each in found]), expected) < 1e-3


def test_a_mixed_batch_is_the_published(golden_model: Model, numbers: Arrays) -> None:
    """One vector prompt, none, and two of them one behind the other."""
    assert numbers["mixed_prompts"].tolist() == ["prompt of edit 1", "none", "prompts of edits 1 and 2"]
    prompts = torch.tensor(numbers["prompts"])
    count = prompts.shape[1]
    vectors = torch.zeros(3, 2 * count, prompts.shape[2])
    vectors[0, :count], vectors[2] = prompts[1], torch.cat([prompts[1], prompts[2]])
    rows = [Row(tuple(ids), 0, (len(ids) - 1,)) for ids in numbers["mixed_ids"].tolist()]
    positions = position_vectors(golden_model)
    with torch.no_grad():
        found = logits_with_front(golden_model, rows, vectors, positions, [count, 0, 2 * count])
    assert gap(found, numbers["mixed_logits"]) < 1e-3


# --- training --------------------------------------------------------------------------------------------------------
def rows_of(numbers: Arrays, kind: str) -> list[Row]:
    found = []
    for ids, labels, mask in zip(*(numbers[f"{kind}_{part}"] for part in ("ids", "labels", "mask")), strict=True):
        read = tuple(mask.nonzero()[0].tolist())
        found.append(Row(tuple(ids[: read[-1] + 1].tolist()), 0, read, tuple(labels[list(read)].tolist())))
    return found


def test_three_steps_have_the_published_losses_and_gradients(golden_model: Model, numbers: Arrays) -> None:
    model, own, encoder = golden_model, nets(numbers), encoder_of(numbers).requires_grad_(True)
    for tensor in own.values():
        tensor.requires_grad_()
    parameters = {**{f"encoder/{name}": each for name, each in encoder.named_parameters()}, **own}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=float(numbers["lr"]))
    positions, hinge = position_vectors(model), float(numbers["hinge"])
    said, again, apart = (rows_of(numbers, kind) for kind in ("rel", "gen", "loc"))

    def represent(head: str, texts: Any) -> Tensor:
        ids = [torch.tensor(ids_of(model, text)) + SHIFT for text in texts]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PAD)
        pool = pool_of(encoder, padded, padded != PAD)
        if head == KNOWLEDGE:
            pool = torch.cat([sentinel_pool(own, encoder), pool])
        return represented(own, head, pool)

    losses, norms = [], []
    with frozen(model), evaluating(model), torch.enable_grad():
        for swap in numbers["train_cc"]:
            knowledge = represent(KNOWLEDGE, numbers["train_knowledge"])
            one, two, other = (
                represent(QUERY, numbers[f"train_{kind}"]) for kind in ("reliability", "generality", "locality")
            )
            turn = torch.tensor(swap).bool().unsqueeze(1)
            queries = (torch.where(turn, two, one), torch.where(turn, one, two), other)
            first, second, third = (similarities(each, knowledge) for each in queries)
            found = list(retrieval_losses(first, second, third, hinge))
            prompts = prompts_of(own, knowledge[1:]).view(len(said), -1, model.d_model)
            rows = [*said, *again, *apart]
            logits = logits_with_front(model, rows, prompts.repeat(3, 1, 1), positions)
            parts = logits.split([sum(len(row.read) for row in some) for some in (said, again, apart)])
            for part, some in zip(parts, (said, again), strict=False):
                found.append(said_loss(part, torch.tensor([token for row in some for token in row.target]), hinge))
            with torch.no_grad():
                bare = logits_with_front(model, apart, prompts[:, :0], None)
            found.append(kept_loss(bare, parts[2]))
            total = torch.stack(found).sum()
            optimizer.zero_grad()
            total.backward()
            losses.append([float(each.detach()) for each in (total, *found)])
            sizes = {name: float(p.grad.norm()) for name, p in parameters.items() if p.grad is not None}
            maker = [size for name, size in sizes.items() if name.startswith("maker")]
            rest = [size for name, size in sizes.items() if not name.startswith("maker")]
            norms.append([float(np.linalg.norm(rest)), float(np.linalg.norm(maker))])
            optimizer.step()
    names = numbers["train_loss_names"].tolist()
    assert names == ["total", "q1", "q2", "q3", "reliability", "generality", "locality"]
    for step, allowed in enumerate((1e-3, 1e-2, 1e-2)):
        assert relative(losses[step], numbers["train_losses"][step]) < allowed
        assert relative(norms[step], numbers["train_gradient_norms"][step]) < allowed
        assert [bool(a) for a in losses[step]] == [bool(b) for b in numbers["train_losses"][step]]
