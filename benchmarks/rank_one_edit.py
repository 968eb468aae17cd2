"""Can the embedded model be edited? A plain rank-one edit (Meng et al. 2022, section 3) at each layer of the band.

Prints, per layer, over edit records of the validation split, one edit at a time: how often the new object becomes more
probable than the true one for the rewrite and for held-out paraphrases, how often it does not for neighbours, and
how many of the subject's other facts are still answered exactly. Layers outside the band are there for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

import tracer
from tracer.engine.hooks import Add, Site, capture, intervene
from tracer.factworld import plain, records, training_text
from tracer.factworld.recipe.evaluate import decodes_exactly
from tracer.progress import track


def padded(
    model: tracer.Model, texts: Sequence[str], targets: Sequence[str]
) -> tuple[Tensor, list[tuple[int, list[int]]]]:
    """Right-padded ids [rows, tokens] of text + target, and for each row where its target starts and the target's
    ids."""
    rows = [(model.tokenizer(a).input_ids, model.tokenizer(b).input_ids) for a, b in zip(texts, targets, strict=True)]
    ids = torch.zeros(len(rows), max(len(a) + len(b) for a, b in rows), dtype=torch.long)
    for row, (head, tail) in zip(ids, rows, strict=True):
        row[: len(head) + len(tail)] = torch.tensor(head + tail)
    return ids, [(len(head), tail) for head, tail in rows]


def log_likelihood(model: tracer.Model, texts: Sequence[str], targets: Sequence[str]) -> Tensor:
    """Mean log-probability per target token, [rows]."""
    ids, places = padded(model, texts, targets)
    logp = model.hf(ids).logits.log_softmax(-1)
    return torch.stack(
        [
            logp[i, start - 1 : start - 1 + len(t)].gather(-1, torch.tensor(t)[:, None]).mean()
            for i, (start, t) in enumerate(places)
        ]
    )


def second_moment(model: tracer.Model, layer: int, articles: int = 3000) -> Tensor:
    """E[k kᵀ] over keys of text like the model was trained on, [d_mlp, d_mlp]."""
    total, count = torch.zeros(model.d_mlp, model.d_mlp), 0
    ids = model.tokenizer(training_text(articles, seed=77)).input_ids
    for start in range(0, len(ids) - 128, 128):
        site = Site("key", layer)
        keys = capture(model, ids[start : start + 128], [site])[site][0]
        total += keys.T @ keys
        count += len(keys)
    return total / count


def rank_one(
    model: tracer.Model, fact: tracer.Fact, target: str, layer: int, moment: Tensor, contexts: Sequence[str],
    steps: int = 40, rate: float = 0.5, decay: float = 0.02, kl_factor: float = 0.0625, clamp: float = 8.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """u [d_mlp] and v [d_model] of W' = W + u vᵀ that makes ``target`` follow the fact's prompt."""
    facts = [tracer.Fact(context + fact.prompt, fact.subject) for context in contexts]
    essence = tracer.Fact("{} is a", fact.subject)
    where = torch.tensor([f.align(model).subject_range[1] - 1 for f in (*facts, essence)])
    ids, places = padded(model, [f.text for f in (*facts, essence)], [target] * len(facts) + [""])
    rows = torch.arange(len(ids))
    key, value = Site("key", layer), Site("mlp", layer)
    with torch.no_grad():
        found = capture(model, ids, [key, value])
        k, start = found[key][rows, where], found[value][0, where[0]]
        before = model.hf(ids).logits[-1, where[-1]].log_softmax(-1)
    u = torch.linalg.solve(moment, k[:-1].mean(0))
    u = u / u.norm()
    delta = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=rate)
    mask = torch.zeros(*ids.shape, 1).index_put((rows, where), torch.ones(1))
    for step in range(steps):
        with intervene(model, [Add(value, mask * delta)]):
            logp = model.hf(ids).logits.log_softmax(-1)
        likelihood = torch.stack(
            [
                logp[i, a - 1 : a - 1 + len(t)].gather(-1, torch.tensor(t)[:, None]).mean()
                for i, (a, t) in enumerate(places[:-1])
            ]
        )
        drift = F.kl_div(before, logp[-1, where[-1]], log_target=True, reduction="sum")
        loss = -likelihood.mean() + kl_factor * drift + decay * delta.norm() / start.norm() ** 2
        if loss < 5e-2 or step == steps - 1:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            delta *= min(1.0, float(clamp * start.norm() / delta.norm()))
    return u, delta.detach() / (k[0] @ u)


def main(
    count: Annotated[int, typer.Option(help="records")] = 50,
    layers: Annotated[str, typer.Option(help="layers, with commas between")] = "1,2,3,4,5",
    model_name: Annotated[str | None, typer.Option("--model", help="a FactWorld checkpoint folder")] = None,
) -> None:
    torch.set_num_threads(1)
    model = tracer.load(model_name)
    for parameter in model.hf.parameters():
        parameter.requires_grad_(False)
    rng = Random(0)
    contexts = ["", *(plain.sentence(rng) + " " for _ in range(10))]
    chosen = rng.sample(records("validation"), count)
    typer.echo("layer  rewrite  paraphrase  neighbours (before)  other facts (before)")
    for layer in map(int, layers.split(",")):
        moment = second_moment(model, layer)
        weight = model.down_projection(layer).weight
        scores: dict[str, list[bool]] = {
            name: [] for name in ("rewrite", "paraphrase", "near", "near0", "same", "same0")
        }
        for record in track(chosen, f"layer {layer}"):
            rewrite = record["requested_rewrite"]
            fact = tracer.Fact(rewrite["prompt"], rewrite["subject"])
            true, new = f" {rewrite['target_true']['str']}", f" {rewrite['target_new']['str']}"
            others = [(other["prompt"], other["target"]) for other in record["same_subject_prompts"]]

            def prefers_new(texts: list[str], true: str = true, new: str = new) -> list[bool]:
                with torch.no_grad():
                    a, b = (log_likelihood(model, texts, [t] * len(texts)) for t in (new, true))
                return (a > b).tolist() if texts else []

            def near(record: dict = record) -> list[bool]:
                texts = record["neighborhood_prompts"]
                return [not x for x in prefers_new(texts)] if texts else []

            scores["near0"] += near()
            scores["same0"] += decodes_exactly(model, others)
            u, v = rank_one(model, fact, new, layer, moment, contexts)
            kept = weight.detach().clone()
            with torch.no_grad():
                weight += torch.outer(u, v)
            scores["rewrite"] += prefers_new([fact.text])
            scores["paraphrase"] += prefers_new(record["paraphrase_prompts"])
            scores["near"] += near()
            scores["same"] += decodes_exactly(model, others)
            with torch.no_grad():
                weight.copy_(kept)
        share = {name: sum(values) / max(1, len(values)) for name, values in scores.items()}
        typer.echo(
            f"{layer:5}  {share['rewrite']:7.3f}  {share['paraphrase']:10.3f}  "
            f"{share['near']:10.3f} ({share['near0']:.3f})  {share['same']:11.3f} ({share['same0']:.3f})"
        )


if __name__ == "__main__":
    typer.run(main)
