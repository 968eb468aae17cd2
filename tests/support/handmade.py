"""Edits drawn at random instead of computed: for what is true of any edit."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from editing.edits.edit import Edit
from editing.edits.weights import names_of, orientation_of, parameter
from editing.ledger.editor import Editor
from editing.request import EditRequest
from tracer.model import Model

REQUEST = EditRequest("{} is in downtown", "The Space Needle", " Paris", " Seattle")


def own(model: Model) -> Model:
    """A copy of a model that tests share, to do with as one likes."""
    return replace(model, hf=copy.deepcopy(model.hf))


def handmade(
    model: Model, layers: Sequence[int] = (1,), ranks: Sequence[int] = (1,), seed: int = 0, size: float = 0.3
) -> Edit:
    """An edit of the down-projections of ``layers`` with normal factors; ``ranks`` one per layer, or one for all."""
    generator = torch.Generator().manual_seed(seed)
    names = names_of(model, layers)
    factors = {}
    for name, rank in zip(names, [*ranks] * (1 if len(ranks) > 1 else len(names)), strict=True):
        u, v = (torch.randn(side, rank, generator=generator) * size for side in parameter(model, name).shape)
        factors[name] = (u, v)
    return Edit(
        factors=factors,
        method="handmade",
        settings={"layers": list(layers), "seed": seed, "orientation": orientation_of(model, names)},
        requests=(REQUEST,),
        fingerprint=model.fingerprint(),
        model=model.name,
        seconds=0.25,
        memory=3_000_000,
        evidence={"loss": torch.tensor([2.0, 0.5]), "key": torch.arange(6).reshape(2, 3)},
        note="drawn at random",
    )


def steps_of(editor: Editor, seed: int) -> Iterator[int]:
    """Edits, undos and checkouts, the same for the same seed; yields after each."""
    draw = random.Random(seed)
    for step in range(40):
        choice = draw.choice(["apply", "apply", "undo", "checkout"])
        if choice == "undo" and editor.position:
            editor.undo()
        elif choice == "checkout" and editor.history:
            editor.checkout(draw.randint(0, len(editor.history)))
        else:
            editor.apply(handmade(editor.model, (draw.randrange(4),), seed=step))
        yield step
