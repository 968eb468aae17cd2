"""Shared hyper-parameters of the methods that optimise a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from editing.covariance.covariance import Covariance
from editing.covariance.default import covariance_for
from editing.methods.timing import part
from editing.request import EditRequest
from tracer.errors import HyperparameterError

from .context_templates import Templates, as_templates, context_templates
from .prompts import TOKENS, essence_rows, rewriting_rows
from .search import Objective, Subject

if TYPE_CHECKING:
    from tracer.model import Model

PATIENCE = 6
STEPS, PUBLISHED_STEPS = 40, 20
STOP, PUBLISHED_STOP = 1e-2, 5e-2


@dataclass(frozen=True)
class ValueSettings:
    """Hyper-parameters of a method that optimises a value and writes it with a covariance.

    `v_steps`, `v_lr`, `v_weight_decay` and `clamp` are by default measured on each request; [`editing.published`][]
    gives the fixed ones that were published for a model.

    Attributes:
        layers: layers to write at; None: relative to the model's depth.
        v_steps: losses computed per value at most, of which the last is followed by no update; None: 40 where v_lr is
            measured, the published 20 where it is given.
        v_lr: learning rate of Adam (published: 0.5); None: no Adam, but steps measured on the gradient
            (`editing.methods.value.search.Objective`).
        v_patience: updates without progress after which a search starts anew at a third of the step; None: 6 where v_lr
            is measured, never (as published) where it is given.
        v_weight_decay: factor of |delta| / |init|^2 (published: 0.5); None: such that it costs 0.15 at the clamp.
        kl_factor: factor of the KL divergence on the essence prompts.
        clamp: longest delta, in lengths of the initial state; None: measured on the request, likewise.
        reach: the measured clamp, in steps that would make the target certain if its NLL went on falling as it begins
            to.
        stride: length of an update, in such steps. A shorter stride leaves more of the subject's other facts as they
            are, and takes more steps.
        stop_loss: a lower loss ends the search; where the weight decay is measured, a lower NLL of the target. None:
            0.01 where v_lr is measured, the published 0.05 where it is given. (A straight search that ends at 0.05
            leaves paraphrases behind.)
        v_loss_layer: block whose output the target is read from; None: the last.
        fact_token: which token is edited: subject_last, subject_first, subject_first_after_last or last.
        essence: prompts about the subject whose next token is to stay.
        essence_at: where that is read: "subject" (as published) or "last", the prompt's end.
        template_lengths: (tokens, how many) of sampled context prefixes; published for ROME: ((5, 10), (10, 10)).
        context_templates: prefixes given instead; the bare "{}" first.
        covariance: second moments of keys; None: see [`editing.covariance_for`][].
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
    reach: float = 6.0
    stride: float = 0.5
    stop_loss: float | None = None
    v_loss_layer: int | None = None
    fact_token: str = "subject_last"
    essence: Sequence[str] = ("{} is a",)
    essence_at: str = "subject"
    template_lengths: Sequence[tuple[int, int]] = ((10, 5),)
    context_templates: Sequence[Any] | None = None
    covariance: Covariance | None = None
    origin: str | None = None
    damping: float = 0.0
    seed: int = 0
    max_rows: int | None = None

    def __post_init__(self) -> None:
        positive = {name: getattr(self, name) for name in ("v_steps", "v_lr", "clamp", "reach", "stride")}
        for name, value in positive.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise HyperparameterError(f"{name} is {value}; expected a number above zero")
        for name in ("v_weight_decay", "kl_factor", "damping", "stop_loss"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise HyperparameterError(f"{name} is {value}; expected zero or more")
        if self.fact_token not in TOKENS:
            raise HyperparameterError(f"fact_token is {self.fact_token!r}; expected one of {', '.join(TOKENS)}")
        if self.essence_at not in ("subject", "last"):
            raise HyperparameterError(f"essence_at is {self.essence_at!r}; expected 'subject' or 'last'")
        if self.max_rows is not None and self.max_rows < 1:
            raise HyperparameterError(
                f"max_rows is {self.max_rows}; expected at least 1, or None for a default by memory"
            )
        if isinstance(self.essence, str):
            object.__setattr__(self, "essence", (self.essence,))
        if self.context_templates is not None:
            object.__setattr__(self, "context_templates", as_templates(self.context_templates))
        if self.layers is not None:
            layers = (self.layers,) if isinstance(self.layers, int) else tuple(self.layers)
            object.__setattr__(self, "layers", tuple(sorted({int(layer) for layer in layers})))

    def templates(self) -> Templates:
        """The context templates, once they have been made."""
        assert self.context_templates is not None
        return tuple(tuple(kind) for kind in self.context_templates)

    def resolved(self, model: Model, layers: Sequence[int]) -> Self:
        """The same with all open settings that do not depend on the request filled in.

        Args:
            model: to be edited.
            layers: the default ones.
        """
        chosen = tuple(self.layers) if self.layers is not None else tuple(layers)
        for layer in chosen:
            model.path("key", layer)  # TracerError for a layer that does not exist
        if not chosen:
            raise HyperparameterError(f"layers is empty; name some of 0 to {model.n_layers - 1}, or leave it out")
        settings = replace(self, layers=chosen)
        if self.context_templates is None:
            with part("contexts"):
                made = context_templates(model, self.template_lengths, seed=self.seed)
            settings = replace(settings, context_templates=made)
        if self.v_lr is None and self.v_patience is None:
            settings = replace(settings, v_patience=PATIENCE)
        if self.v_steps is None:
            settings = replace(settings, v_steps=PUBLISHED_STEPS if self.v_lr is not None else STEPS)
        settings = replace(settings, stop_loss=self.end)
        with part("covariance"):
            if self.covariance is None:
                settings = replace(settings, covariance=covariance_for(model, chosen, self.origin))
            else:
                self.covariance.check(model, chosen, self.origin)
        return settings

    def objective(self, **more: Any) -> Objective:
        """The loss of the search.

        Args:
            more: other fields of the loss.
        """
        assert self.v_steps is not None
        return Objective(
            v_steps=self.v_steps,
            v_lr=self.v_lr,
            v_weight_decay=self.v_weight_decay,
            kl_factor=self.kl_factor,
            clamp=self.clamp,
            stop=self.end,
            loss_layer=self.v_loss_layer,
            patience=self.v_patience,
            reach=self.reach,
            stride=self.stride,
            **more,
        )

    @property
    def end(self) -> float:
        """The loss that ends a search."""
        if self.stop_loss is not None:
            return self.stop_loss
        return PUBLISHED_STOP if self.v_lr is not None else STOP

    @property
    def note(self) -> str:
        """Remark on the covariance for a reader of the edit, or ""."""
        return self.covariance.note if self.covariance is not None else ""

    def as_json(self) -> dict[str, Any]:
        """Every field as a json value; the covariance by its source."""
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


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return value
