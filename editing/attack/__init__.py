"""Attacks on an edit or on unlearning: how often a budget of guesses brings back the answer that should be gone."""

from .attack import attack
from .result import AttackResult
from .settings import AttackSettings, chance

__all__ = ["AttackResult", "AttackSettings", "attack", "chance"]
