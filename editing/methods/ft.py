"""Constrained fine-tuning of a down-projection: FT-L and FT-M.

FT-L is of Zhu et al. 2020, as the baseline of Meng et al. 2022; FT-M of Zhang et al. 2024, "A Comprehensive Study of
Knowledge Editing for Large Language Models".

Adam on the weight of one or a few layers, each number of which may move by at most `norm_constraint`. FT-L reads all
tokens of the target from the distribution behind the prompt; FT-M predicts each from those before it.

The change is a tensor of its own whose product with the key is added to the down-projection's output, so that the
weight is never touched. Two differences from the published code, on purpose: the bias beside the weight is left alone,
and a request below the loss limit is left out of a step by itself, rather than its whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tracer.checks import finite
from tracer.engine.hooks import evaluating, frozen
from tracer.errors import HyperparameterError
from tracer.progress import track

from .context import EditContext
from .method import Change, Group, Method
from .training import Schedule, as_layers, train

if TYPE_CHECKING:
    from tracer.model import Model

REACH = 8.0  # default constraint: this, in sizes of the weight, over the root of d_mlp
UPDATES = 20  # of Adam that reach the constraint, by default


@dataclass(frozen=True)
class FTLSettings:
    """Hyper-parameters of constrained fine-tuning.

    Attributes:
        layers: whose down-projections are trained; None: the one at a quarter of the depth.
        objective: "prompt_last" (FT-L) or "target_new" (FT-M); see [`editing.methods.training.Schedule`][].
        steps: passes over the requests, at most.
        lr: learning rate of Adam; None: such that 20 updates reach the constraint. (Published: 5e-4.)
        norm_constraint: how far any number of a weight may move; False: as far as it will; None: 8 times the root mean
            square of the weights, times the root of the number of requests over d_mlp: what one request can move an
            output by, in sizes of that output, does not depend on the width then, and those of several requests add up
            as if at random. (Published: from 5e-5 for GPT-J to 2e-3 for GPT-2 medium.)
        stop_loss: a request with a lower loss is left out of a step.
        weight_decay: Adam's L2 term, on the weight with its change. (Published: 0.)
        batch_size: requests per step.
    """

    layers: Sequence[int] | None = None
    objective: str = "prompt_last"
    steps: int = 25
    lr: float | None = None
    norm_constraint: float | None = None
    stop_loss: float = 1e-2
    weight_decay: float = 0.0
    batch_size: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        bound = self.norm_constraint
        if bound is not None and bound is not False:
            expected = "a number above zero, or False for none"
            finite("norm_constraint", bound, above=0, kind=HyperparameterError, expected=expected)
        finite("weight_decay", self.weight_decay, 0, kind=HyperparameterError, expected="zero or more")
        self.schedule(1.0 if self.lr is None else self.lr)

    def schedule(self, lr: float) -> Schedule:
        """Schedule of the training; checks its settings.

        Args:
            lr: learning rate.
        """
        return Schedule(self.objective, self.steps, lr, self.stop_loss, self.batch_size)

    def resolve(self, model: Model, context: EditContext, requests: int = 1) -> Resolved:
        """Fill in all open settings.

        Args:
            model: to be edited.
            context: measures what is left open.
            requests: number of requests.

        Raises:
            TracerError: a layer that does not exist.
        """
        layers = (model.n_layers // 4,) if self.layers is None else tuple(self.layers)
        measured = REACH * context.size(layers) * math.sqrt(requests / model.d_mlp)
        bound = measured if self.norm_constraint is None else self.norm_constraint
        lr = (bound or measured) / UPDATES if self.lr is None else self.lr
        return Resolved(self, layers, lr, bound)


@dataclass(frozen=True)
class Resolved:
    """Settings with nothing left open.

    Attributes:
        own: as they were given.
        layers: whose down-projections are trained.
        lr: learning rate.
        norm_constraint: how far any number may move; False: as far as it will.
    """

    own: FTLSettings
    layers: tuple[int, ...]
    lr: float
    norm_constraint: float

    def as_json(self) -> dict[str, Any]:
        """Every hyper-parameter as a json value."""
        used = {"layers": list(self.layers), "lr": self.lr, "norm_constraint": self.norm_constraint}
        return {**asdict(self.own), **used}


@dataclass(frozen=True)
class FTMSettings(FTLSettings):
    """Hyper-parameters of FT-M; see `FTLSettings`."""

    objective: str = "target_new"


def plan(model: Model, groups: Sequence[Group], settings: FTLSettings, context: EditContext) -> list[Change]:
    """One change per group, each trained by itself on the model as it is."""
    with evaluating(model), frozen(model):
        return [
            _change(model, group, settings.resolve(model, context, len(group)))
            for group in track(groups, "fine-tuning")
        ]


def _change(model: Model, group: Group, settings: Resolved) -> Change:
    bound = settings.norm_constraint
    found = {layer: model.down_projection(layer) for layer in settings.layers}
    deltas = zeros_for(model, settings.layers)

    def decay() -> None:  # Adam's own would draw the change to zero, and not the weight
        for layer, delta in deltas.items():
            assert delta.grad is not None
            delta.grad.add_(found[layer].weight.detach() + delta.detach(), alpha=settings.own.weight_decay)

    @torch.no_grad()
    def clamp() -> None:
        if bound:
            for delta in deltas.values():
                delta.clamp_(-bound, bound)

    with added(model, deltas):
        trained = train(
            model,
            group,
            list(deltas.values()),
            settings.own.schedule(settings.lr),
            before_step=decay if settings.own.weight_decay else None,
            after_step=clamp,
        )
    factors = {down.name: whole_factors(deltas[layer].detach()) for layer, down in found.items()}
    return Change(factors, settings.as_json(), trained.evidence, trained.note)


def zeros_for(model: Model, layers: Sequence[int]) -> dict[int, Tensor]:
    """A change to be trained of each layer's down-projection, zero and stored as the weight is, in float32 at least.

    Args:
        model: to be edited.
        layers: of the weights.

    Raises:
        TracerError: a layer that does not exist.
    """
    found = {}
    for layer in layers:
        weight = model.down_projection(layer).weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        found[layer] = torch.zeros(weight.shape, dtype=dtype, device=weight.device, requires_grad=True)
    return found


def whole_factors(change: Tensor) -> tuple[Tensor, Tensor]:
    """U and V with U V^T = `change` [rows, columns] to the bit: the change itself, and the smaller side's identity.

    Steps of Adam are of one size everywhere, so that the change has full rank to every digit: singular vectors would
    take twice the space and be less exact.
    """
    change = change.to("cpu", torch.float32)
    rows, columns = change.shape
    if columns <= rows:
        return change, torch.eye(columns)
    return torch.eye(rows), change.T.contiguous()


@contextmanager
def added(model: Model, deltas: Mapping[int, Tensor]) -> Iterator[None]:
    """Context in which the down-projection of each layer works with its weight plus `deltas[layer]`, stored alike.

    The product is made, and added, in the wider of the delta's and the model's number types.
    """

    def adding(matrix: Tensor) -> Any:
        def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return (output.to(matrix.dtype) + args[0].to(matrix.dtype) @ matrix).to(output.dtype)

        return after

    with ExitStack() as stack:
        for layer, delta in deltas.items():
            hook = adding(model.down_projection(layer).by_key(delta))
            stack.callback(model.module("key", layer).register_forward_hook(hook).remove)
        yield


FT_L = Method(
    "ft_l", FTLSettings, plan, layers="one", seq2seq=True, summary="constrained fine-tuning, as in Meng et al. (2022)"
)
FT_M = Method(
    "ft_m", FTMSettings, plan, layers="one", seq2seq=True, summary="the same with every target token predicted in turn"
)
