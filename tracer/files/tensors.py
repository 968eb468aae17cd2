"""Tensors and a json header in one safetensors file, written whole or not at all, and hashed to detect damage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tracer.errors import CannotWrite, NotASavedResult

from .atomic import new_file

SUFFIX = ".safetensors"


def write(path: str | Path, format: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write tensors and a header under a format's name; return the path.

    Args:
        path: of the file; ".safetensors" is added if it has no suffix.
        format: name of the format.
        tensors: by name.
        header: anything that json can hold.

    Raises:
        TracerError: a header that json cannot hold, or a file that cannot be written; nothing is left behind.
    """
    path = Path(path)
    path = path if path.suffix else path.with_name(path.name + SUFFIX)
    kind = format.partition("/")[0]
    try:
        text = json.dumps(header, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise CannotWrite(f"this {kind} cannot be written as json ({error}); keep settings plain") from error
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # not shared
    with new_file(path) as temporary:
        try:
            save_file(owned, temporary, metadata={"format": format, "header": text, "blake3": digest_of(owned, text)})
        except SafetensorError as error:  # its own name for a full disk or a missing folder
            raise CannotWrite(f"cannot write to {path} ({error}); choose a file in a writable folder") from error
    return path


def read(path: str | Path, *formats: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file of `write`.

    Args:
        path: of the file.
        formats: names that the format may have; the last is what is written today.

    Raises:
        TracerError: no such file, another one, or one cut short or damaged.
    """
    path = Path(path)
    if not path.exists() and not path.suffix:
        path = path.with_name(path.name + SUFFIX)
    kind = formats[-1].partition("/")[0]
    if not path.is_file():
        raise NotASavedResult(f"there is no file {path}; expected one written by {kind}.save")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in formats:
                expected = " or ".join(map(repr, formats))
                raise ValueError(f"it holds {metadata.get('format', 'plain tensors')!r}, expected {expected}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no iterator of its own
        if metadata["blake3"] != digest_of(tensors, metadata["header"]):
            raise ValueError("its content is damaged")
        return tensors, json.loads(metadata["header"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise NotASavedResult(f"{path} is not a saved {kind} ({error}); expected a file of {kind}.save") from error


def digest(tensor: Tensor) -> str:
    """BLAKE3 hash of a tensor's shape, dtype and bits."""
    found = blake3(f"{tuple(tensor.shape)}|{tensor.dtype}|".encode())
    raw: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found.update(raw).hexdigest()


def digest_of(tensors: Mapping[str, Tensor], header: str) -> str:
    """BLAKE3 hash of named tensors and a header."""
    parts = [f"{name}:{digest(tensors[name])}" for name in sorted(tensors)]
    return blake3("\n".join([*parts, header]).encode()).hexdigest()
