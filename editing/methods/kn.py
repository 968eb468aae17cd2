"""Knowledge neurons edited by hand: Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers", section 5.

The neurons with the highest attribution for the present answer are found ([`tracer.attribute_neurons`][]), and each
one's value, its row v of the down-projection, is moved from the embedding of the old answer to that of the new:

    v <- v - lambda1 |v| e_old / |e_old| + lambda2 |v| e_new / |e_new|

The paper's code scales by |v| / |e| in this way, with lambdas of 1 and 8. The published package adds embeddings as they
are (`scale="none"`), -2 e_old + 2 e_new for BERT; its copies for GPT, which the published edits were made with, add -2
e_old + e_new for each token of the new answer. Erasing sets v to zero. With many neurons either is far more than
needed, and the answers to all prompts that share neurons change with it; so the lambdas are by default the smallest
that suffice.

Where a norm or a multiplier comes between the MLP and the residual stream (Gemma, OLMo 2, Granite) the step is that of
the contribution that arrives there: the values written are those that bring it, as far as the norm lets them
(`tracer.engine.arriving`).

Where a neuron's activation is negative, as half of those of gated MLPs are, the published step makes the new answer
less probable; here it is turned round there (`signed=False`: as published).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from editing.methods.value.context_templates import BARE, as_templates, fill
from editing.request import EditRequest
from tracer.checks import finite, whole
from tracer.engine.answer import own_answer
from tracer.engine.batch import Row
from tracer.engine.hooks import evaluating, frozen
from tracer.errors import HyperparameterError, NoNeurons, NotFinite
from tracer.facts.chat import chat_of
from tracer.facts.readout import Readout
from tracer.neurons.interventions import check_neurons
from tracer.neurons.selection import attribute_neurons, refine
from tracer.progress import track

from .context import EditContext
from .method import Change, Group, Method
from .neuronvalues import moved, parts_of, values_of
from .training import as_layers, losses

if TYPE_CHECKING:
    from tracer.model import Model

LADDER = tuple(2 ** (power / 4) for power in range(-20, 17))  # lambdas that are tried, 1/32 to 16
MARGIN = 1.0  # by how much, per token in nats, the new answer should be more probable than the old
CHOICES = {"mode": ("update", "erase"), "scale": ("value", "none"), "embed": ("unembed", "embed")}


@dataclass(frozen=True)
class KNSettings:
    """Hyper-parameters of edits of knowledge neurons.

    Attributes:
        neurons: (layer, unit) pairs to edit, for every request; None: those with the highest attribution for the old
            answer.
        layers: layers of the neurons; None: all.
        threshold: neurons above this share of the highest score; see [`tracer.refine`][]. (Published: 0.2.)
        share: neurons found for more than this share of the wordings. (Published: 0.4 or 0.7.)
        most: at most so many, the highest scores first; None: all.
        steps: of the attribution; see [`tracer.attribute_neurons`][].
        rule: of the attribution.
        site: of the attribution.
        token: of the attribution. (Published: at the answer.)
        context_templates: wordings, texts with {} for the prompt; None: the prompt alone.
        mode: "update", or "erase", which sets the values to zero.
        lambda1: how much of the old answer is taken away; None: the smallest, from 1/32 to 16, that together with
            lambda2 make the new answer e times as probable as the old, per token.
        lambda2: how much of the new answer is added; None: likewise.
        scale: "value", in lengths of the neuron's value as it arrives, or "none", in embeddings.
        embed: which embeddings: "unembed", rows of the output matrix, or "embed", of the input's. Of an answer of
            several tokens the mean counts, each token once.
        signed: turn the step round for neurons whose activation is negative.
    """

    neurons: Sequence[tuple[int, int]] | None = None
    layers: Sequence[int] | None = None
    threshold: float = 0.1
    share: float = 0.5
    most: int | None = None
    steps: int = 20
    rule: str = "published"
    site: str = "post"
    token: str = "subject_last"
    context_templates: Sequence[Any] | None = None
    mode: str = "update"
    lambda1: float | None = None
    lambda2: float | None = None
    scale: str = "value"
    embed: str = "unembed"
    signed: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise HyperparameterError(
                    f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, known))}"
                )
        if self.token not in ("answer", "subject_last"):
            raise HyperparameterError(f"token is {self.token!r}; expected 'answer' or 'subject_last'")
        if self.most is not None:
            whole("most", self.most, 1, kind=HyperparameterError)
        for name in ("lambda1", "lambda2"):
            value = getattr(self, name)
            if value is not None:
                finite(name, value, 0, kind=HyperparameterError, expected="zero or more, or None for a measured one")
        if self.neurons is not None:
            try:
                pairs = tuple((int(layer), int(unit)) for layer, unit in self.neurons)
            except (TypeError, ValueError) as error:
                raise HyperparameterError(
                    f"neurons is {self.neurons!r}; expected pairs (layer, unit), or None"
                ) from error
            object.__setattr__(self, "neurons", pairs)
        if self.context_templates is not None:
            object.__setattr__(self, "context_templates", as_templates(self.context_templates))


@dataclass(frozen=True, eq=False)
class _Step:
    """Step for one request: `units` [d_mlp] by layer, times a direction [d] by layer."""

    units: dict[int, Tensor]
    neurons: list[tuple[int, int]]
    directions: dict[int, Tensor]
    lambdas: tuple[float, ...]
    margin: float


def plan(model: Model, groups: Sequence[Group], settings: KNSettings, context: EditContext) -> list[Change]:
    """One change per group, the sum of those of its requests, each found on the model as it is.

    Raises:
        TracerError: neurons or layers the model does not have; no neuron is found.
    """
    for layer in settings.layers or ():
        model.path("key", layer)
    if model.stacks and settings.neurons is None and settings.token == "subject_last":
        raise HyperparameterError(
            f"token is 'subject_last', whose neurons are in the encoder of {model.name}, and steps towards words of "
            "the unembedding mean something in its decoder; give token='answer'"
        )
    if settings.neurons is not None:
        check_neurons(model, settings.neurons)
    with evaluating(model), frozen(model):
        pinned = model.pinned()
        return [_change(pinned, group, settings) for group in track(groups, "editing neurons")]


def _change(model: Model, group: Group, settings: KNSettings) -> Change:
    erase = settings.mode == "erase"
    steps = [_erasing(model, request, settings) if erase else _step(model, request, settings) for request in group]
    factors = {}
    for layer in sorted({layer for step in steps for layer in step.units}):
        own = [step for step in steps if layer in step.units]
        down = model.down_projection(layer)
        if erase:  # each value once
            found = sorted({unit for step in own for at, unit in step.neurons if at == layer})
            left = torch.zeros(model.d_mlp, len(found))
            left[found, range(len(found))] = 1.0
            right = -values_of(model, layer)[found].T
        else:
            left = torch.stack([step.units[layer] for step in own], dim=1)  # [d_mlp, requests]
            right = torch.stack([step.directions[layer] for step in own], dim=1)  # [d_model, requests]
        pair = down.factors(left, right)
        factors[down.name] = tuple(part.to("cpu", torch.float32).contiguous() for part in pair)
    where = [(i, *neuron) for i, step in enumerate(steps) for neuron in step.neurons]
    evidence = {"neurons": torch.tensor(where)}  # rows of (request, layer, unit)
    used: dict[str, Any] = {}
    note = ""
    if not erase:
        evidence["lambdas"] = torch.tensor([step.lambdas for step in steps])
        evidence["margin"] = torch.tensor([step.margin for step in steps])
        for i, name in enumerate(("lambda1", "lambda2")):
            values = [step.lambdas[i] for step in steps]
            used[name] = values[0] if len(set(values)) == 1 else values
        behind = sum(step.margin <= 0 for step in steps)
        if behind:
            note = f"the old answer stays the more probable one for {behind} of {len(steps)} requests"
    return Change(factors, {**_plain(settings), **used}, evidence, note)


def _step(model: Model, request: EditRequest, settings: KNSettings) -> _Step:
    old, new = _answers(model, request)
    neurons = _neurons(model, request, settings)
    with torch.no_grad():
        found = request.about(request.target_true).align(model)
        token = found.answer_position if settings.token == "answer" else found.subject_range[1] - 1
        lengths = settings.scale == "value"
        parts = parts_of(model, found.input_ids, token, neurons, in_lengths=lengths, signed=settings.signed)
    table = model.module("unembed" if settings.embed == "unembed" else "embed").weight
    assert isinstance(table, Tensor)
    if table.shape[1] != model.d_model:
        other = "embed" if settings.embed == "unembed" else "unembed"
        fits = model.module(other).weight.shape[1] == model.d_model  # type: ignore[union-attr]
        raise NoNeurons(
            f"{settings.embed}dings of {model.name} are {table.shape[1]} wide and its values {model.d_model}; "
            + (f"take embed={other!r}" if fits else "kn cannot add the one to the other: take another method")
        )
    away, towards = (table[sorted(set(row.target))].detach().float().mean(0) for row in (old, new))
    if lengths:
        away, towards = away / away.norm(), towards / towards.norm()
    measured = settings.lambda1 is None or settings.lambda2 is None
    tried = [
        tuple(step if given is None else float(given) for given in (settings.lambda1, settings.lambda2))
        for step in (LADDER if measured else LADDER[:1])
    ]
    wanted = torch.stack([more * towards - less * away.to(towards.device) for less, more in tried])  # [tried, d]
    units = {layer: own.units for layer, own in parts.items()}
    directions = {layer: own.written(wanted) for layer, own in parts.items()}
    with torch.no_grad(), moved(model, units, directions):
        before, after = (losses(model, [row] * len(tried)).cpu().float() for row in (old, new))
    margins = before - after
    if not bool(torch.isfinite(margins).all()):
        raise NotFinite(
            f"{model.name} gives probabilities that are not finite in {model.dtype}; take smaller lambdas, or load it "
            "with dtype=torch.float32"
        )
    enough = (margins >= MARGIN).nonzero().flatten().tolist()
    place = enough[0] if enough else int(margins.argmax())
    chosen = {layer: each[place] for layer, each in directions.items()}
    return _Step(units, neurons, chosen, tried[place], float(margins[place]))


def _erasing(model: Model, request: EditRequest, settings: KNSettings) -> _Step:
    neurons = _neurons(model, request, settings)
    units = {layer: torch.empty(0) for layer, _ in neurons}
    return _Step(units, neurons, {}, (math.nan, math.nan), math.nan)


def _answers(model: Model, request: EditRequest) -> tuple[Row, Row]:
    """The old answer and the new, as rows that read them."""
    found = []
    for target in (request.target_true, request.target_new):
        readout = Readout.of(model, request.about(target).align(model))
        ids = readout.target or tuple(own_answer(model, request.about(None)))
        found.append(Row(readout.ids, readout.read[0], readout.read, ids))
    return found[0], found[1]


def _neurons(model: Model, request: EditRequest, settings: KNSettings) -> list[tuple[int, int]]:
    if settings.neurons is not None:
        return list(settings.neurons)
    templates = [text for kind in settings.context_templates or ((BARE,),) for text in kind]
    attributions = []
    chat = chat_of(model)
    for template in templates:
        about = replace(request.about(request.target_true), prompt=fill(template, request.prompt, chat))
        options: Any = {name: getattr(settings, name) for name in ("steps", "rule", "site", "token")}
        attribution = attribute_neurons(model, about, **options)
        if settings.layers is not None:
            inside = np.isin(np.arange(model.n_layers), settings.layers)[:, None]
            attribution = replace(attribution, scores=np.where(inside, attribution.scores, 0.0))
        attributions.append(attribution)
    found = refine(attributions, settings.threshold, settings.share)[: settings.most]
    if not found:
        raise NoNeurons(
            f"no neuron is above threshold={settings.threshold} for more than share={settings.share} of "
            f"{len(attributions)} wordings of {request.text!r}; lower one of these"
        )
    return found


def _plain(settings: KNSettings) -> dict[str, Any]:
    """The settings as json values."""

    def plain(value: Any) -> Any:
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    return {name: plain(value) for name, value in asdict(settings).items()}


METHOD = Method(
    "kn",
    KNSettings,
    plan,
    masked=True,
    seq2seq=True,
    neurons=True,
    summary="knowledge neurons' values moved by hand (Dai et al. 2022)",
)
