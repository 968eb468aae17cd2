"""What a reader wants to know of a memory's entries, as bytes in one of its tensors.

A header is written anew with every change of a memory, a tensor only where it grows; so what is said of each entry
stands in a tensor, a line of json each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tracer.errors import MemoryMisfit

LINES = "lines"
"""Name of the tensor."""


def as_bytes(lines: Sequence[Mapping[str, Any]]) -> Tensor:
    """Lines as a tensor of bytes, [n] uint8.

    Args:
        lines: json values, one mapping an entry.
    """
    text = "".join(json.dumps(dict(line), ensure_ascii=False) + "\n" for line in lines)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def as_lines(tensor: Tensor) -> list[dict[str, Any]]:
    """The lines that `as_bytes` made.

    Args:
        tensor: [n] uint8.

    Raises:
        TracerError: other bytes.
    """
    try:
        found = [json.loads(line) for line in bytes(tensor.tolist()).decode().splitlines()]
    except (TypeError, ValueError) as error:
        raise MemoryMisfit(
            f"the tensor {LINES!r} of a memory holds no lines of json ({error}); take a copy of the file as it was "
            "saved"
        ) from error
    if not all(isinstance(line, dict) for line in found):
        raise MemoryMisfit(f"the tensor {LINES!r} of a memory holds lines of json that are no objects")
    return found
