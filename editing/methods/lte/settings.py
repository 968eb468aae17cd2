"""Hyper-parameters of LTE's edits and of its preparation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from editing.memories.text import SLOTS
from editing.methods.routed.settings import RoutedSettings
from editing.methods.training import as_layers
from tracer.checks import finite, share, whole
from tracer.errors import HyperparameterError

PUBLISHED = (
    "Please acknowledge the updated information provided below and respond to the subsequent question.\n\n"
    "[Updated Information]:\n{fact}\n\n[Question]:\n{question}"
)
"""Template of the published code, for models that follow instructions."""
TEMPLATE = "{fact}. {question}"


@dataclass(frozen=True)
class LTESettings(RoutedSettings):
    """Hyper-parameters of an edit by LTE; see `RoutedSettings`.

    Attributes:
        router: as published the nearest edit is put in front of every question, without a gate.
    """

    router: Any = "nearest"


@dataclass(frozen=True)
class LTEPreparation:
    """How a model is taught. The published numbers, of LLaMA-2 7B, are in parentheses.

    Attributes:
        template: text with the slots {fact} and, at its end, {question}. (`PUBLISHED`.)
        layers: of the adapters; None: all.
        modules: projections that get adapters, by name; None: all of a block.
        rank: of the adapters. (8, or the whole model.)
        alpha: factor of the adapters, over the rank. (16)
        steps: of the training. (Three passes over 60,000 pairs.)
        lr: learning rate of Adam. (3e-4)
        batch: edits of a step, each with four rows: its wording and another one with the fact, a question about
            something else with the fact, and that question alone.
        distractors: share of the rows with a fact that have another edit's fact beside it. (0.5, one or two.)
        recombined: as of [`editing.methods.recipe.settings.RECIPEPreparation`][].
        drawn: likewise.
        apart: likewise.
        checked: records of the validation, at most.
        enough: targets that are to be said with the fact in front, without which a note says that copying was not
            learnt.
    """

    template: str = TEMPLATE
    layers: Sequence[int] | None = None
    modules: Sequence[str] | None = None
    rank: int = 8
    alpha: float = 16.0
    steps: int = 600
    lr: float = 2e-3
    batch: int = 8
    distractors: float = 0.3
    recombined: float = 0.7
    drawn: float = 1.0
    apart: float = 0.3
    checked: int = 40
    enough: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        if self.modules is not None:
            object.__setattr__(self, "modules", tuple(self.modules))
        if not isinstance(self.template, str) or not self.template.endswith(SLOTS[1]) or SLOTS[0] not in self.template:
            raise HyperparameterError(
                f"template is {self.template!r}; expected a text with {{fact}} once that ends in {{question}}"
            )
        for name in ("rank", "checked"):
            whole(name, getattr(self, name), 1, kind=HyperparameterError)
        whole("batch", self.batch, 2, kind=HyperparameterError)
        whole("steps", self.steps, kind=HyperparameterError)
        for name in ("lr", "alpha"):
            finite(name, getattr(self, name), above=0, kind=HyperparameterError)
        for name in ("distractors", "recombined", "drawn", "apart", "enough"):
            share(name, getattr(self, name), kind=HyperparameterError)
