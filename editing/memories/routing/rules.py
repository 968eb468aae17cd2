"""Rules: whether the nearest entry acts, from the scores of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from tracer.checks import finite, whole
from tracer.errors import HyperparameterError

if TYPE_CHECKING:
    from .given import Given


class Rule:
    """A rule; it has no state.

    Attributes:
        settings: names, with defaults; None: has to be given.
        optional: names of settings that may be None.
        tensors: names of tensors that it needs.
    """

    settings: ClassVar[Mapping[str, Any]] = {}
    optional: ClassVar[tuple[str, ...]] = ()
    tensors: ClassVar[tuple[str, ...]] = ()

    def check(self, router: Given) -> None:
        """Raise TracerError for a setting out of range."""

    def rows(self, router: Given) -> Tensor | None:
        """Vectors that are scored besides the entries' keys, [m, width]; None: none."""
        return None

    def decide(self, router: Given, scores: Tensor, sentinel: float) -> tuple[bool, float]:
        """Whether the nearest entry acts, and the score at which it would; nan: there is none.

        Args:
            router: with the settings.
            scores: of the entries, the nearest first, [entries], at least one.
            sentinel: the highest score of `rows`.
        """
        raise NotImplementedError


class Nearest(Rule):
    """The nearest entry acts, whatever its score: no gate (LTE, MeLLo, IKE)."""

    def decide(self, router: Given, scores: Tensor, sentinel: float) -> tuple[bool, float]:
        """Always."""
        return True, math.nan


class Threshold(Rule):
    """The nearest entry acts above a score (SERAC's 0.5; GRACE's radius)."""

    settings: ClassVar[Mapping[str, Any]] = {"threshold": None}

    def check(self, router: Given) -> None:
        """The threshold is a number."""
        finite("threshold", router.settings["threshold"], kind=HyperparameterError)

    def decide(self, router: Given, scores: Tensor, sentinel: float) -> tuple[bool, float]:
        """Above the threshold."""
        threshold = float(router.settings["threshold"])
        return float(scores[0]) > threshold, threshold


class Margin(Rule):
    """RASE's rule (Han et al. 2023): the nearest entry acts above a score, or where it stands out from the others.

    It stands out where it is `margin` above the next one and the standard deviation of the nearest `top` scores is
    above `deviation`. (Published: 0.9, 0.15, 0.05 and 6, whatever the model; numbers of a cosine, so measure them.)
    """

    settings: ClassVar[Mapping[str, Any]] = {"threshold": None, "margin": None, "deviation": None, "top": 6}

    def check(self, router: Given) -> None:
        """All are numbers."""
        for name in ("threshold", "margin", "deviation"):
            finite(name, router.settings[name], kind=HyperparameterError)
        whole("top", router.settings["top"], 2, kind=HyperparameterError)

    def decide(self, router: Given, scores: Tensor, sentinel: float) -> tuple[bool, float]:
        """Above the threshold, or alone."""
        given = router.settings
        threshold = float(given["threshold"])
        if float(scores[0]) > threshold or len(scores) < 2:
            return float(scores[0]) > threshold, threshold
        apart = float(scores[0] - scores[1]) > given["margin"]
        return apart and float(scores[: given["top"]].std(correction=0)) > given["deviation"], threshold


class Sentinel(Rule):
    """RECIPE's rule (Chen et al. 2024): the nearest entry acts where it is nearer than a vector that was learnt."""

    tensors: ClassVar[tuple[str, ...]] = ("sentinel",)

    def rows(self, router: Given) -> Tensor:
        """The sentinel, [1, width]."""
        return router.tensors["sentinel"].float().reshape(-1, router.tensors["sentinel"].shape[-1])

    def decide(self, router: Given, scores: Tensor, sentinel: float) -> tuple[bool, float]:
        """Nearer than the sentinel."""
        return float(scores[0]) > sentinel, sentinel


RULES: dict[str, str | type] = {
    "nearest": "editing.memories.routing.rules.Nearest",
    "threshold": "editing.memories.routing.rules.Threshold",
    "margin": "editing.memories.routing.rules.Margin",
    "sentinel": "editing.memories.routing.rules.Sentinel",
}
"""Rules by name."""


def rule_named(name: str) -> Rule:
    """The rule with this name.

    Args:
        name: one of `RULES`.

    Raises:
        TracerError: an unknown name.
    """
    return made(name, RULES, "rule")


def made(name: str, known: Mapping[str, str | type], what: str) -> Any:
    """An object of the class with a name.

    Args:
        name: of the class.
        known: classes, or their places, by name.
        what: they are, for the message.

    Raises:
        TracerError: an unknown name.
    """
    if name not in known:
        raise HyperparameterError(f"the {what} of a router is {name!r}; expected one of {', '.join(map(repr, known))}")
    place = known[name]
    if isinstance(place, type):
        return place()
    module, _, attribute = place.rpartition(".")
    return getattr(import_module(module), attribute)()
