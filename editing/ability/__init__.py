"""Scores beside the edited facts: tasks of lm-evaluation-harness."""

from .harness import SHORT, ability
from .result import AbilityChange, AbilityResult, Score

__all__ = ["SHORT", "AbilityChange", "AbilityResult", "Score", "ability"]
