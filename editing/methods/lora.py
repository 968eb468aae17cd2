"""Low-rank adapters (Hu et al. 2022, "LoRA"), trained on the requests with peft and extracted as a change of weights.

Each chosen projection W gets A [rank, in], drawn at random, and B [out, rank], zero; training moves both, and the
change is alpha / rank * B A. The adapters wrap modules of the model while they are trained. Afterwards, whatever
happened, every module, hook and flag is the one it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editing.edits.weights import check_editable
from tracer.checks import finite, installed, whole
from tracer.engine.hooks import evaluating, frozen
from tracer.errors import AdapterError, HyperparameterError, TracerError
from tracer.model import as_stored, orientation
from tracer.progress import track

from .context import EditContext
from .method import Change, Group, Method
from .training import Schedule, as_layers, train

if TYPE_CHECKING:
    from tracer.model import Model

ADAPTER = "edit"


@dataclass(frozen=True)
class LoRASettings:
    """Hyper-parameters of low-rank adaptation.

    Attributes:
        layers: which blocks get adapters; None: those from a quarter to half of the depth. (Published: all of them.)
        modules: names, as in `model.hf`, of the projections in each of these blocks that do, such as `("q_proj",
            "v_proj")`; None: the MLP's down-projection.
        rank: the change is `alpha / rank * B A`.
        alpha: factor of the change, see `rank`.
        dropout: of the adapters' input while they are trained. (Published: 0.1.)
        steps: passes over the requests, at most.
        lr: learning rate of Adam. (Published: 5e-3.)
        objective: see [`editing.methods.training.Schedule`][].
        stop_loss: see [`editing.methods.training.Schedule`][]. (Published: no limit of the loss.)
        weight_decay: Adam's L2 term on A and B.
        batch_size: see [`editing.methods.training.Schedule`][].
        seed: of A and of dropout; the global random state is left alone.
    """

    layers: Sequence[int] | None = None
    modules: Sequence[str] | None = None
    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.0
    steps: int = 50
    lr: float = 1e-3
    objective: str = "target_new"
    stop_loss: float = 1e-2
    weight_decay: float = 0.0
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        if self.modules is not None:
            names = (self.modules,) if isinstance(self.modules, str) else tuple(self.modules)
            if not names or not all(isinstance(name, str) and name for name in names):
                raise HyperparameterError(
                    f"modules is {self.modules!r}; expected names such as ('q_proj', 'v_proj'), or None"
                )
            object.__setattr__(self, "modules", names)
        whole("rank", self.rank, 1, kind=HyperparameterError)
        whole("seed", self.seed, kind=HyperparameterError)
        finite("alpha", self.alpha, above=0, kind=HyperparameterError, expected="a number above zero")
        expected = "a share from 0 to below 1"
        finite("dropout", self.dropout, 0, below=1, kind=HyperparameterError, expected=expected)
        finite("weight_decay", self.weight_decay, 0, kind=HyperparameterError, expected="zero or more")
        self.schedule()

    def schedule(self) -> Schedule:
        """Schedule of the training; checks its settings."""
        return Schedule(self.objective, self.steps, self.lr, self.stop_loss, self.batch_size)


def plan(model: Model, groups: Sequence[Group], settings: LoRASettings, context: EditContext) -> list[Change]:
    """One change per group, each trained by itself on the model as it is, from the same random start.

    Raises:
        TracerError: modules that the model does not have; weights that cannot be edited.
    """
    layers = tuple(settings.layers or range(model.n_layers // 4, model.n_layers // 2 + 1))
    chosen = replace(settings, layers=layers)  # as they are noted
    paths = projections(model, layers, settings.modules)
    check_editable(model, [f"{path}.weight" for path in paths])
    with evaluating(model), frozen(model):
        return [_change(model, group, chosen, paths) for group in track(groups, "training adapters")]


def projections(model: Model, layers: Sequence[int], modules: Sequence[str] | None) -> list[str]:
    """Paths, in `model.hf`, of the modules that get adapters.

    Args:
        model: to be edited.
        layers: whose blocks are searched.
        modules: names; None: the down-projections.

    Raises:
        TracerError: a name without any module.
    """
    if modules is None:
        return [model.path("key", layer) for layer in layers]
    found = []
    for layer in layers:
        block = model.path("hidden", layer)
        inside = {name: module for name, module in model.hf.get_submodule(block).named_modules() if _linear(module)}
        for wanted in modules:
            own = [name for name in inside if f".{name}".endswith(f".{wanted}")]
            if not own:
                known = ", ".join(inside)
                raise HyperparameterError(f"block {layer} of {model.name} has no projection {wanted!r}; it has {known}")
            found += [f"{block}.{name}" for name in own]
    return list(dict.fromkeys(found))


def _linear(module: nn.Module) -> bool:
    try:
        return bool(orientation(module, ""))
    except TracerError:
        return False


def _change(model: Model, group: Group, settings: LoRASettings, paths: Sequence[str]) -> Change:
    with adapted(model, settings, paths) as layers:
        parameters = [matrix for layer in layers.values() for matrix in adapter_matrices(layer)]
        decay = settings.weight_decay

        def shrink() -> None:
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad.add_(parameter.detach(), alpha=decay)

        trained = train(model, group, parameters, settings.schedule(), before_step=shrink if decay else None)
        factors = factors_of(layers, settings)
    return Change(factors, _plain(settings), trained.evidence, trained.note)


def factors_of(layers: dict[str, Any], settings: LoRASettings) -> dict[str, tuple[Tensor, Tensor]]:
    """Changes of the weights that the adapters wrap, in the orientation these are stored in."""
    factors = {}
    for path, layer in layers.items():
        a, b = (matrix.detach().to("cpu", torch.float32) for matrix in adapter_matrices(layer))
        inner, outer = a.T.contiguous(), settings.alpha / settings.rank * b  # [in, rank], [out, rank]
        factors[f"{path}.weight"] = as_stored(orientation(layer.base_layer, path), inner, outer)
    return factors


def adapter_matrices(layer: Any) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank] of an adapter.

    Args:
        layer: of `adapted`.
    """
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


