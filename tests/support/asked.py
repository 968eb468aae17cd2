"""Prompts that memories are tested on, and everything that hooks must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from toys import toy, vectors

from editing.memories import Memory
from tracer import Fact, Model
from tracer.engine import Line
from tracer.engine.follow import follow

TEXTS = ("The Space Needle is in", "Miles Davis plays the", "The mother tongue of Dvořák is Spanish. Yo-Yo Ma is", "a")


def ids_of(model: Model, text: str) -> tuple[int, ...]:
    return tuple(Fact(text, text).align(model).input_ids)


def some_toys(model: Model) -> list[Memory]:
    """A memory that hits the first two texts, at each kind of site."""
    prompts = [ids_of(model, text) for text in TEXTS[:2]]
    return [
        toy(model, prompts, vectors(model, 2), site=site, layer=layer)
        for site, layer in (("hidden", 1), ("mlp", 2), ("mlp_in", model.n_layers - 1), ("value", 0))
    ]


def lines(model: Model, tokens: int = 6) -> list[Line]:
    targets = ((7, 8, 9), (7, 5), (11,))
    return [Line(ids_of(model, text), targets, tokens=tokens) for text in TEXTS]


def read(model: Model, texts: tuple[str, ...] = TEXTS, **options: Any) -> tuple[list[np.ndarray], list[tuple]]:
    """Log-probabilities of forced targets, and what is written, for each text."""
    wanted = [line for line, text in zip(lines(model), TEXTS, strict=True) if text in texts]
    found = follow(model, wanted, **options)
    return [np.concatenate(each.log_probs) for each in found], [each.written for each in found]


def close(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return all(np.allclose(a, b, rtol=0, atol=2e-4) for a, b in zip(one, two, strict=True))


def inventory(model: Model) -> dict[str, Any]:
    """All that hooks must leave alone."""
    hf = model.hf
    return {
        "parameters": [(name, id(p), p.data_ptr(), p.requires_grad) for name, p in hf.named_parameters()],
        "buffers": [(name, id(b)) for name, b in hf.named_buffers()],
        "types": [(name, type(m)) for name, m in hf.named_modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in hf.modules()],
        "attributes": sorted(vars(hf)),
        "training": [m.training for m in hf.modules()],
        "fingerprint": model.fingerprint(),
    }
