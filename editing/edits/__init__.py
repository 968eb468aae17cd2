"""Edits: changes of named weights and of memories, their exact arithmetic, their file, and as a LoRA adapter."""

from .edit import Edit, load_edit
from .lora import to_peft
from .state import State
from .weights import Factors, applied, check_editable, digest, fingerprint, names_of, orientation_of

__all__ = [
    "Edit",
    "Factors",
    "State",
    "applied",
    "check_editable",
    "digest",
    "fingerprint",
    "load_edit",
    "names_of",
    "orientation_of",
    "to_peft",
]
