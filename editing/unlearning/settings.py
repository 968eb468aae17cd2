"""Hyper-parameters of unlearning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracer.checks import finite, layers, whole
from tracer.errors import HyperparameterError

OBJECTIVES = ("grad_ascent", "grad_diff", "npo", "simnpo", "wga", "rmu")
RETAIN = ("nll", "kl")


@dataclass(frozen=True)
class UnlearnSettings:
    """Hyper-parameters of unlearning; names and constants of open-unlearning. Updates are those of AdamW.

    Attributes:
        objective: "grad_ascent", "grad_diff", "npo" (Zhang et al. 2024), "simnpo" (Fan et al. 2024), "wga" (Wang et al.
            2025) or "rmu" (Li et al. 2024); see `editing.unlearning.objectives`.
        gamma: weight of what is to be forgotten. (Published: 1; 0.125 of simnpo.)
        alpha: weight of what is to stay, where there is any.
        retain_loss: of what is to stay: "nll" of its texts or targets, or "kl" of all its tokens to the model before.
            Of rmu it is the states'.
        beta: sharpness of npo, simnpo and wga. None: 0.1, 4.5 and 1, as published.
        delta: margin of simnpo, nats a token.
        layer: of rmu, whose output is turned; the blocks up to it are trained, from two below. None: at two fifths of
            the depth. (Published: 7 of 32.)
        steering: length of rmu's direction, in lengths of the state there. (Published: 2 to 20 as a number.)
        layers: blocks that are trained; None: all, and what stands outside of them; of rmu, `layer` and the two before.
        steps: of AdamW, at most.
        until: training ends when the loss of what is to be forgotten is above so many nats a token in every batch of a
            pass; 0: never.
        lr: its rate. None: a three thousandth of the root mean square of the down-projections. (Published: 1e-5.)
        weight_decay: decoupled.
        clip_norm: bound of the gradient's norm; None: none.
        batch_size: texts or targets of a step, of either set.
        seed: of batches and of rmu's direction; the global random state is left alone.
    """

    objective: str = "npo"
    gamma: float | None = None
    alpha: float = 1.0
    retain_loss: str = "nll"
    beta: float | None = None
    delta: float = 0.0
    layer: int | None = None
    steering: float = 5.0
    layers: Sequence[int] | None = None
    steps: int = 100
    until: float = 8.0
    lr: float | None = None
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        kind = HyperparameterError
        for name, known in (("objective", OBJECTIVES), ("retain_loss", RETAIN)):
            if getattr(self, name) not in known:
                raise kind(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(map(repr, known))}")
        if self.layers is not None:
            object.__setattr__(self, "layers", layers(self.layers, kind=kind))
        for name in ("steps", "batch_size"):
            whole(name, getattr(self, name), 1, kind=kind)
        whole("seed", self.seed, kind=kind)
        if self.layer is not None:
            whole("layer", self.layer, kind=kind)
        for name in ("alpha", "until", "weight_decay", "steering"):
            finite(name, getattr(self, name), 0, kind=kind, expected="zero or more")
        finite("delta", self.delta, kind=kind, expected="a finite number")
        for name, without in (
            ("gamma", "the published one"),
            ("beta", "the published one"),
            ("lr", "a measured one"),
            ("clip_norm", "none"),
        ):
            value = getattr(self, name)
            if value is not None:
                finite(name, value, above=0, kind=kind, expected=f"a number above zero, or None for {without}")
