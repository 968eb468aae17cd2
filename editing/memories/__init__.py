"""Memories: what an edit attaches to a model instead of changing its weights; one module per kind, and a registry."""

from .attach import attach, attached, detach
from .baking import bake
from .change import MemoryChange, folded
from .directed import directed
from .kind import Kind
from .memory import Memory, load_memory
from .registry import KINDS, kind_named
from .route import Decision, Route
from .routing import Router

__all__ = [
    "KINDS",
    "Decision",
    "Kind",
    "Memory",
    "MemoryChange",
    "Route",
    "Router",
    "attach",
    "attached",
    "bake",
    "detach",
    "directed",
    "folded",
    "kind_named",
    "load_memory",
]
