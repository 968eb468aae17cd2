"""Shared hyper-parameters of the methods that optimise a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from editing.covariance.covariance import Covariance
from editing.methods.method import Need
from editing.request import EditRequest
from tracer import checks
from tracer.errors import EncoderDecoderError, HyperparameterError

from .context_templates import Templates, as_templates
from .objective import Objective
from .prompts import TOKENS, essence_rows, rewriting_rows
from .search import Subject

if TYPE_CHECKING:
    from editing.methods.context import EditContext
    from tracer.model import Model

NEEDS: frozenset[Need] = frozenset({"covariance", "origin", "max_rows"})
"""Needs of every method that optimises a value."""
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
            (`editing.methods.value.objective.Objective`).
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
        damping: added to the covariance's diagonal, as a share of the diagonal's mean.
        seed: of the context templates.
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
    damping: float = 0.0
    seed: int = 0

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
        if isinstance(self.essence, str):
            object.__setattr__(self, "essence", (self.essence,))
        if self.context_templates is not None:
            object.__setattr__(self, "context_templates", as_templates(self.context_templates))
        if self.layers is not None:
            object.__setattr__(self, "layers", checks.layers(self.layers, kind=HyperparameterError))

    @property
    def end(self) -> float:
        """The loss that ends a search."""
        if self.stop_loss is not None:
            return self.stop_loss
        return PUBLISHED_STOP if self.v_lr is not None else STOP

    @property
    def weighs_old_keys(self) -> bool:
        """Whether the covariance is used."""
        return True

    def chosen(self, model: Model, layers: Sequence[int]) -> tuple[int, ...]:
        """The layers, checked.

        Args:
            model: to be edited.
            layers: the default ones.

        Raises:
            TracerError: none, or one that does not exist.
        """
        found = tuple(self.layers) if self.layers is not None else tuple(layers)
        for layer in found:
            model.path("key", layer)  # TracerError for a layer that does not exist
            if layer not in recalling(model):
                raise EncoderDecoderError(
                    f"layer {layer} of {model.name} is in the decoder, which has no states of the subject's tokens; "
                    f"name layers of the encoder, 0 to {recalling(model)[-1]}"
                )
        if not found:
            raise HyperparameterError(f"layers is empty; name some of 0 to {model.n_layers - 1}, or leave it out")
        return found

    def as_json(self) -> dict[str, Any]:
        """Every field as a json value."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


Own = TypeVar("Own", bound=ValueSettings, covariant=True)


@dataclass(frozen=True, eq=False)
class Resolved(Generic[Own]):
    """Settings with nothing left open that does not depend on the request. Made by `resolve`.

    Attributes:
        own: hyper-parameters as they were given.
        layers: layers to write at, in order.
        templates: context templates, by kind.
        v_steps: losses computed per value at most.
        v_patience: updates without progress after which a search starts anew; None: never.
        covariance: second moments of keys at the layers.
        context: that the rest was taken from.
    """

    own: Own
    layers: tuple[int, ...]
    templates: Templates
    v_steps: int
    v_patience: int | None
    covariance: Covariance
    context: EditContext

    def objective(self, **more: Any) -> Objective:
        """The loss of the search.

        Args:
            more: other fields of the loss.
        """
        own = self.own
        return Objective(
            v_steps=self.v_steps,
            v_lr=own.v_lr,
            v_weight_decay=own.v_weight_decay,
            kl_factor=own.kl_factor,
            clamp=own.clamp,
            stop=own.end,
            loss_layer=own.v_loss_layer,
            patience=self.v_patience,
            reach=own.reach,
            stride=own.stride,
            **more,
        )

    @property
    def note(self) -> str:
        """Remark on the covariance for a reader of the edit, or ""."""
        return self.covariance.note

    def as_json(self, **measured: Any) -> dict[str, Any]:
        """Every hyper-parameter and need as a json value; the covariance by its source.

        Args:
            measured: values in place of those left open.
        """
        return {
            **self.own.as_json(),
            **{name: _plain(getattr(self, name)) for name in ("layers", "v_steps", "v_patience")},
            "stop_loss": self.own.end,
            "context_templates": _plain(self.templates),
            "origin": self.context.origin,
            "max_rows": self.context.max_rows,
            "covariance": {
                "corpus": self.covariance.corpus,
                "tokens": int(self.covariance.tokens),
                "fingerprint": self.covariance.fingerprint,
            },
            **measured,
        }


def recalling(model: Model) -> range:
    """Layers that have states of the subject's tokens: all, or of an encoder-decoder model those of its encoder.

    There the methods that write at the subject are an extension of the published ones.
    """
    return model.stacks.get("encoder", range(model.n_layers))


def resolve(model: Model, settings: Own, layers: Sequence[int], context: EditContext) -> Resolved[Own]:
    """Fill in all open settings that do not depend on the request.

    Args:
        model: to be edited.
        settings: as they were given.
        layers: the default ones.
        context: measures what is left open.

    Raises:
        TracerError: a layer that does not exist; a covariance that does not fit.
    """
    chosen = settings.chosen(model, layers)
    given = settings.context_templates
    templates = context.templates(settings.template_lengths, settings.seed) if given is None else as_templates(given)
    measured = settings.v_lr is None
    return Resolved(
        settings,
        chosen,
        templates,
        v_steps=settings.v_steps or (STEPS if measured else PUBLISHED_STEPS),
        v_patience=PATIENCE if measured and settings.v_patience is None else settings.v_patience,
        covariance=context.covariance(chosen),
        context=context,
    )


def subject_of(model: Model, request: EditRequest, settings: ValueSettings, templates: Templates) -> Subject:
    """The rows of a request."""
    token = settings.fact_token
    return Subject(
        tuple(rewriting_rows(model, request, templates, token)),
        tuple(essence_rows(model, request, settings.essence, token, settings.essence_at)),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return value
