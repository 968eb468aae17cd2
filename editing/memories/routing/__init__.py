"""Routers: which entry of a memory a prompt is about, or none; features to compare by, and rules to decide by."""

from .features import FEATURES, Features, Texts, features_named
from .heads import head
from .router import Router, taken
from .rules import RULES, rule_named

__all__ = [
    "FEATURES",
    "RULES",
    "Features",
    "Router",
    "Texts",
    "features_named",
    "head",
    "rule_named",
    "taken",
]
