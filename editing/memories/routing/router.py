"""A router: from the prompt alone, the entry of a memory that acts, or none.

Two things make one: features, by which a prompt is scored against every entry, and a rule, which makes a decision of
the scores. Each is known by a name, so that one can be held fixed while the other varies, and with either any payload.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from editing.memories.route import Route
from editing.memories.small import Parts
from tracer.errors import HyperparameterError, MemoryMisfit
from tracer.files import tensors as tensorfile

from .features import Features, Texts, features_named
from .given import Line
from .rules import Rule, rule_named

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

PREFIX, NAME = "router/", "router"


@dataclass(frozen=True, eq=False)
class Router:
    """Features and a rule; immutable. In a memory it lies as tensors ("router/...") and a part of the header.

    Attributes:
        rule: one of `RULES`.
        features: one of `FEATURES`.
        settings: numbers and words of both, json values.
        tensors: of both, by name, on the CPU.

    Raises:
        TracerError: an unknown rule or features, a setting that is missing or out of range, a tensor that is missing.
    """

    rule: str
    features: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        features, rule = self.own_features, self.own_rule
        try:
            settings = json.loads(json.dumps({**features.settings, **rule.settings, **self.settings}))
        except (TypeError, ValueError) as error:
            raise HyperparameterError(f"the settings of a router are to be plain json values ({error})") from error
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "tensors", {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()})
        object.__setattr__(self, "_held", {})
        for part, name in ((features, self.features), (rule, self.rule)):
            lacking = [each for each in part.settings if settings.get(each) is None and each not in part.optional]
            lacking += [each for each in part.tensors if each not in self.tensors]
            if lacking:
                raise HyperparameterError(
                    f"a router by {name!r} needs {lacking[0]!r}, which was neither given nor prepared; prepare one "
                    "with editing.prepare(model, 'rase', records), or give it"
                )
            part.check(self)
        if self.rule == "sentinel" and isinstance(features, Texts):
            raise HyperparameterError(
                f"a sentinel is a vector, and {self.features!r} compares none; use another rule, or other features"
            )

    # --- what it is ------------------------------------------------------------------------------------------------
    @property
    def own_features(self) -> Features:
        """What its features do."""
        return features_named(self.features)

    @property
    def own_rule(self) -> Rule:
        """What its rule does."""
        return rule_named(self.rule)

    @property
    def parts(self) -> Parts:
        """Its tensors, with what is made of them once."""
        return Parts(self.tensors, vars(self)["_held"])

    @property
    def digest(self) -> str:
        """BLAKE3 hash of all that it is."""
        held: dict[Any, Any] = vars(self)["_held"]
        if "digest" not in held:
            held["digest"] = tensorfile.digest_of(self.tensors, json.dumps(self.header(), sort_keys=True))
        return held["digest"]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def set(self, **settings: Any) -> Self:
        """The same with some settings changed.

        Args:
            settings: by name.
        """
        return replace(self, settings={**self.settings, **settings})

    def __repr__(self) -> str:
        told = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.settings.items())
        return f"Router({self.rule} over {self.features}: {told}; {self.nbytes / 1e3:.3g} kB)"

    # --- in a memory -----------------------------------------------------------------------------------------------
    def header(self) -> dict[str, Any]:
        """What stands under "router" in the header of a memory."""
        return {"rule": self.rule, "features": self.features, "settings": dict(self.settings)}

    def stored(self) -> dict[str, Tensor]:
        """Its tensors by their names in a memory."""
        return {f"{PREFIX}{name}": tensor for name, tensor in self.tensors.items()}

    @classmethod
    def of(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], held: dict[Any, Any] | None = None) -> Self:
        """The router that lies in a memory or in what was prepared.

        Args:
            header: with what `header` gave under "router".
            tensors: with what `stored` gave.
            held: keeps what is made once; that of a memory lives as long as the memory.

        Raises:
            TracerError: there is none.
        """
        if held is not None and NAME in held:
            return held[NAME]
        told = header.get(NAME)
        if not isinstance(told, Mapping) or not {"rule", "features", "settings"} <= told.keys():
            raise MemoryMisfit(f"a memory without a router: its header holds {told!r} under {NAME!r}; make it again")
        found = cls(told["rule"], told["features"], told["settings"], taken(tensors, PREFIX))
        if held is not None:
            held[NAME] = found
        return found

    def check(self, model: Model) -> None:
        """Check that it can read a model.

        Args:
            model: to be asked.

        Raises:
            TracerError: it reads states that the model does not have, or of another width.
        """
        self.own_features.fits(self, model)

    # --- what it does ----------------------------------------------------------------------------------------------
    def keys(self, model: Model, lines: Sequence[Line]) -> Tensor:
        """What entries are known by, [entries, width]; made once, each by itself. Let memories rest meanwhile.

        Args:
            model: that is edited.
            lines: of the entries: "prompt", "ids" (of the prompt), "target" with its leading space, "subject".
        """
        if not lines:
            return torch.zeros(0, self.own_features.width(self, model))
        return self.own_features.keys(self, model, lines)

    def queries(self, model: Model, prompts: Sequence[Ids]) -> Tensor:
        """What prompts are compared by, [prompts, width]; each made by itself. Let memories rest meanwhile.

        Args:
            model: that is asked.
            prompts: in tokens.
        """
        if not prompts:
            return torch.zeros(0, self.own_features.width(self, model))
        return self.own_features.queries(self, model, prompts)

    def scores(self, model: Model, prompts: Sequence[Ids], keys: Tensor, lines: Sequence[Line]) -> Tensor:
        """How near each prompt is to each entry, [prompts, entries]; more is nearer.

        Args:
            model: that is asked.
            prompts: in tokens.
            keys: of the entries.
            lines: of the entries.
        """
        features = self.own_features
        if isinstance(features, Texts):
            return features.compare(self, model, prompts, lines)
        return features.scores(self, self.queries(model, prompts), keys.float())

    def decided(self, scores: Tensor, sentinel: float = math.nan) -> Route:
        """What the rule makes of a prompt's scores; of entries that are as near the later one counts.

        Args:
            scores: of the entries, [entries].
            sentinel: score of the sentinel, for the rule that has one.
        """
        count = len(scores)
        if not count:
            return Route(False)
        order = (count - 1 - scores.flip(0).argsort(descending=True, stable=True)).tolist()
        hit, threshold = self.own_rule.decide(self, scores[order], sentinel)
        second = (order[1], float(scores[order[1]])) if count > 1 else (-1, math.nan)
        return Route(hit, order[0], float(scores[order[0]]), threshold, *second)

    def routes(self, model: Model, prompts: Sequence[Ids], keys: Tensor, lines: Sequence[Line]) -> list[Route]:
        """How it decides about prompts, each by itself. Let memories rest meanwhile.

        Args:
            model: that is asked.
            prompts: in tokens.
            keys: of the entries, as `keys` made them.
            lines: of the entries.
        """
        if not len(lines) or not prompts:
            return [Route(False)] * len(prompts)
        extra = self.own_rule.rows(self)
        scores = self.scores(model, prompts, keys if extra is None else torch.cat([keys.float(), extra]), lines)
        last = [math.nan] * len(prompts) if extra is None else scores[:, len(lines) :].amax(1).tolist()
        return [self.decided(row[: len(lines)], one) for row, one in zip(scores, last, strict=True)]


def taken(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of the name."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
