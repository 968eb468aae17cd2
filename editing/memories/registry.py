"""The kinds of memories, by name; a file names a kind and never brings one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tracer.errors import UnknownMemoryKind

KINDS: dict[str, str | type] = {
    "t_patcher": "editing.memories.t_patcher.TPatcher",
    "calinet": "editing.memories.calinet.CaliNET",
    "grace": "editing.memories.grace.Grace",
    "melo": "editing.memories.melo.Melo",
    "serac": "editing.memories.serac.Serac",
    "soft": "editing.memories.soft.Soft",
    "wise": "editing.memories.wise.Wise",
    "text": "editing.memories.text.Text",
    "weights": "editing.memories.patches.Patches",
}
"""The kinds; a new one is a line here. One that is tried out may be the class itself."""


def kind_named(name: str) -> Any:
    """The [`editing.memories.Kind`][] with this name.

    Args:
        name: of the kind.

    Raises:
        TracerError: an unknown name.
    """
    if name not in KINDS:
        known = ", ".join(KINDS) or "none so far"
        raise UnknownMemoryKind(
            f"there is no kind of memory {name!r}; known are: {known}. What was saved by a later version needs that one"
        )
    place = KINDS[name]
    if isinstance(place, type):
        return place()
    module, _, attribute = place.rpartition(".")
    return getattr(import_module(module), attribute)()
