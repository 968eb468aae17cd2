"""Hyper-parameters of CaliNET."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editing.memories.activations import NAMES
from editing.methods.training import as_layers
from tracer.checks import finite, whole
from tracer.errors import HyperparameterError

STARTS = ("zero", "linear")


@dataclass(frozen=True)
class CaliNETSettings:
    """Hyper-parameters of CaliNET. Its updates are those of Adafactor, without scaling by parameters.

    Attributes:
        layers: beside whose MLPs slots stand; None: the last.
        slots: of a block, which an edit adds. (Published: 64 for 100 facts.)
        activation: function of the slots by transformers' name.
        gated: whether slots are gated as in T5 1.1: two first matrices.
        start: of a block: "zero", its second matrix is zero, so that the model is what it was; or "linear", both are
            drawn as torch does. (Published: "linear".)
        steps: passes over the facts, at most. (Published: 5000.)
        lr: learning rate. None: measured, so that no step moves an activation at a fact by more than half, nor what a
            slot adds by more than a fiftieth of the state it is added to. (Published: 1e-2.)
        batch_size: facts of a step. (Published: 2048.)
        stop_loss: training ends when each token of every target has a lower loss; 0: never.
        kl_weight: weight of KL(before || after) over a text that has nothing to do with the facts. (Published: none.)
        kl_tokens: of that text.
        replay: most of the facts of earlier blocks that are trained along, drawn anew for each edit. (Published: none.)
        seed: of draws; the global random state is left alone.
        name: of the memory; one at other layers needs another name.
    """

    layers: Sequence[int] | None = None
    slots: int = 16
    activation: str = "relu"
    gated: bool = False
    start: str = "zero"
    steps: int = 100
    lr: float | None = None
    batch_size: int = 128
    stop_loss: float = 0.05
    kl_weight: float = 1.0
    kl_tokens: int = 256
    replay: int = 64
    seed: int = 0
    name: str = "calinet"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        kind = HyperparameterError
        for name, known in (("start", STARTS), ("activation", NAMES)):
            if getattr(self, name) not in known:
                raise kind(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(map(repr, known))}")
        for name, least in (
            ("slots", 1),
            ("steps", 1),
            ("batch_size", 1),
            ("kl_tokens", 2),
            ("replay", 0),
            ("seed", 0),
        ):
            whole(name, getattr(self, name), least, kind=kind)
        for name in ("stop_loss", "kl_weight"):
            finite(name, getattr(self, name), 0, kind=kind, expected="zero or more")
        if self.lr is not None:
            finite("lr", self.lr, above=0, kind=kind, expected="a number above zero, or None for a measured one")
        if not isinstance(self.name, str) or not self.name.strip():
            raise kind(f"name is {self.name!r}; expected a name for the memory")
