"""Hyper-parameters of fine-tuning for task arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracer.checks import finite, layers, whole
from tracer.errors import HyperparameterError


@dataclass(frozen=True)
class FinetuneSettings:
    """Hyper-parameters of fine-tuning. Its updates are those of AdamW.

    Attributes:
        rank: of an adapter beside each projection written; None: every parameter is trained.
        layers: blocks that are trained; None: all, and without `rank` also what stands outside of blocks.
        modules: with `rank`, names of the projections that get adapters, such as ("q_proj", "v_proj"); None: the
            down-projections.
        steps: of AdamW, at most.
        lr: its rate. None: a three thousandth of the root mean square of the down-projections; with `rank` 3e-4.
            (Published: 1e-5, of CLIP and T5.)
        weight_decay: decoupled, of the weights themselves or, with `rank`, of the adapter's. (Published: 0.1.)
        clip_norm: bound of the gradient's norm; None: none.
        batch_size: texts or requests of a step.
        stop_loss: training ends when every batch of a pass has a lower loss; 0: never.
        seed: of the order of batches and of adapters; the global random state is left alone.
    """

    rank: int | None = None
    layers: Sequence[int] | None = None
    modules: Sequence[str] | None = None
    steps: int = 200
    lr: float | None = None
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    batch_size: int = 32
    stop_loss: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        kind = HyperparameterError
        if self.layers is not None:
            object.__setattr__(self, "layers", layers(self.layers, kind=kind))
        for name in ("steps", "batch_size"):
            whole(name, getattr(self, name), 1, kind=kind)
        if self.rank is not None:
            whole("rank", self.rank, 1, kind=kind)
        whole("seed", self.seed, kind=kind)
        if self.modules is not None and self.rank is None:
            raise kind("modules names projections that get adapters; give their rank too (rank=8), or leave it out")
        for name in ("weight_decay", "stop_loss"):
            finite(name, getattr(self, name), 0, kind=kind, expected="zero or more")
        for name, without in (("lr", "a measured one"), ("clip_norm", "none")):
            value = getattr(self, name)
            if value is not None:
                finite(name, value, above=0, kind=kind, expected=f"a number above zero, or None for {without}")
