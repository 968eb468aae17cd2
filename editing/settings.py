"""Hyper-parameters that the methods which optimise a value share, and those of them that are measured on the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from tracer import Fact, TracerError, factworld

from .contexts import Templates, as_templates, context_templates
from .covariance import Covariance, covariance_for
from .optimise import Objective, Subject
from .request import EditRequest
from .rows import TOKENS, Row, essence_rows, rewriting_rows, states_at_lookups

if TYPE_CHECKING:
    from tracer import Model

SAMPLE = 64  # FactWorld subjects whose states say how large values are
DECAY = 0.15  # what the weight decay costs at the clamp, where it is measured
PATIENCE = 6
UPDATES = 50  # in which Adam reaches the clamp, likewise
STEPS, PUBLISHED_STEPS = 60, 20


@dataclass(frozen=True)
class ValueSettings:
    """Hyper-parameters of a method that optimises a value and writes it with a covariance.

    Attributes:
        layers: where to write; None: relative to the model's depth.
        v_steps: losses computed per value at most, of which the last is followed by no update; None: 60 where v_lr is
            measured, the published 20 where it is given.
        v_lr: learning rate of Adam (published: 0.5); None: such that fifty updates reach the clamp. A lower
            rate and more steps leave more of the subject's other facts as they are.
        v_patience: updates without progress after which a search starts anew at a third of the rate; None: 6 where v_lr
            is measured, never (as published) where it is given.
        v_weight_decay: factor of |delta| / |init|^2; None: such that it costs 0.15 at the clamp for a value of usual
            size, and at most the published 0.5 (which keeps small values from moving at all).
        kl_factor: factor of the KL divergence on the essence prompts.
        clamp: longest delta, in lengths of what is there; None: from the sizes measured on subjects.
        stop_loss: a lower loss ends the search.
        v_loss_layer: block whose output the target is read from; None: the last.
        fact_token: which token is edited: subject_last, subject_first, subject_first_after_last or last.
        essence: prompts about the subject whose next token is to stay.
        essence_at: where that is read: "subject" (as published) or "last", the prompt's end.
        template_lengths: (tokens, how many) of sampled context prefixes; published for ROME: ((5, 10), (10, 10)).
        context_templates: prefixes given instead; the bare "{}" first.
        covariance: second moments of keys; None: see :func:`editing.covariance_for`.
        origin: hash of the weights before any edit, whose covariance is meant; None: the model as it is. An editor
            gives it.
        damping: added to its diagonal, as a share of the diagonal's mean.
        seed: of the context templates.
        max_rows: prompts run at once; None: by memory. The numbers do not depend on it.
    """

    layers: Sequence[int] | None = None
    v_steps: int | None = None
    v_lr: float | None = None
    v_patience: int | None = None
    v_weight_decay: float | None = None
    kl_factor: float = 0.0625
    clamp: float | None = None
    stop_loss: float = 5e-2
    v_loss_layer: int | None = None
    fact_token: str = "subject_last"
    essence: Sequence[str] = ("{} is a",)
    essence_at: str = "subject"
    template_lengths: Sequence[tuple[int, int]] = ((5, 5), (10, 5))
    context_templates: Sequence[Any] | None = None
    covariance: Covariance | None = None
    origin: str | None = None
    damping: float = 0.0
    seed: int = 0
    max_rows: int | None = None

    def __post_init__(self) -> None:
        positive = {"v_steps": self.v_steps, "v_lr": self.v_lr, "clamp": self.clamp}
        for name, value in positive.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise TracerError(f"{name} is {value}; expected a number above zero")
        for name in ("v_weight_decay", "kl_factor", "damping"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise TracerError(f"{name} is {value}; expected zero or more")
        if self.fact_token not in TOKENS:
            raise TracerError(f"fact_token is {self.fact_token!r}; expected one of {', '.join(TOKENS)}")
        if self.essence_at not in ("subject", "last"):
            raise TracerError(f"essence_at is {self.essence_at!r}; expected 'subject' or 'last'")
        if self.max_rows is not None and self.max_rows < 1:
            raise TracerError(f"max_rows is {self.max_rows}; expected at least 1, or None for a default by memory")
        if isinstance(self.essence, str):
            object.__setattr__(self, "essence", (self.essence,))
        if self.context_templates is not None:
            object.__setattr__(self, "context_templates", as_templates(self.context_templates))
        if self.layers is not None:
            layers = (self.layers,) if isinstance(self.layers, int) else tuple(self.layers)
            object.__setattr__(self, "layers", tuple(sorted({int(layer) for layer in layers})))

    def templates(self) -> Templates:
        """The context templates, once they are there."""
        assert self.context_templates is not None
        return tuple(tuple(kind) for kind in self.context_templates)

    def resolved(self, model: Model, layers: Sequence[int], place: str, reach: float) -> Self:
        """The same with everything that was left open.

        layers: the default. place: kind of the optimised state ("mlp", "hidden"), at the last layer. reach: default
        length of the longest delta, in lengths of the hidden state of subjects there.
        """
        chosen = tuple(self.layers) if self.layers is not None else tuple(layers)
        for layer in chosen:
            model.path("key", layer)  # TracerError for a layer that does not exist
        if not chosen:
            raise TracerError(f"layers is empty; name some of 0 to {model.n_layers - 1}, or leave it out")
        settings = replace(self, layers=chosen)
        if self.context_templates is None:
            made = context_templates(model, self.template_lengths, seed=self.seed)
            settings = replace(settings, context_templates=made)
        if None in (self.clamp, self.v_weight_decay, self.v_lr):
            init, hidden = usual_sizes(model, place, chosen[-1])
            clamp = reach * hidden / init if self.clamp is None else self.clamp
            decay, rate = self.v_weight_decay, self.v_lr
            if decay is None:  # decay * (clamp * init) / init^2 = DECAY
                decay = min(0.5, DECAY * init / clamp)
            if rate is None:  # an update of Adam moves every coordinate by about the rate
                rate = clamp * init / (UPDATES * math.sqrt(model.d_model))
            settings = replace(settings, clamp=clamp, v_weight_decay=decay, v_lr=rate)
            if self.v_lr is None:
                settings = replace(settings, v_patience=PATIENCE if self.v_patience is None else self.v_patience)
        if self.v_steps is None:
            settings = replace(settings, v_steps=PUBLISHED_STEPS if self.v_lr is not None else STEPS)
        if self.covariance is None:
            settings = replace(settings, covariance=covariance_for(model, chosen, self.origin))
        else:
            self.covariance.check(model, chosen, self.origin)
        return settings

    def objective(self, **more: Any) -> Objective:
        """What is minimised."""
        assert self.v_steps and self.v_lr and self.clamp and self.v_weight_decay is not None
        return Objective(
            v_steps=self.v_steps,
            v_lr=self.v_lr,
            v_weight_decay=self.v_weight_decay,
            kl_factor=self.kl_factor,
            clamp=self.clamp,
            stop=self.stop_loss,
            loss_layer=self.v_loss_layer,
            patience=self.v_patience,
            **more,
        )

    @property
    def note(self) -> str:
        """What a reader of the edit should know about the covariance, or ""."""
        return self.covariance.note if self.covariance is not None else ""

    def as_json(self) -> dict[str, Any]:
        """Every field, as what json knows; the covariance by what it is of."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "covariance"}
        found = {name: _plain(value) for name, value in plain.items()}
        if self.covariance is not None:
            found["covariance"] = {
                "corpus": self.covariance.corpus,
                "tokens": int(self.covariance.tokens),
                "fingerprint": self.covariance.fingerprint,
            }
        return found


def subject_of(model: Model, request: EditRequest, settings: ValueSettings) -> Subject:
    """The rows of a request."""
    token = settings.fact_token
    return Subject(
        tuple(rewriting_rows(model, request, settings.templates(), token)),
        tuple(essence_rows(model, request, settings.essence, token, settings.essence_at)),
    )


def usual_sizes(model: Model, place: str, layer: int) -> tuple[float, float]:
    """Median length of the state at ``place``, and of the hidden state, at the last token of FactWorld's subjects."""
    names = sorted({fact.subject for fact in factworld.facts()})
    chosen = names[:: max(1, len(names) // SAMPLE)][:SAMPLE]
    rows = []
    for name in chosen:
        found = Fact(name, name).align(model)
        last = found.subject_range[1] - 1
        rows.append(Row(found.input_ids, last, (last,)))
    states = states_at_lookups(model, rows, [(place, layer), ("hidden", layer)])
    init, hidden = (float(states[each, layer].float().norm(dim=-1).median()) for each in (place, "hidden"))
    if not init > 0:
        raise TracerError(f"{place} of layer {layer} is zero at every subject of {model.name}; name another layer")
    return init, hidden


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return value
