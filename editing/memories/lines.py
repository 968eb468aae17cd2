"""What a memory's entries are about, as rows of a tensor, so that a change holds what it adds and not every text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tracer.errors import MemoryMisfit

LINES = "lines"
"""Name of the tensor that holds them."""


def packed(lines: Sequence[Mapping[str, Any]]) -> Tensor:
    """Bytes of one json line per entry, uint8.

    Args:
        lines: json values by name, one mapping per entry.
    """
    text = "".join(json.dumps(dict(line), ensure_ascii=False) + "\n" for line in lines)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.zeros(0, dtype=torch.uint8)


def unpacked(tensor: Tensor) -> list[dict[str, Any]]:
    """The lines of `packed`.

    Args:
        tensor: the bytes.

    Raises:
        ValueError: bytes that are no json lines.
    """
    return [json.loads(line) for line in bytes(tensor.cpu().numpy().tobytes()).decode().split("\n") if line]


def as_lines(tensor: Tensor) -> list[dict[str, Any]]:
    """The lines of `packed`, of a memory that came from elsewhere.

    Args:
        tensor: the bytes.

    Raises:
        TracerError: bytes that are no json lines.
    """
    try:
        found = unpacked(tensor)
    except (TypeError, ValueError) as error:
        raise MemoryMisfit(
            f"the tensor {LINES!r} of a memory holds no lines of json ({error}); take a copy of the file as it was "
            "saved"
        ) from error
    if not all(isinstance(line, dict) for line in found):
        raise MemoryMisfit(f"the tensor {LINES!r} of a memory holds lines of json that are no objects; make it again")
    return found
