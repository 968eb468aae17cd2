"""What a method asks for while it plans: covariance, contexts, sizes of weights, earlier edits; each made once.

An [`editing.Editor`][] and a worker of an evaluation keep what was measured for all their edits. Whatever depends on
weights is remembered under the hash of these weights, taken anew for every edit, so that weights changed by hand are
seen.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from editing.covariance.default import covariance_for
from editing.covariance.states import states_over_text
from editing.health.drift import Drift
from editing.health.harm import TOKENS
from editing.prepared.default import Given, prepared_for
from editing.prepared.prepared import Prepared, load_prepared
from tracer.engine.aligned import Trials
from tracer.errors import HyperparameterError
from tracer.model.identity import kind_of

from .timing import part
from .value.context_templates import Templates, context_templates

if TYPE_CHECKING:
    from torch import Tensor

    from editing.covariance.covariance import Covariance
    from editing.edits.edit import Edit
    from tracer.model import Model

Kind = TypeVar("Kind")
ROOM = {"covariance": 2, "contexts": 16, "sizes": 16, "drift": 1, "states": 2, "separation": 4096, "whitening": 2}
"""How many results of a kind are remembered, the last ones used; covariances and distributions are large."""


class Measured:
    """Results by kind and by all that determines them; those not used for longest go.

    Attributes:
        trials: ways in which the model can be run.
    """

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[Hashable, Any]] = {kind: OrderedDict() for kind in ROOM}
        self.trials = Trials()

    def get(self, kind: str, key: Hashable, make: Callable[[], Kind]) -> Kind:
        """The result of `make`, or that of an earlier call.

        Args:
            kind: one of `ROOM`.
            key: all that the result depends on.
            make: makes it.
        """
        kept = self._kept[kind]
        if key not in kept:
            kept[key] = make()
        kept.move_to_end(key)
        while len(kept) > ROOM[kind]:
            kept.popitem(last=False)
        return kept[key]


@dataclass(frozen=True, eq=False)
class Start:
    """Weights that hyper-parameters are measured on, where these are not the model's present ones.

    Attributes:
        fingerprint: their hash.
        model: a handle on the model that takes its hash anew each time.
        put: context in which the model has them; afterwards it has the exact bits of before.
    """

    fingerprint: str
    model: Model
    put: Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, eq=False)
class EditContext:
    """What methods are served with while they plan edits of a model. [`editing.compute_edit`][] makes one.

    Attributes:
        model: to be edited; `pinned` at its present weights.
        given: covariance that was given; None: the default one.
        origin: hash of the weights before any edit, whose covariance is meant; None: the model as it is.
        earlier: edits whose keys are to keep their values.
        max_rows: prompts run at once; None: by memory.
        prepared: what was prepared, as of `editing.prepared.prepared_for`.
        measured: what was measured before.
        start: weights that hyper-parameters are measured on; None: the present ones.
    """

    model: Model
    given: Covariance | None = None
    origin: str | None = None
    earlier: tuple[Edit, ...] = ()
    max_rows: int | None = None
    prepared: Given = None
    measured: Measured = field(default_factory=Measured)
    start: Start | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", self.model.pinned())
        object.__setattr__(self, "earlier", tuple(self.earlier))
        if self.max_rows is not None and self.max_rows < 1:
            raise HyperparameterError(
                f"max_rows is {self.max_rows}; expected at least 1, or None for a default by memory"
            )

    def _origin_like(self, made_on: Iterable[str]) -> str | None:
        """The origin as a hash of the kind that one of these is, if it is the one."""
        for found in made_on:
            if self.origin is None or self.start is None or kind_of(found) == kind_of(self.origin):
                continue
            if self.origin == self.start.fingerprint:
                with self.start.put():
                    if self.start.model.fingerprint(found) == found:
                        return found
        return self.origin

    def on(self, model: Model) -> Self:
        """The same for a handle with other weights, such as the model with a part of an edit in place."""
        return replace(self, model=model)

    def covariance(self, layers: Sequence[int]) -> Covariance:
        """Second moments of keys at some layers, loaded and factored once.

        Args:
            layers: of the edit.

        Raises:
            TracerError: a covariance of other weights was given, or one that lacks a layer; or as
                [`editing.covariance_for`][] does.
        """
        with part("covariance"):
            if self.given is not None:
                self.given.check(self.model, layers, self._origin_like([self.given.fingerprint]))
                return self.given
            expected = self.origin or self.model.fingerprint()

            def make() -> Covariance:
                if self.start is not None and self.start.fingerprint == expected:
                    with self._started() as model:
                        return covariance_for(model, layers, self.origin)
                return covariance_for(self.model, layers, self.origin)

            return self.measured.get("covariance", (expected, tuple(layers)), make)

    def prepared_for(self, method: str) -> Prepared:
        """What was prepared for a method, checked against the model's weights or those before any edit.

        Args:
            method: its name.

        Raises:
            TracerError: there is nothing, or it was made for another model or method.
        """
        prepared = load_prepared(self.prepared) if isinstance(self.prepared, str | Path) else self.prepared
        every = (prepared,) if isinstance(prepared, Prepared) else prepared or ()
        origin = self._origin_like(each.fingerprint for each in every if each.method == method)
        return prepared_for(self.model, method, prepared, origin)

    def templates(self, lengths: Sequence[tuple[int, int]], seed: int) -> Templates:
        """Context templates that the model writes, sampled once per weights, lengths and seed.

        Args:
            lengths: (tokens, how many) pairs.
            seed: of the draws.
        """

        def make() -> Templates:
            with self._started() as model:
                return context_templates(model, lengths, seed=seed)

        key = (self._weights, tuple((int(tokens), int(count)) for tokens, count in lengths), seed)
        with part("contexts"):
            return self.measured.get("contexts", key, make)

    def size(self, layers: Sequence[int]) -> float:
        """Root mean square of the numbers of the down-projections of some layers.

        Args:
            layers: of the weights.
        """

        def make() -> float:
            with self._started() as model:
                weights = [model.down_projection(layer).weight.detach() for layer in layers]
                return math.sqrt(sum(float(weight.float().pow(2).mean()) for weight in weights) / len(weights))

        with part("sizes"):
            return self.measured.get("sizes", (self._weights, tuple(layers)), make)

    def states(self, layer: int, tokens: int) -> Tensor:
        """States that enter a layer's MLP at the first tokens of the default text, [tokens, d_model], read once.

        Args:
            layer: its index.
            tokens: number of them.
        """
        key = (self.model.weights_fingerprint(), layer, tokens)
        with part("states"):
            return self.measured.get("states", key, lambda: states_over_text(self.model, layer, tokens))

    def measure(self, kind: str, key: Hashable, make: Callable[[Model], Kind]) -> Kind:
        """What a method measures on the weights that hyper-parameters are measured on; remembered.

        Args:
            kind: one of `ROOM`.
            key: all that it depends on besides the weights.
            make: measures it on a model.
        """

        def started() -> Kind:
            with self._started() as model:
                return make(model)

        return self.measured.get(kind, (self._weights, key), started)

    def drift(self) -> Drift:
        """Distributions of the present weights over unrelated text."""
        return self.measured.get("drift", self.model.fingerprint(), lambda: Drift.recorded(self.model, tokens=TOKENS))

    @property
    def _weights(self) -> str:
        return self.model.fingerprint() if self.start is None else self.start.fingerprint

    @contextmanager
    def _started(self) -> Iterator[Model]:
        """The model with the weights that hyper-parameters are measured on."""
        if self.start is None or self.start.fingerprint == self.model.fingerprint():
            yield self.model
            return
        with self.start.put():
            yield self.start.model.pinned()
