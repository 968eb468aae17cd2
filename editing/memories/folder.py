"""Memories that were saved with a model: files in a folder beside its weights, attached where it is loaded."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import MemoryMisfit, TracerNote
from tracer.files.tensors import SUFFIX

from .attach import attach
from .memory import load_memory

if TYPE_CHECKING:
    from tracer.model import Model


def attach_those_in(model: Model, folder: Path) -> None:
    """Attach every memory in a folder to the model that was loaded from the folder around it.

    Args:
        model: as loaded.
        folder: of the memories.

    Raises:
        TracerError: a damaged file, an unknown kind, a memory of other weights, two of one name, none at all.

    Warns:
        TracerNote: the model was loaded in another number type than it was saved in, so that its states, by which
            memories decide, differ in rounding.
    """
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise MemoryMisfit(
            f"{folder} holds no memory (*{SUFFIX}); take a whole copy of the model's folder, or remove this one in it "
            "to load the model without memories"
        )
    memories = [load_memory(file) for file in files]
    kept = _kept_in(folder.parent)
    rounded = kept is not None and kept != str(model.dtype).removeprefix("torch.")
    for memory in memories:
        attach(model, memory, force=rounded)
    if rounded:
        warnings.warn(
            f"{model.name} was saved with its memories in {kept} and is loaded in {model.dtype}; memories decide by "
            f"its states, which differ in rounding. Load it with dtype={kept!r} to have what was saved",
            TracerNote,
            stacklevel=4,
        )


def _kept_in(folder: Path) -> str | None:
    """Number type that a folder's weights are kept in; None: it does not say."""
    with suppress(OSError, ValueError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config.get("dtype", config.get("torch_dtype"))
        return found if isinstance(found, str) else None
    return None
