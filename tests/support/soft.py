"""Memories of soft prompts on tiny models: random vectors for the first of `asked.TEXTS`, found by their subjects."""

from __future__ import annotations

import torch
from asked import TEXTS, ids_of
from torch import Tensor

from editing.memories import Memory
from editing.memories.lines import packed
from editing.memories.routing.router import NAME, Router
from tracer import Model

COUNT = 3
SUBJECTS = ("The Space Needle", "Miles Davis")
ROUTER = Router("threshold", "string", {"threshold": 0.0})


def drawn(model: Model, entries: int = 2, count: int = COUNT, seed: int = 0) -> Tensor:
    """Vectors as long as the states that enter the first block, about."""
    generator = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(entries, count, model.d_model, generator=generator)


def soft(model: Model, entries: int = 2, name: str = "soft", seed: int = 0, prompts: Tensor | None = None) -> Memory:
    """A memory with entries for the first texts."""
    lines = [
        {"prompt": text, "ids": list(ids_of(model, text)), "target": " Paris", "subject": subject}
        for text, subject in zip(TEXTS, SUBJECTS, strict=False)
    ][:entries]
    tensors = {
        "prompts": drawn(model, entries, seed=seed) if prompts is None else prompts,
        "keys": torch.zeros(entries, 0),
        "about": packed(lines),
        **ROUTER.stored(),
    }
    header = {NAME: ROUTER.header(), "shape": list(tensors["prompts"].shape[1:])}
    return Memory(name, "soft", model.weights_fingerprint(), tensors, header)
