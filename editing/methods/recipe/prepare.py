"""RECIPE's nets, trained, and the routers that can stand in their place."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.routing.router import NAME, Router
from editing.memories.soft_nets import MAKER, SENTINEL, represented, sentinel_pool
from editing.methods.lessons import lessons_of
from editing.methods.meta.episodes import line_of
from editing.methods.routed.measure import RouterPreparation, measured
from editing.prepared.work import Made, Work
from tracer.errors import OutOfRange

from .fresh import text_ids
from .learner import Learner
from .measured import Examination
from .nets import told_of
from .settings import RECIPEPreparation
from .teaching import teach

if TYPE_CHECKING:
    from tracer.model import Model

RULE, FEATURES, FIXED = "sentinel", "recipe", "fixed"
USUAL = 200  # records whose texts tell how pooled states are spread
MEASURED = 300  # records that the routers without training are measured on
FALSE_ALARMS = 0.05  # of the fixed threshold, on questions about unedited facts


def make(model: Model, settings: RECIPEPreparation, work: Work) -> Made:
    """Heads, sentinel and maker, and how well they do on held-out records.

    Raises:
        TracerError: a layer that the model does not have; records without paraphrases.
    """
    learnt, held_out = (lessons_of(model, each, "recipe") for each in (work.records, work.held_out))
    told = told_of(model, settings)
    beyond = [layer for layer in told["layers"] or () if layer >= model.n_layers]
    if beyond:
        raise OutOfRange(f"layer {beyond[0]} does not exist; {model.name} has {model.n_layers} layers, from 0")
    draw = Random(int(torch.randint(1 << 62, (1,), generator=work.draws(-2))))
    some = draw.sample(learnt, min(USUAL, len(learnt)))
    usual = [
        ids for lesson in some for ids in (text_ids(model, lesson), line_of(model, lesson.request.fact).prompt(True))
    ]
    learner = Learner(model, settings, told, work.draws(-1), usual)
    chosen = draw.sample(held_out, min(settings.checked, len(held_out)))
    trained = teach(learner, learnt, chosen, work)
    with torch.no_grad():
        pool = sentinel_pool(learner.parameters, learner.encoder)
        own: dict[str, Tensor] = {"sentinel": represented(learner.parameters, "knowledge", pool)}
        learner.fold()
        kept = {name: each.detach().half().float() for name, each in learner.parameters.items()}  # as they are kept
        for name, each in learner.parameters.items():
            each.copy_(kept[name])
        threshold = Examination.of(model, chosen).threshold(learner, FALSE_ALARMS)
    own |= {name: each.half() for name, each in kept.items() if not name.startswith(MAKER) and name != SENTINEL}
    router = Router(RULE, FEATURES, told, own)
    some = draw.sample(list(work.records), min(MEASURED, len(work.records)))
    plain = measured(model, RouterPreparation(), replace(work, records=tuple(some)))
    tensors = {**plain.tensors, **router.stored()}
    tensors |= {name: each.half() for name, each in kept.items() if name.startswith(MAKER)}
    header: dict[str, Any] = {
        **plain.header,
        NAME: router.header(),
        FIXED: threshold,
        "shape": [settings.vectors, model.d_model],
    }
    return Made(tensors, header, trained.history, trained.ended)
