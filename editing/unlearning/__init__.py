"""Unlearning: objectives after which a model no longer says some things, and measures of whether it has forgotten."""

from .measures import (
    closer_to_one,
    extracted,
    forget_quality,
    least_probable,
    memorised,
    right_share,
    truth_ratio,
)
from .refusals import EMPTY, REFUSAL, refusals
from .settings import UnlearnSettings
from .unlearn import unlearn

__all__ = [
    "EMPTY",
    "REFUSAL",
    "UnlearnSettings",
    "closer_to_one",
    "extracted",
    "forget_quality",
    "least_probable",
    "memorised",
    "refusals",
    "right_share",
    "truth_ratio",
    "unlearn",
]
