"""Hyper-parameters of MEND, MALMEN and RLEdit: of an edit, and of the training of an editor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editing.methods.training import as_layers
from tracer.checks import finite, one_of, share, whole
from tracer.errors import HyperparameterError

from .factors import PREDICTING, TOKENS
from .nets import RULES, WEIGHTED
from .teaching import Teaching


@dataclass(frozen=True)
class MENDSettings:
    """Hyper-parameters of an edit by MEND.

    Attributes:
        layers: those of the editor, which cannot be used at others; None: these.
        published: the statistics by which factors are normalised take in the tokens of the edit first, matrix by
            matrix, as where the published code is not told that its training is over (the MEND of ROME's tables). By
            default they are those of the training.
    """

    layers: Sequence[int] | None = None
    published: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        if not isinstance(self.published, bool):
            raise HyperparameterError(f"published is {self.published!r}; expected True or False")


@dataclass(frozen=True)
class MALMENSettings(MENDSettings):
    """Hyper-parameters of an edit by MALMEN.

    Attributes:
        layers: as of `MENDSettings`.
        published: the statistics take in the tokens of all edits first, block by block, as published. By default they
            are those of the training, so that the same edit is always the same.
    """


@dataclass(frozen=True)
class RLEditSettings(MALMENSettings):
    """Hyper-parameters of an edit by RLEdit, which makes its changes one batch after another.

    Attributes:
        layers: as of `MENDSettings`.
        published: as of `MALMENSettings`; what one batch has moved the next goes on with.
    """


@dataclass(frozen=True)
class NetPreparation(Teaching):
    """What the trainings of MEND and MALMEN share; see [`editing.methods.meta.teaching.Teaching`][] for the rest.

    Attributes:
        nets: "weighted", or as published "mend" or "malmen"; see `editing.methods.meta.nets`.
        rank: of a net's blocks. (Published: 1920.)
        blocks: of a net.
        rate: the editor's step size at the start, with its sign: MEND adds it times x~ delta~^T, so that a negative one
            goes downhill. None: downhill, as far as lowers the loss most. (Published: +1e-4, which training has to
            turn.)
        measured: edits that the statistics of x and delta are taken from, before the first step; they stay.
        spread: of the features that a block begins with. (Published: the root of in + out, which is so large that
            they stay the random ones they are.)
        directions: strongest ones of the inputs at kept facts, of each matrix, which an edit leaves alone as far as it
            can; see `editing.methods.meta.whitening`. (Published: 0.)
        kept_rows: questions, of those that are to keep their answers, at which these inputs are read.
        tokens: of a request that its change is made of: "all" with a gradient, those "predicting" one of the target, or
            "subject_last", the subject's last.
        floor: least standard deviation of a coordinate, as a share of the median over all of x, or of delta.
    """

    projections: Sequence[str] | None = ("down",)
    nets: str = WEIGHTED
    rank: int = 64
    blocks: int = 2
    rate: float | None = None
    measured: int = 256
    spread: float = 1.0
    directions: int = 192
    kept_rows: int = 2000
    tokens: str = PREDICTING
    floor: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("tokens", self.tokens, TOKENS, kind=HyperparameterError)
        one_of("nets", self.nets, RULES, kind=HyperparameterError)
        for name in ("rank", "blocks", "measured"):
            whole(name, getattr(self, name), 1, kind=HyperparameterError)
        if self.rate is not None and not finite("rate", self.rate, kind=HyperparameterError):
            raise HyperparameterError("rate is 0; expected a step size, such as -1e-3")
        finite("spread", self.spread, above=0, kind=HyperparameterError)
        whole("directions", self.directions, kind=HyperparameterError)
        whole("kept_rows", self.kept_rows, 1, kind=HyperparameterError)
        finite("floor", self.floor, 0, kind=HyperparameterError)


@dataclass(frozen=True)
class MENDPreparation(NetPreparation):
    """How MEND is trained: by default at the down-projections of the last three MLPs.

    Published are both projections, and the "all" of `tokens`.
    """


@dataclass(frozen=True)
class MALMENPreparation(NetPreparation):
    """How MALMEN is trained: by default at the down-projections of the last three MLPs.

    Published are six MLPs, and the "predicting" of `tokens`.

    Attributes:
        block: requests whose loss is taken together; part of the editor. (Published: 32.) With 1, an edit does not
            depend on how edits are cut into blocks.
        log_ridge: logarithm of the ridge at the start.
    """

    edits: int | Sequence[int] = (1, 4, 16)
    block: int = 1
    log_ridge: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("block", self.block, 1, kind=HyperparameterError)
        finite("log_ridge", self.log_ridge, kind=HyperparameterError)


@dataclass(frozen=True)
class RLEditPreparation(MALMENPreparation):
    """How RLEdit is trained: a MALMEN editor, on sequences of batches that stay in.

    Attributes:
        sequence: batches of a sequence; a step is one sequence. (Published: 400, and one step in all.)
        depth: batches, the newest among them, whose targets are to be said and whose kept rows are to stay.
            (Published: 10.)
        retention: weight of a batch, where the next newer one has 1. (Published: 0.95.)
    """

    edits: int | Sequence[int] = 8
    others: int = 2
    sequence: int = 4
    depth: int = 3
    retention: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sequence", "depth"):
            whole(name, getattr(self, name), 1, kind=HyperparameterError)
        share("retention", self.retention, kind=HyperparameterError)
