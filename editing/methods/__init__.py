"""Methods of editing, one module each, from groups of requests to changes of weights; and their common entry point."""

from .compute import METHODS, compute_edit, compute_edits, method_named
from .method import Change, Group, Method
from .published_settings import published

__all__ = [
    "METHODS",
    "Change",
    "Group",
    "Method",
    "compute_edit",
    "compute_edits",
    "method_named",
    "published",
]
