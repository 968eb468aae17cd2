"""LTE's adapters, trained, and routers on the states of the model that has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.edits.weights import check_editable
from editing.methods.lessons import lessons_of
from editing.methods.lora import ADAPTER, LoRASettings, adapted, factors_of, projections
from editing.methods.recipe.fresh import Fresh
from editing.methods.recipe.prepare import MEASURED
from editing.methods.routed.measure import RouterPreparation, measured
from editing.prepared.course import Course, train
from editing.prepared.work import Made, Work
from tracer.errors import OutOfRange

from .settings import LTEPreparation
from .teaching import Examination, losses, pairs

if TYPE_CHECKING:
    from tracer.model import Model


def make(model: Model, settings: LTEPreparation, work: Work) -> Made:
    """Adapters of a model that obeys a fact in front of a question, or leaves it aside.

    Raises:
        TracerError: a layer or modules that the model does not have; records without paraphrases.
    """
    learnt, held_out = (lessons_of(model, each, "lte") for each in (work.records, work.held_out))
    layers = settings.layers or tuple(range(model.n_layers))
    beyond = [layer for layer in layers if layer >= model.n_layers]
    if beyond:
        raise OutOfRange(f"layer {beyond[0]} does not exist; {model.name} has {model.n_layers} layers, from 0")
    names = settings.modules or tuple(dict.fromkeys(_projections(model, layers[0])))
    paths = projections(model, layers, names)
    check_editable(model, [f"{path}.weight" for path in paths])
    first = int(torch.randint(1 << 31, (1,), generator=work.draws(-1)))
    shape = LoRASettings(rank=settings.rank, alpha=settings.alpha, seed=first)
    draw = Random(int(torch.randint(1 << 62, (1,), generator=work.draws(-2))))
    chosen = draw.sample(held_out, min(settings.checked, len(held_out)))
    examination = Examination.of(model, chosen, settings.template)
    own = {name: getattr(settings, name) for name in ("recombined", "drawn", "apart")}
    fresh = Fresh(model, learnt, **own)
    with adapted(model, shape, paths) as adapters:
        parameters: dict[str, Tensor] = {}
        for path, layer in adapters.items():
            parameters |= {f"{path}/a": layer.lora_A[ADAPTER].weight, f"{path}/b": layer.lora_B[ADAPTER].weight}

        def step(number: int) -> Mapping[str, Tensor]:
            rest = Random(int(torch.randint(1 << 62, (1,), generator=work.draws(number))))
            return losses(model, adapters, pairs(model, fresh, settings, rest))

        every = max(1, settings.steps // 6)
        course = Course(settings.steps, validate_every=every, warm_up=20, decay=True, clip=1.0)
        optimizer = torch.optim.Adam(list(parameters.values()), lr=settings.lr)
        more: dict[str, Any] = {"validate": lambda: examination.marks(model), "part": "adapters"}
        trained = train(parameters, optimizer, step, course, work.checkpoint, description="teaching LTE", **more)
        with torch.no_grad():
            for parameter in parameters.values():  # as they are kept
                parameter.copy_(parameter.half().float())
        marks = examination.marks(model)
        some = draw.sample(list(work.records), min(MEASURED, len(work.records)))
        plain = measured(model, RouterPreparation(), replace(work, records=tuple(some)))
        factors = factors_of(adapters, shape)
    tensors = dict(plain.tensors)
    for name, (u, v) in factors.items():
        tensors |= {f"u/{name}": u.half(), f"v/{name}": v.half()}
    header = {**plain.header, "template": settings.template, "weights": list(factors)}
    note = trained.ended
    if marks["rewrite"] < settings.enough:
        note = (
            f"with the fact in front the model says {marks['rewrite']:.0%} of the targets of held-out records: it has "
            "not learnt to copy; give more steps"
        )
    return Made(tensors, header, trained.history, note)


def _projections(model: Model, layer: int) -> list[str]:
    """Names of all linear maps in a block."""
    from editing.methods.lora import _linear

    block = model.hf.get_submodule(model.path("hidden", layer))
    return [name for name, module in block.named_modules() if _linear(module)]
