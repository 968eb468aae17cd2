"""Corruptions: what is done to the subject so that the model forgets the fact.

A corruption is a frozen object with ``corrupt(model, ids, span) -> Corrupted``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import TracerError
from .hooks import Add, Intervention, Site

if TYPE_CHECKING:
    from .model import Model


class Corrupted(NamedTuple):
    """Rows to run, ids [1 + R, T], and the interventions to run them with; the first row stays clean.

    ``settings`` are plain values that a result keeps.
    """

    ids: Tensor
    interventions: list[Intervention]
    settings: dict[str, Any]


@dataclass(frozen=True)
class GaussianNoise:
    """Gaussian noise on the word embeddings of the subject's tokens, as the ROME authors' code draws and adds it.

    ``level`` is its absolute standard deviation; without it, it is ``sigma`` times the standard deviation of the word
    embeddings of ``subjects`` (names; None: those of the FactWorld table, which serve any model). Each of the
    ``samples`` rows has its own draw from ``numpy.random.RandomState(seed)``, the same draw in every run.
    Raises TracerError for a negative ``sigma`` or ``level``, ``samples`` below 1, or a seed that is none.
    """

    sigma: float = 3.0
    level: float | None = None
    samples: int = 10
    seed: int = 1
    subjects: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, value in (("sigma", self.sigma), ("level", self.level)):
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise TracerError(f"{name} of the noise is {value}; expected a number of at least 0")
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise TracerError(f"samples of the noise is {self.samples!r}; expected a whole number of at least 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise TracerError(f"seed of the noise is {self.seed!r}; expected a whole number from 0 to 2**32 - 1")
        if self.subjects is not None:
            if isinstance(self.subjects, str) or not self.subjects:
                raise TracerError(f"subjects of the noise is {self.subjects!r}; expected a list of names, or None")
            object.__setattr__(self, "subjects", tuple(self.subjects))

    def level_for(self, model: Model) -> float:
        """The absolute standard deviation on ``model``: ``level``, or ``sigma`` times what is measured.

        Measured as in the ROME code: each subject tokenised alone, without special tokens or leading space; the
        outputs of the word embedding for all their tokens, repeated ones too; the unbiased standard deviation over
        all scalars.
        """
        if self.level is not None:
            return float(self.level)
        subjects = self.subjects
        if subjects is None:
            from .factworld import subjects as known

            subjects = tuple(known())
        ids = [i for name in model.tokenizer(list(subjects), add_special_tokens=False)["input_ids"] for i in name]
        if not ids:
            raise TracerError("none of the noise's subjects has a token in this model; give other subjects, or a level")
        with torch.no_grad():
            embedded = model.module("embed")(torch.tensor([ids], device=model.device))
        wide = embedded if embedded.dtype == torch.float64 else embedded.float()
        return float(self.sigma) * float(wide.std())

    def measured(self, model: Model) -> GaussianNoise:
        """The same noise with its level fixed to what it is on ``model``, so that it is not measured again."""
        return replace(self, level=self.level_for(model))

    def draw(self, n_tokens: int, d: int) -> np.ndarray:
        """Standard normal numbers, float64 [samples, n_tokens, d]. The first rows do not depend on ``samples``."""
        return np.random.RandomState(self.seed).randn(self.samples, n_tokens, d)

    def corrupt(self, model: Model, ids: Tensor, span: tuple[int, int]) -> Corrupted:
        """1 + ``samples`` rows of ``ids`` [T]; all but the first have noise added at the tokens ``span`` (half open).

        The noise is float64: it is added to the word embeddings in float64 and the sum cast back to the model's dtype.
        The settings hold the level as it is on ``model``.
        """
        start, end = span
        level = self.level_for(model)
        noise = level * torch.from_numpy(self.draw(end - start, model.d_model))
        noise = torch.cat([torch.zeros_like(noise[:1]), noise])
        added: list[Intervention] = [Add(Site("embed", token=t), noise[:, t - start]) for t in range(start, end)]
        sigma = float(self.sigma) if self.level is None else None
        settings = {"name": "GaussianNoise", "sigma": sigma, "level": level, "samples": self.samples, "seed": self.seed}
        return Corrupted(ids.expand(1 + self.samples, -1), added, settings)
