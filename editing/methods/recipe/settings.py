"""Hyper-parameters of RECIPE's edits and of its preparation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editing.memories.soft_nets import ENCODER, STATES
from editing.methods.training import as_layers
from tracer.checks import finite, share, whole
from tracer.errors import HyperparameterError

READS = (STATES, ENCODER)


@dataclass(frozen=True)
class RECIPEPreparation:
    """How RECIPE is prepared. Defaults are for a small model; the published numbers are in parentheses.

    Attributes:
        reads: what the heads read: "states", the model's own; "encoder", a small transformer that is trained from
            nothing on the model's tokens. (A pretrained RoBERTa.)
        layers: whose states are read; None: behind a quarter of the blocks, and behind the last but one.
        encoder_layers: blocks of an encoder. (12)
        encoder_width: its width. (768)
        rep: width of representations. (4,096)
        sentinel: tokens of the sentinel. (10)
        vectors: of a soft prompt. (3)
        steps: of the training. (As many as there is patience for, at 1,000 epochs.)
        lr: learning rate of Adam; less for maps of more than 256 inputs, in proportion. (1e-5 for all)
        batch: edits of a step. (8)
        hinge: what is so many times as probable as the next best is not learnt any more. (1.2)
        recombined: share of the edits about a name that nobody bears, put together of those of two subjects of the
            relation. (0: the records as they are)
        drawn: share of the edits whose target is drawn from those of the relation's other records. (0)
        apart: share of the questions to be left alone that are asked about a name that nobody bears. (0)
        decay: whether the rate falls to zero over the steps. (No.)
        checked: records of the validation, at most.
    """

    reads: str = STATES
    layers: Sequence[int] | None = None
    encoder_layers: int = 2
    encoder_width: int = 48
    rep: int = 64
    sentinel: int = 4
    vectors: int = 3
    steps: int = 3000
    lr: float = 2e-3
    batch: int = 8
    hinge: float = 1.2
    recombined: float = 0.7
    drawn: float = 1.0
    apart: float = 0.5
    decay: bool = True
    checked: int = 60

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        if self.reads not in READS:
            raise HyperparameterError(f"reads is {self.reads!r}; expected one of {', '.join(map(repr, READS))}")
        for name in ("encoder_layers", "encoder_width", "rep", "sentinel", "vectors", "checked"):
            whole(name, getattr(self, name), 1, kind=HyperparameterError)
        whole("batch", self.batch, 2, kind=HyperparameterError)
        whole("steps", self.steps, kind=HyperparameterError)
        finite("lr", self.lr, above=0, kind=HyperparameterError)
        finite("hinge", self.hinge, 1, kind=HyperparameterError)
        for name in ("recombined", "drawn", "apart"):
            share(name, getattr(self, name), kind=HyperparameterError)
