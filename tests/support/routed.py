"""Memories with a router on tiny models: two edits, of the first two of `asked.TEXTS`, as texts and as weights."""

from __future__ import annotations

from typing import Any

import torch
from asked import TEXTS, ids_of

from editing.memories import Memory, Router
from editing.memories.lines import packed
from editing.memories.registry import kind_named
from editing.methods.method import Change
from editing.methods.rome import ROME
from editing.methods.routed.rase import patches_of
from tracer import Model

KINDS = ("weights", "text")
ROUTERS = ("states", "string")
SUBJECTS = ("The Space Needle", "Miles Davis")
TEMPLATE = "New Fact: {fact}\nPrompt: {question}"


def router(model: Model, name: str) -> Router:
    """One on the model's own states, which lets nothing but the prompt itself pass; or the match of strings."""
    if name == "string":
        return Router("threshold", "string", {"threshold": 0.0})
    return Router("threshold", "states", {"layer": model.n_layers - 2, "threshold": 0.9999})


def lines(model: Model, texts: tuple[str, ...] = TEXTS[:2]) -> list[dict[str, Any]]:
    about = zip(texts, SUBJECTS, (" Spanish", " drums"), strict=True)
    more = {"text": "a Spanish", "front": ["a is\n", "in is\n"]}
    return [
        {"prompt": text, "ids": list(ids_of(model, text)), "target": target, "subject": subject, **more}
        for text, subject, target in about
    ]


def factors(model: Model, seed: int, ranks: tuple[int, ...]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Drawn changes of down-projections, the first so many layers, each of a rank."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for layer, rank in enumerate(ranks):
        down = model.down_projection(layer)
        rows, columns = down.weight.shape
        found[down.name] = (
            0.3 * torch.randn(rows, rank, generator=draw),
            0.3 * torch.randn(columns, rank, generator=draw),
        )
    return found


RANKS = ((1, 2), (3,))
"""Of the two edits, by layer: the second has nothing at the second layer."""


def memory(model: Model, kind: str, by: str = "states", count: int = 2) -> Memory:
    """A memory of a kind with the first so many edits."""
    own, some = router(model, by), lines(model)[:count]
    header: dict[str, Any] = {"router": own.header()}
    tensors = {"keys": own.keys(model, some), "about": packed(some), **own.stored()}
    if kind == "text":
        header |= {"template": TEMPLATE, "reserve": 2}
    else:
        changes = [Change(factors(model, seed, ranks), {}) for seed, ranks in enumerate(RANKS)]
        patches, places = patches_of(model, changes, [], ROME)
        header |= {"places": [list(each) for each in places], "widths": [[model.d_mlp, model.d_model]] * len(places)}
        tensors |= kind_named("weights").stacked(patches[:count], header)
    return Memory("routed", kind, model.weights_fingerprint(), tensors, header)
