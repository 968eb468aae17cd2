"""Hyper-parameters of Transformer-Patcher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editing.memories.activations import NAMES
from editing.methods.training import as_layers
from tracer.checks import finite, whole
from tracer.errors import HyperparameterError

from .losses import check_term

OWN = "own"
STARTS = ("unembed", "zero", "normal")


@dataclass(frozen=True)
class TPatcherSettings:
    """Hyper-parameters of Transformer-Patcher; the numbers published are those of its editor of sequences.

    Attributes:
        layers: the one beside whose MLP patches stand; None: the last.
        activation: function of the patches by transformers' name; or "own", the model's own ("gelu" where that has
            parameters). None: that of patches which are there, or "relu": what gelu lets through below zero is little
            for one patch, and after a hundred drowns the answer of most. (Published: "own".)
        patches: most of them for a request, one for each token of the target that is not said.
        start: of the values: "unembed", the direction of the token wanted in the unembedding, `size` long; "zero"; or
            "normal", drawn, times `amplify`. (Published: "normal".)
        size: length of a value at the start, in lengths of the hidden state it is added to.
        amplify: factor of drawn values, trained too; see `start`. (Published: 10.)
        steps: of Adam, at most. (Published: 2000.)
        lr: learning rate. None: measured, so that no step moves an activation at its own place by more than half, nor
            a value by more than a twentieth of the state. (Published: 1e-2.)
        weight_decay: Adam's L2 term. (Published: 1e-2.)
        clip_norm: bound of the gradient's norm; None: none. (Published: 5.)
        label_smoothing: of the loss of the target. (Published: 0.1.)
        act_weight: weight of the term that patches are active at their own places.
        act_loss: this term, see [`editing.methods.t_patcher.losses.term`][]. (Published: "top5_exp", which picks by
            rounding errors among patches that begin equal.)
        memory_weight: weight of the terms that they are not active elsewhere. (Published: 10, or 5 in classifiers.)
        memory_loss: these two terms.
        margins: activation at an own place that is to be exceeded; by how much less it is to be elsewhere; activation
            elsewhere not to be exceeded. None: (2, m, -m) with the least m from 3 on behind which the activation
            function lets less than a hundredth through. (Published: 0, 3 and -3, of which the editor of sequences
            passes on none.)
        repeats: times that the request is in a batch. (Published: 8.)
        stop_loss: training ends when each token of the target has a lower loss and patches let less than a tenth
            through at all but `stop_share` of the corpus; 0: never.
        stop_share: see `stop_loss`.
        validate_every: steps between two validations, for which a fifth of the corpus is kept aside: rates are halved
            when the target's loss has twice not fallen by a twentieth, and training ends once the target is said and
            patches grow no more silent at the states kept aside; 0: never. (Published: 25.)
        validate_from: step from which on training may end so. (Published: 100.)
        tokens: of the corpus, where patches are not to be active.
        seed: of drawn values; the global random state is left alone.
        name: of the memory; one of another layer needs another name.
    """

    layers: Sequence[int] | None = None
    activation: str | None = None
    patches: int = 5
    start: str = "unembed"
    size: float = 0.05
    amplify: float = 10.0
    steps: int = 200
    lr: float | None = None
    weight_decay: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    act_weight: float = 1.0
    act_loss: str = "exp"
    memory_weight: float = 10.0
    memory_loss: str = "top1000_exp+top1000_exp"
    margins: Sequence[float] | None = None
    repeats: int = 1
    stop_loss: float = 0.01
    stop_share: float = 0.01
    validate_every: int = 0
    validate_from: int = 100
    tokens: int = 8192
    seed: int = 0
    name: str = "t_patcher"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        kind = HyperparameterError
        if self.start not in STARTS:
            raise kind(f"start is {self.start!r}; expected one of {', '.join(map(repr, STARTS))}")
        if self.activation not in (None, OWN, *NAMES):
            raise kind(f"activation is {self.activation!r}; expected one of {', '.join((*NAMES, OWN))}")
        for name in ("patches", "steps", "repeats", "tokens"):
            whole(name, getattr(self, name), 1, kind=kind)
        for name in ("seed", "validate_every", "validate_from"):
            whole(name, getattr(self, name), kind=kind)
        for name in ("size", "amplify", "weight_decay", "act_weight", "memory_weight", "stop_loss"):
            finite(name, getattr(self, name), 0, kind=kind, expected="zero or more")
        for name in ("stop_share", "label_smoothing"):
            finite(name, getattr(self, name), 0, below=1, kind=kind, expected="a share from 0 to below 1")
        for name, without in (("lr", "a measured one"), ("clip_norm", "none")):
            value = getattr(self, name)
            if value is not None:
                finite(name, value, above=0, kind=kind, expected=f"a number above zero, or None for {without}")
        check_term(self.act_loss, "act_loss")
        both = self.memory_loss.split("+") if isinstance(self.memory_loss, str) else ()
        if len(both) != 2:
            raise kind(f"memory_loss is {self.memory_loss!r}; expected two terms, such as 'top1000_exp+top1000_exp'")
        for each in both:
            check_term(each, "memory_loss")
        if self.margins is not None:
            try:
                found = tuple(float(margin) for margin in self.margins)
            except (TypeError, ValueError):
                found = ()
            if len(found) != 3:
                raise kind(f"margins is {self.margins!r}; expected three numbers, or None for measured ones")
            for margin in found:
                finite("margins", margin, kind=kind)
            object.__setattr__(self, "margins", found)
        if not isinstance(self.name, str) or not self.name.strip():
            raise kind(f"name is {self.name!r}; expected a name for the memory")
