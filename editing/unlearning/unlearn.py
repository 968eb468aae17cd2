"""Unlearning: an edit after which a model no longer says some things, by one of several objectives."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.edits.edit import Edit
from editing.health.harm import Check, check_harm
from editing.methods.peak_memory import peak_memory
from editing.methods.training import read_logits, token_losses
from editing.tasks.copies import differences, measured_rate
from editing.tasks.given import Passed, as_json, batches, check_start, settings_of
from editing.tasks.lessons import lessons_of, losses_of
from tracer.engine.batch import Row, logits_of, pad
from tracer.engine.hooks import capture, evaluating
from tracer.engine.sites import Site
from tracer.errors import HyperparameterError, NotFinite, OutOfRange
from tracer.inference import ordinary
from tracer.progress import track

from . import objectives
from .settings import UnlearnSettings

if TYPE_CHECKING:
    from tracer.model import Model

BETAS = {"npo": 0.1, "simnpo": 4.5, "wga": 1.0}
GAMMAS = {"simnpo": 0.125}
DEPTH, BELOW = 2 / 5, 2  # of rmu


@ordinary()
def unlearn(model: Model, forget: Any, retain: Any = None, *, check: Check = "warn", **settings: Any) -> Edit:
    """An edit after which the model no longer says some answers or texts; the model is left as it was.

    What is not among what is to stay, and is near what is to be forgotten, is forgotten with it: give other facts of
    the same relation too.

    Args:
        model: one that predicts the next token.
        forget: texts, or requests and records whose targets are to be forgotten.
        retain: of the same kinds, what is to stay; None: nothing is looked after.
        check: handling of an edit that ruins the model, as of [`editing.compute_edit`][].
        settings: of [`editing.unlearning.UnlearnSettings`][].

    Raises:
        TracerError: nothing to forget, an unknown setting or layer, an objective that needs something to retain and has
            nothing, a masked or quantised model, one with memories, a loss that is not finite.

    Warns:
        HarmWarning: an edit that ruins the model.
    """
    used = _settings(model, settings, retain is not None)
    gone, requests = lessons_of(model, forget)
    kept = lessons_of(model, retain)[0] if retain is not None else []
    check_start(model, check)
    began = time.monotonic()
    with peak_memory(model) as memory, torch.inference_mode(False), torch.enable_grad():
        bench = Bench.of(model, gone, kept, used)
        deltas, curve = differences(
            model, used.layers, lambda copied, parameters: _train(copied, parameters, bench, used)
        )
    edit = Edit(
        factors={},
        method=used.objective,
        settings=as_json(used) | {"orientation": None},
        requests=requests,
        fingerprint=model.fingerprint(),
        model=model.name,
        seconds=time.monotonic() - began,
        memory=memory(),
        evidence={"objective": torch.tensor(curve.objective), "loss": torch.tensor(curve.forget)},
        note=_note(curve, used, bool(kept)),
        deltas=deltas,
    )
    return check_harm(model, [edit], check)[0]


@dataclass(frozen=True, eq=False)
class Bench:
    """What is to be forgotten and to stay, and what the model before makes of them.

    Attributes:
        gone: rows to be forgotten.
        kept: rows to stay.
        sums: loss of each of `gone`, before.
        log_probs: of each of `kept` at all its tokens [tokens, V], before; of "kl" alone.
        states: of each of `kept` at its answer [tokens, d_model], before; of rmu alone.
        direction: [d_model], of rmu alone.
    """

    gone: list[Row]
    kept: list[Row]
    sums: Tensor
    log_probs: list[Tensor]
    states: list[Tensor]
    direction: Tensor | None

    @classmethod
    def of(cls, model: Model, gone: list[Row], kept: list[Row], settings: UnlearnSettings) -> Bench:
        """Measured on the model as it is."""
        tokens = torch.tensor([len(row.target) for row in gone], device=model.device)
        with torch.no_grad(), evaluating(model):
            sums = losses_of(model, gone).to(model.device).float() * tokens
            some = kept if settings.retain_loss == "kl" and settings.objective != "rmu" else []
            log_probs = [_log_probs(model, [row]) for row in some]
            if settings.objective != "rmu":
                return cls(gone, kept, sums, log_probs, [], None)
            assert settings.layer is not None
            states = [_states(model, [row], settings.layer) for row in kept]
            length = _states(model, gone, settings.layer).norm(dim=-1).mean()
        drawn = torch.rand(model.d_model, generator=torch.Generator().manual_seed(settings.seed)).to(length)
        return cls(gone, kept, sums, [], states, settings.steering * length * drawn / drawn.norm())


@dataclass(frozen=True)
class Curve:
    """Before each step and, of the loss, at the end.

    Attributes:
        objective: what was minimised.
        forget: mean loss of what is to be forgotten, nats a token.
    """

    objective: list[float]
    forget: list[float]


def _train(model: Model, parameters: list[Tensor], bench: Bench, settings: UnlearnSettings) -> Curve:
    assert settings.lr is not None
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    curve, forgotten = Curve([], []), Passed.of(len(bench.gone), settings.batch_size)
    draws = zip(
        *(batches(len(rows), settings.batch_size, settings.seed) for rows in (bench.gone, bench.kept)), strict=False
    )
    with evaluating(model):
        for _, (gone, kept) in zip(track(range(settings.steps), "unlearning", settings.steps), draws, strict=False):
            rows = [bench.gone[i] for i in gone]
            with torch.set_grad_enabled(settings.objective != "rmu"):  # which is of states
                losses = token_losses(read_logits(model, rows), rows)
            curve.forget.append(_finite(model, float(losses.detach().mean()), settings))
            if forgotten.note(0 < settings.until < curve.forget[-1]):
                break
            total = _forgetting(model, bench, gone, losses, settings)
            if kept and settings.alpha:
                total = total + settings.alpha * _retaining(model, bench, kept, settings)
            curve.objective.append(_finite(model, float(total.detach()), settings))
            total.backward()
            if settings.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    curve.forget.append(_finite(model, float(losses_of(model, bench.gone).mean()), settings))
    return curve


def _forgetting(model: Model, bench: Bench, some: list[int], losses: Tensor, settings: UnlearnSettings) -> Tensor:
    rows = [bench.gone[i] for i in some]
    tokens = torch.tensor([len(row.target) for row in rows], device=losses.device)
    sums = torch.stack([part.sum() for part in losses.split(tokens.tolist())])
    gamma, beta = settings.gamma or 1.0, settings.beta or 1.0
    if settings.objective in ("grad_ascent", "grad_diff"):
        return gamma * objectives.grad_ascent(losses)
    if settings.objective == "npo":
        return gamma * objectives.npo(sums, bench.sums[some], beta)
    if settings.objective == "simnpo":
        return gamma * objectives.simnpo(sums, tokens, beta, settings.delta)
    if settings.objective == "wga":
        return gamma * objectives.wga(losses, beta)
    assert bench.direction is not None and settings.layer is not None
    return gamma * objectives.rmu(_states(model, rows, settings.layer), bench.direction)


def _retaining(model: Model, bench: Bench, some: list[int], settings: UnlearnSettings) -> Tensor:
    rows = [bench.kept[i] for i in some]
    if settings.objective == "rmu":
        assert settings.layer is not None
        return objectives.rmu_retain(_states(model, rows, settings.layer), torch.cat([bench.states[i] for i in some]))
    if settings.retain_loss == "kl":
        return objectives.kl_to(torch.cat([bench.log_probs[i] for i in some]), _log_probs(model, rows))
    return token_losses(read_logits(model, rows), rows).mean()


def _whole(rows: list[Row]) -> list[tuple[int, ...]]:
    """Ids of prompts with their whole answers."""
    return [(*row.ids, row.target[-1]) for row in rows]


def _log_probs(model: Model, rows: list[Row]) -> Tensor:
    """At every token of prompts and answers, one row after the other, [tokens, V]."""
    ids = _whole(rows)
    found = logits_of(model, pad(ids).to(model.device)).float().log_softmax(-1)
    return torch.cat([line[: len(own)] for line, own in zip(found, ids, strict=True)])


def _states(model: Model, rows: list[Row], layer: int) -> Tensor:
    """Output of a block at the tokens of answers, one row after the other, [tokens, d_model]."""
    ids, site = _whole(rows), Site("hidden", layer)
    found = capture(model, pad(ids), [site])[site]
    return torch.cat(
        [line[len(own) - len(row.target) : len(own)] for line, own, row in zip(found, ids, rows, strict=True)]
    )


def _finite(model: Model, loss: float, settings: UnlearnSettings) -> float:
    if not math.isfinite(loss):
        raise NotFinite(
            f"the loss of {model.name} is not finite while it unlearns at lr={settings.lr:.3g}; take a smaller lr, or "
            "an objective with a bound (npo)"
        )
    return loss


def _settings(model: Model, given: dict[str, Any], retained: bool) -> UnlearnSettings:
    used = settings_of(UnlearnSettings, given, "unlearn")
    if used.objective == "grad_diff" and not retained:
        raise HyperparameterError("grad_diff is ascent beside what is to stay; give retain, or take 'grad_ascent'")
    lr = measured_rate(model) if used.lr is None else used.lr
    beta = BETAS.get(used.objective) if used.beta is None else used.beta
    gamma = GAMMAS.get(used.objective, 1.0) if used.gamma is None else used.gamma
    if used.objective != "rmu":
        return replace(used, lr=lr, beta=beta, gamma=gamma)
    layer = round(DEPTH * (model.n_layers - 1)) if used.layer is None else used.layer
    if layer >= model.n_layers:
        raise OutOfRange(f"layer is {layer}, but {model.name} has {model.n_layers} layers, 0 to {model.n_layers - 1}")
    layers = used.layers if used.layers is not None else tuple(range(max(0, layer - BELOW), layer + 1))
    return replace(used, lr=lr, gamma=gamma, layer=layer, layers=layers)


def _note(curve: Curve, settings: UnlearnSettings, retained: bool) -> str:
    first, last = curve.forget[0], curve.forget[-1]
    told = f"the loss of what is to be forgotten goes from {first:.3g} to {last:.3g}"
    return told if retained else f"{told}; nothing was looked after (retain)"
