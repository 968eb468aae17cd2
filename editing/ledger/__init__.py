"""The editor and its ledger: apply, undo, go to any state, on disk if wished."""

from .editor import Editor, Entry
from .folder import Ledger

__all__ = [
    "Editor",
    "Entry",
    "Ledger",
]
