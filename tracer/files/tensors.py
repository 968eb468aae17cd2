"""Tensors and a json header in one safetensors file, written whole or not at all, and hashed to detect damage."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
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
    """Write tensors and a header under a format's name, the same file for the same content; return the path.

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
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # not shared
    checks = {name: digest(tensor) for name, tensor in owned.items()}
    try:
        text = json.dumps({"format": format, "header": header, "checks": checks}, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise CannotWrite(f"this {kind} cannot be written as json ({error}); keep settings plain") from error
    with new_file(path) as temporary:
        temporary.touch()
        usual = temporary.stat().st_mode
        try:
            # one entry only: safetensors writes several in any order
            save_file(owned, temporary, metadata={"content": f"{blake3(text.encode()).hexdigest()} {text}"})
            temporary.chmod(usual)  # safetensors lets nobody else read its files
        except SafetensorError as error:  # its own name for a full disk or a missing folder
            raise OSError(str(error)) from error
    return path


def read(
    path: str | Path, *formats: str, names: Collection[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file of `write`, or of one of the two layouts that edits and covariances had before.

    Args:
        path: of the file.
        formats: names that the format may have; the last is what is written today.
        names: of the tensors wanted, those that exist; None: all.

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
            told = _told(file.metadata() or {})
            if told.format not in formats:
                raise ValueError(f"it holds {told.format!r}, expected {' or '.join(map(repr, formats))}")
            there = told.checks if told.checks is not None else file.keys()
            tensors = {name: file.get_tensor(name) for name in there if names is None or name in names}
        told.check(tensors)
        return tensors, told.header
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise NotASavedResult(
            f"{path} is not a saved {kind} ({error}); expected a whole file of {kind}.save"
        ) from error


@dataclass(frozen=True)
class _Told:
    """What a file says of itself; `checks` are hashes of its tensors by name, or None beside `whole`, that of all."""

    format: str
    header: dict[str, Any]
    checks: Mapping[str, str] | None
    whole: str = ""
    text: str = ""
    hash: Callable[[Tensor], str] | None = None

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Check tensors; ValueError if one is damaged."""
        if self.checks is None:
            if self.whole != digest_of(tensors, self.text):
                raise ValueError("its content is damaged")
            return
        for name, tensor in tensors.items():
            if (self.hash or digest)(tensor) != self.checks[name]:
                raise ValueError(f"its tensor {name!r} is damaged")


def _told(metadata: Mapping[str, str]) -> _Told:
    if "content" in metadata:
        expected, _, text = metadata["content"].partition(" ")
        if blake3(text.encode()).hexdigest() != expected:
            raise ValueError("its header is damaged")
        return _Told(**json.loads(text))
    if "blake3" in metadata:  # edits and memories, before
        text = metadata["header"]
        return _Told(metadata["format"], json.loads(text), None, metadata["blake3"], text)
    header = json.loads(metadata.get("header", "{}"))  # covariances, before
    return _Told(header.pop("format", "plain tensors"), header, header.pop("checks", {}), hash=_former)


def _former(tensor: Tensor) -> str:
    raw: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype}{list(tensor.shape)}:{blake3(raw).hexdigest()}"


def digest(tensor: Tensor) -> str:
    """BLAKE3 hash of a tensor's shape, dtype and bits."""
    found = blake3(f"{tuple(tensor.shape)}|{tensor.dtype}|".encode())
    raw: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found.update(raw).hexdigest()


def digest_of(tensors: Mapping[str, Tensor], header: str) -> str:
    """BLAKE3 hash of named tensors and a header."""
    parts = [f"{name}:{digest(tensors[name])}" for name in sorted(tensors)]
    return blake3("\n".join([*parts, header]).encode()).hexdigest()
