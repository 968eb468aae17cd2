"""Fine-tuning that leaves the model as it is and gives what it would change as an edit: a task vector.

Ilharco et al. 2023, "Editing models with task arithmetic", section 2: the difference of all parameters.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.edits.edit import Edit
from editing.edits.weights import check_editable, orientation_of
from editing.health.harm import Check, check_harm
from editing.methods.lora import LoRASettings, adapted, adapter_matrices, factors_of, projections
from editing.methods.peak_memory import peak_memory
from tracer.engine.batch import Row
from tracer.engine.hooks import evaluating, frozen
from tracer.errors import NotFinite
from tracer.inference import ordinary
from tracer.progress import track

from .copies import differences, measured_rate
from .given import Passed, as_json, batches, check_start, settings_of
from .lessons import lessons_of, losses_of, mean_loss
from .settings import FinetuneSettings

if TYPE_CHECKING:
    from tracer.model import Model

METHOD = "finetune"
ADAPTER_RATE = 3e-4
ENOUGH = 0.5  # nats a token


@ordinary()
def finetune(model: Model, items: Any, *, check: Check = "warn", **settings: Any) -> Edit:
    """What fine-tuning on texts or facts changes, as an edit; the model is left as it was.

    A copy of the model is trained in float32. Its difference to the model may be scaled, negated and added to those of
    other tasks: `edit * 0.5`, `-edit`, `a + b`, `c + (b - a)`.

    Args:
        model: to be fine-tuned; one that predicts the next token.
        items: texts, which are learnt token by token, and requests or records, whose targets are; one or several.
        check: handling of an edit that ruins the model, as of [`editing.compute_edit`][].
        settings: of [`editing.tasks.FinetuneSettings`][].

    Raises:
        TracerError: nothing to learn, an unknown setting or layer, a masked or quantised model, one with memories, a
            loss that is not finite.

    Warns:
        HarmWarning: an edit that ruins the model.
    """
    used = settings_of(FinetuneSettings, settings, METHOD)
    rows, requests = lessons_of(model, items)
    check_start(model, check)
    began = time.monotonic()
    with peak_memory(model) as memory, torch.inference_mode(False), torch.enable_grad():
        train = _adapters if used.rank else _everything
        changes, used, curve = train(model, rows, used)
    edit = Edit(
        **{"factors": {}, **changes},
        method=METHOD,
        settings=as_json(used) | {"orientation": orientation_of(model, changes.get("factors", {}))},
        requests=requests,
        fingerprint=model.fingerprint(),
        model=model.name,
        seconds=time.monotonic() - began,
        memory=memory(),
        evidence={"loss": torch.tensor(curve)},
        note=_note(len(rows) - len(requests), curve, used),
    )
    return check_harm(model, [edit], check)[0]


def _everything(
    model: Model, rows: list[Row], settings: FinetuneSettings
) -> tuple[dict[str, Any], FinetuneSettings, list[float]]:
    """Differences of every parameter of a copy that is trained, those that did not move left out."""
    used = replace(settings, lr=measured_rate(model) if settings.lr is None else settings.lr)
    deltas, curve = differences(model, used.layers, lambda copied, some: _train(copied, rows, some, used))
    return {"deltas": deltas}, used, curve


def _adapters(
    model: Model, rows: list[Row], settings: FinetuneSettings
) -> tuple[dict[str, Any], FinetuneSettings, list[float]]:
    """Factors of adapters beside projections of the model, which are taken off again."""
    chosen = tuple(range(model.n_layers)) if settings.layers is None else tuple(settings.layers)
    paths = projections(model, chosen, settings.modules)
    check_editable(model, [f"{path}.weight" for path in paths])
    used = replace(settings, lr=settings.lr or ADAPTER_RATE)
    assert settings.rank is not None
    own = LoRASettings(chosen, settings.modules, settings.rank, float(settings.rank), seed=settings.seed)
    with evaluating(model), frozen(model), adapted(model, own, paths) as layers:
        curve = _train(model, rows, [each for layer in layers.values() for each in adapter_matrices(layer)], used)
        factors = factors_of(layers, own)
    return {"factors": factors}, used, curve


def _train(model: Model, rows: list[Row], parameters: list[Tensor], settings: FinetuneSettings) -> list[float]:
    """AdamW; the loss before each step, and at last the mean over all rows."""
    assert settings.lr is not None
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    curve: list[float] = []
    with evaluating(model):
        drawn, learnt = (
            batches(len(rows), settings.batch_size, settings.seed),
            Passed.of(len(rows), settings.batch_size),
        )
        for _, some in zip(track(range(settings.steps), "fine-tuning", settings.steps), drawn, strict=False):
            loss = mean_loss(model, [rows[place] for place in some])
            curve.append(_finite(model, float(loss.detach()), settings))
            if learnt.note(curve[-1] < settings.stop_loss):
                break
            loss.backward()
            if settings.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return [*curve, _finite(model, float(losses_of(model, rows).mean()), settings)]


def _finite(model: Model, loss: float, settings: FinetuneSettings) -> float:
    if not math.isfinite(loss):
        raise NotFinite(
            f"the loss of {model.name} is not finite while it is fine-tuned at lr={settings.lr:.3g}; take a smaller lr"
        )
    return loss


def _note(texts: int, curve: list[float], settings: FinetuneSettings) -> str:
    learnt = f"fine-tuned on {texts} pieces of text" if texts > 1 else "fine-tuned on a text" if texts else ""
    missed = f"the loss is {curve[-1]:.3g} after {len(curve) - 1} steps; more steps, or a larger lr, bring it down"
    return "; ".join(filter(None, [learnt, missed if curve[-1] > max(settings.stop_loss, ENOUGH) else ""]))