@contextmanager
def adapted(model: Model, settings: LoRASettings, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Context in which the modules at `paths` are peft's adapters around them, float32 at least; yields them by path.

    Afterwards, and after any error, also one of peft's while it wraps, the modules, parameters' flags, attributes of
    the model and the random state are those of before.
    """
    peft = installed("peft.tuners.lora", "lora", "training LoRA adapters", kind=AdapterError)
    modules = {path: model.hf.get_submodule(path) for path in paths}
    asking = [(parameter, parameter.requires_grad) for parameter in model.hf.parameters()]
    attributes = dict(vars(model.hf))
    devices = [model.device] if model.device.type == "cuda" else []
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(paths),
        fan_in_fan_out=all(orientation(module, path) == "in_out" for path, module in modules.items()),
    )
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(settings.seed)
            peft.LoraModel(model.hf, config, ADAPTER)
            layers: dict[str, Any] = {path: model.hf.get_submodule(path) for path in paths}
            for layer in layers.values():
                for matrix in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
                    matrix.to(torch.promote_types(matrix.weight.dtype, torch.float32))
            yield layers
    finally:
        for path, module in modules.items():
            parent, _, name = path.rpartition(".")
            setattr(model.hf.get_submodule(parent), name, module)
        for parameter, asked in asking:
            parameter.requires_grad_(asked)
        for name in set(vars(model.hf)) - set(attributes):
            delattr(model.hf, name)
        vars(model.hf).update(attributes)


def _plain(settings: LoRASettings) -> dict[str, Any]:
    """The settings as json values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


METHOD = Method(
    "lora",
    LoRASettings,
    plan,
    seeded=True,
    seq2seq=True,
    summary="low-rank adapters, trained and merged (Hu et al. 2022)",
)
