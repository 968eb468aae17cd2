"""Symmetric matrices on disk: upper triangles in a safetensors file with a json header and a checksum of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from tracer.errors import NotASavedResult, out_of_memory
from tracer.files import new_file


def add_upper(total: Tensor, keys: Tensor) -> None:
    """Add K^T K to the upper triangle of `total` [d, d], for `keys` K [n, d]; entries below the diagonal are undefined.

    Blocks below the diagonal are left out, which spares nearly half of the work.
    """
    step = max(128, -(-len(total) // 8))
    for start in range(0, len(total), step):
        total[start : start + step, start:].addmm_(keys[:, start : start + step].T, keys[:, start:])


def pack(matrix: Tensor) -> Tensor:
    """The upper triangle of [d, d] row by row, [d (d + 1) / 2]."""
    return torch.cat([row[i:] for i, row in enumerate(matrix)])


def unpack(packed: Tensor) -> Tensor:
    """The symmetric matrix [d, d] of an upper triangle [d (d + 1) / 2]."""
    width = width_of(packed)
    matrix = packed.new_zeros(width, width)
    start = 0
    for i in range(width):
        matrix[i, i:] = packed[start : start + width - i]
        start += width - i
    return mirror(matrix)


def mirror(upper: Tensor) -> Tensor:
    """The symmetric matrix [d, d] whose upper triangle is that of `upper`."""
    upper = upper.triu()
    return upper + upper.triu(1).mT


def width_of(packed: Tensor) -> int:
    """Width d of an upper triangle [d (d + 1) / 2]."""
    width = int((2 * packed.numel()) ** 0.5)
    if packed.dim() != 1 or width * (width + 1) // 2 != packed.numel():
        raise ValueError(f"{list(packed.shape)} numbers are no upper triangle")
    return width


def write(path: str | Path, format: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write tensors and a header under a format's name, whole or not at all.

    Args:
        path: of the file.
        format: name of the format.
        tensors: by name.
        header: anything that json can hold.

    Raises:
        TracerError: the file cannot be written; nothing is left behind then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    checks = {name: _checksum(tensor) for name, tensor in kept.items()}
    # one entry only: safetensors writes several in any order, and the same content is to be the same file
    text = json.dumps({"format": format, **header, "checks": checks}, ensure_ascii=False)
    with new_file(path) as temporary:
        temporary.touch()
        usual = temporary.stat().st_mode
        try:
            save_file(kept, temporary, metadata={"header": text})
            temporary.chmod(usual)  # safetensors lets nobody else read its files
        except SafetensorError as error:
            raise OSError(str(error)) from error
    return Path(path)


def header(path: str | Path, format: str) -> dict[str, Any]:
    """The header of a file of `write`.

    Args:
        path: of the file.
        format: name of the format.

    Raises:
        TracerError: as `read` does.
    """
    return read(path, format, ())[1]


def read(path: str | Path, format: str, names: Iterable[str] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file of `write`.

    Args:
        path: of the file.
        format: name of the format.
        names: of the tensors wanted, those that exist; None: all.

    Raises:
        TracerError: a missing file, another file, and one that is cut short or damaged.
    """
    from safetensors import safe_open

    path = Path(path)
    kind = format.partition("/")[0]
    if not path.is_file():
        raise NotASavedResult(f"there is no file {path}; expected one written by {kind}.save")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("header", "{}"))
            if (found := header.pop("format", None)) != format:
                raise ValueError(f"it holds {found!r}, expected {format!r}")
            checks = header.pop("checks")
            wanted = [name for name in (checks if names is None else names) if name in checks]
            tensors = {name: file.get_tensor(name) for name in wanted}
        for name, tensor in tensors.items():
            if _checksum(tensor) != checks[name]:
                raise ValueError(f"its {name} is damaged")
    except Exception as error:  # safetensors, json and missing keys each have their own
        if out_of_memory(error):
            raise
        raise NotASavedResult(
            f"{path} is not a saved {kind} ({error}); expected a whole file of {kind}.save"
        ) from error
    return tensors, header


def _checksum(tensor: Tensor) -> str:
    bits: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype}{list(tensor.shape)}:{blake3(bits).hexdigest()}"
