"""One attribution: a fact's untouched run, and gradients of its answer's probability at scaled activations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from tracer.checks import whole
from tracer.engine.arriving import Arrival, behind_norm
from tracer.engine.forward import Base
from tracer.engine.hooks import Frame, Replace, Site, attach, frozen
from tracer.engine.row_budget import check_max_rows, rows_that_fit
from tracer.engine.sweep import record, sweep
from tracer.errors import AttributionError, NotFinite, OutOfRange, TraceSettingError
from tracer.facts.fact import Fact, bare_note, token_text
from tracer.facts.readout import Readout, answer_text
from tracer.progress import track
from tracer.tracing.metrics import Metric

from .attribution import NeuronAttribution

if TYPE_CHECKING:
    from tracer.model import Model

METHODS = ("integrated_gradients", "activation_contrast")
RULES = ("published", "gauss")
KINDS = {"post": "key", "pre": "pre"}  # site of a neuron -> kind of a tracer.engine.hooks.Site


def quadrature(rule: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Points α in [0, 1] and their weights, [steps] each."""
    if rule == "published":
        return np.linspace(0, 1, steps), np.full(steps, 1 / steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


@dataclass(frozen=True)
class Untouched:
    """A fact's untouched run.

    Attributes:
        fact: the fact.
        readout: the fact as it is run.
        positions: the tokens at which its neurons act.
        base: the recorded run.
        values: their values, [layers, positions, d_mlp].
        metric: the measure of the answer.
    """

    fact: Fact
    readout: Readout
    positions: tuple[int, ...]
    base: Base
    values: Tensor
    metric: Metric

    @property
    def full(self) -> float:
        """The probability of the answer."""
        return float(self.metric(self.base.logits)[0])


@dataclass(frozen=True)
class Attributor:
    """Model and settings that all attributions of one call share; see [`tracer.attribute_neurons`][]."""

    model: Model
    steps: int
    method: str
    site: str
    token: str | int
    rule: str
    max_rows: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("steps", self.steps, 1, kind=TraceSettingError))
        for name, value, known in (
            ("method", self.method, METHODS),
            ("site", self.site, tuple(KINDS)),
            ("rule", self.rule, RULES),
        ):
            if value not in known:
                raise AttributionError(f"{name} {value!r} is unknown; expected {' or '.join(map(repr, known))}")
        number = isinstance(self.token, int | np.integer) and not isinstance(self.token, bool)
        if not number and self.token not in ("answer", "subject_last"):
            raise AttributionError(
                f"token {self.token!r} is unknown; expected 'answer', 'subject_last' or a token's index"
            )
        check_max_rows(self.max_rows)
        for layer in range(self.model.n_layers):
            self.model.path("key", layer)
            self.model.path(KINDS[self.site], layer)

    def run(self, about: Fact) -> Untouched:
        """The untouched run of a fact."""
        alignment = about.align(self.model)
        readout = Readout.of(self.model, alignment)
        tokens = len(alignment.input_ids)
        if self.token == "answer":
            positions = readout.read
        elif self.token == "subject_last":
            positions = (alignment.subject_range[1] - 1,)
        else:
            index = int(self.token)
            if not -tokens <= index < tokens:
                raise OutOfRange(f"token {index} is out of range: {about.text!r} has {tokens} tokens")
            positions = (index % tokens,)
        kind = KINDS[self.site]
        normed = behind_norm(self.model, 0) and self.method == "integrated_gradients"
        kinds = (kind, *(("mlp_input", "value") if normed else ()))
        with torch.no_grad():
            base = record(self.model, readout.ids, read=readout.read, kinds=kinds)
            answer = readout.answer(base.logits[0])
        states = [base.states[kind, layer][0, list(positions)] for layer in range(self.model.n_layers)]
        values = torch.stack([state.to("cpu") for state in states])
        values = values if values.dtype == torch.float64 else values.float()
        return Untouched(about, readout, positions, base, values, Metric("prob", tuple(answer)))

    def integrated(self, about: Fact, fingerprint: str, description: str | None) -> NeuronAttribution:
        """Integrated gradients of one fact."""
        alphas, weights = quadrature(self.rule, self.steps)
        if alphas[0] != 0:  # for the probability at zero, of no weight in the integral
            alphas, weights = np.append(0.0, alphas), np.append(0.0, weights)
        with _differentiating(self.model):
            run = self.run(about)
            gradients, probabilities = self.gradients(run, alphas, description)
        along = "layers alphas positions units, alphas -> layers positions units"
        mean = einsum(gradients, torch.from_numpy(weights), along)
        scores = (run.values.double() * mean).sum(1)  # over positions
        zero = probabilities[:, 0]
        notes = [self.note(run), _incomplete(scores.sum(1), run.full - zero)]
        note = "; ".join(text for text in notes if text)
        return self.result(run, scores, run.values.double().mean(1), run.full, zero, fingerprint, note)

    def gradients(self, run: Untouched, alphas: np.ndarray, description: str | None) -> tuple[Tensor, Tensor]:
        """Derivatives of P by w at every α w, [layers, α, positions, d_mlp], and P there, [layers, α], both float64."""
        points = run.values[:, None] * torch.from_numpy(alphas).to(run.values.dtype)[None, :, None, None]
        points = points.to(self.model.device)
        leaves: list[Tensor] = []
        branches = []
        for layer, at_layer in enumerate(points):
            arrival = Arrival.of(self.model, layer) if behind_norm(self.model, layer) else None
            for at_alpha in at_layer:
                branch = []
                for position, value in zip(run.positions, at_alpha, strict=True):
                    leaves.append(value.clone().requires_grad_())
                    branch.append(self.replacement(run, layer, position, leaves[-1], arrival))
                branches.append(branch)

        def measure(logits: Tensor) -> Tensor:
            values = run.metric(logits)
            values.sum().backward()  # at once, so that no more than one forward's graph is held
            return values.detach()

        rows = self.max_rows or _default_rows(self.model, run)
        found = sweep(self.model, run.base, branches, measure, max_rows=rows, description=description)
        gradients = torch.stack([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
        gradients = gradients.cpu().double().reshape(points.shape)
        if not bool(torch.isfinite(gradients).all()):
            raise NotFinite(
                f"gradients of {self.model.name} are not finite in {self.model.dtype}; load it with dtype=torch.float32"
            )
        return gradients, found.double().reshape(len(points), len(alphas))

    def replacement(
        self, run: Untouched, layer: int, position: int, activations: Tensor, arrival: Arrival | None
    ) -> Replace:
        """The intervention that puts `activations` [d_mlp] in the place of a token's own.

        Behind a norm it is their contribution to the residual stream, with the norm's divisor as it is in the untouched
        run. The norm itself gives all activations times α the same output, whatever α is, and nothing to attribute.
        """
        if arrival is None:
            return Replace(Site(KINDS[self.site], layer, position), activations)
        module, entered = self.model.module("mlp_input", layer), run.base.states["mlp_input", layer][:, [position]]
        present = run.base.states["value", layer][0, position]
        frame, found = Frame(1), list[Tensor]()
        handles = [
            attach(self.model, KINDS[self.site], layer, lambda state: activations.expand_as(state), frame),
            attach(self.model, "value", layer, lambda state: found.append(state), frame),
        ]
        try:
            module(entered)
        finally:
            for handle in handles:
                handle.remove()
        return Replace(Site("mlp", layer, position), arrival.at(found[0][0, 0], present))

    def values(self, facts: Iterable[Fact]) -> Tensor:
        """The neurons' values [facts, layers, d_mlp], means over positions."""
        return torch.stack([self.run(about).values.double().mean(1) for about in facts])

    def contrasted(self, facts: Sequence[Fact], other: Tensor, fingerprint: str) -> NeuronAttribution:
        """The neurons' distances above the contrast prompts, in standard deviations."""
        runs = [self.run(about) for about in (track(facts, "prompts") if len(facts) > 1 else facts)]
        values = torch.stack([run.values.double().mean(1) for run in runs]).mean(0)
        mean, deviation = other.mean(0), other.std(0)
        size = torch.maximum(values.abs(), mean.abs())
        rounding = (8 * torch.finfo(self.model.dtype).eps * size).clamp_min(torch.finfo(torch.float32).tiny)
        difference = values - mean
        scores = difference / torch.maximum(deviation, rounding)
        scores[(deviation <= rounding) & (difference.abs() <= rounding)] = 0.0
        note = f"mean over {len(runs)} prompts, of which this is the first" if len(runs) > 1 else ""
        full = sum(run.full for run in runs) / len(runs)
        zero = torch.full((self.model.n_layers,), torch.nan)
        return self.result(runs[0], scores, values, full, zero, fingerprint, note or self.note(runs[0]))

    def each(self, facts: Sequence[Fact], contrast: Sequence[Fact] | None, description: str) -> list[NeuronAttribution]:
        """One attribution per fact, by the `contrast` prompts if there are any; one bar and one hash for all."""
        fingerprint = self.model.fingerprint()
        reference = self.values(track(contrast, description)) if contrast else None
        several = len(facts) > 1
        found = []
        for about in track(facts, description) if several else facts:
            if reference is not None:
                found.append(self.contrasted([about], reference, fingerprint))
            else:
                found.append(self.integrated(about, fingerprint, None if several else description))
        return found

    def note(self, run: Untouched) -> str:
        """Remarks on a run for the reader."""
        own, notes = run.base.logits[0].argmax(-1).tolist(), [bare_note(self.model, run.fact.text)]
        if own != list(run.metric.answer):
            notes.append(f"the target is not what the model says, {answer_text(self.model, own)!r}")
        return "; ".join(filter(None, notes))

    def result(
        self,
        run: Untouched,
        scores: Tensor,
        activations: Tensor,
        full: float,
        zero: Tensor,
        fingerprint: str,
        note: str,
    ) -> NeuronAttribution:
        """The attribution made of a run's scores."""
        integral = self.method == "integrated_gradients"
        return NeuronAttribution(
            scores=scores.numpy(),
            activations=activations.numpy(),
            method=self.method,
            site=self.site,
            steps=self.steps if integral else 0,
            rule=self.rule if integral else "",
            full=full,
            zero=zero.numpy(),
            answer=answer_text(self.model, run.metric.answer),
            prompt=run.fact.text,
            subject=run.fact.subject,
            tokens=tuple(token_text(self.model.tokenizer, i) for i in run.readout.ids),
            positions=run.positions,
            model=self.model.name,
            n_layers=self.model.n_layers,
            fingerprint=fingerprint,
            note=note,
        )


def _incomplete(sums: Tensor, expected: Tensor) -> str:
    """A note where the sums of some layer's scores are far from what they should be."""
    error = (sums - expected).abs()
    layer = int(error.argmax())
    if error[layer] <= 0.05 * expected.abs().max():
        return ""
    return (
        f"the scores of layer {layer} add up to {sums[layer]:.3g} instead of {expected[layer]:.3g}: "
        "the probability changes fast on the way; more steps, or rule='gauss', come closer"
    )


@contextmanager
def _differentiating(model: Model) -> Iterator[None]:
    """Turn gradients on, whatever is on outside, except those of parameters."""
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        yield


def _default_rows(model: Model, run: Untouched) -> int:
    """Number of rows that run at once, with what autograd keeps of them."""
    context = run.base.ids.shape[1]
    tokens = context - min(*run.positions, *run.readout.read) if run.base.prefix is not None else context
    width = torch.finfo(model.dtype).bits // 8
    kept = model.n_layers * width * (tokens * (4 * model.d_mlp + 16 * model.d_model) + 2 * context * model.d_model)
    logits = len(run.readout.read) * model.hf.config.get_text_config().vocab_size * (3 * width + 8)
    return rows_that_fit(model, kept + logits)
