"""Fingerprints of weights: a hash over every bit of a model's tensors, taken where they lie.

Nothing is remembered between two fingerprints. A write through `.data`, a numpy view or another handle on the memory
leaves no trace that could be asked for (`Tensor._version` counts none of these), so that a hash that is never wrong has
to read everything; it reads about as fast as the memory gives it.

A fingerprint says by its beginning which kind it is. Results of earlier versions hold BLAKE3 hashes over names, shapes,
types and bits, 64 hexadecimal digits without a beginning, which are still taken to compare with those.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from .xxh3 import CHUNK, digests_on_host, finished, sums_on_device

BEGINNING = "v2_"
EARLIER = "0" * 64
"""A fingerprint of earlier versions, of no model."""
DEVICES = ("cuda",)  # where integers of 64 bits are multiplied fast; what lies elsewhere is read by the host

Named = Iterable[tuple[str, Tensor]]


def kind_of(fingerprint: str) -> str:
    """The beginning of fingerprints of the same kind; "" for those of earlier versions.

    Args:
        fingerprint: any, or "", which stands for the present kind.
    """
    return BEGINNING if not fingerprint or fingerprint.startswith(BEGINNING) else ""


def fingerprint_of(named: Named, like: str = "") -> str:
    """Fingerprint of named tensors, in whatever order and wherever they lie.

    Args:
        named: names and tensors.
        like: a fingerprint of the kind that is wanted; "": the present one.
    """
    return _state_hash(named) if kind_of(like) else _earlier(named)


def joined(fingerprint: str, lines: Iterable[str]) -> str:
    """A fingerprint of the same kind over another one and more lines.

    Args:
        fingerprint: of the weights.
        lines: what else the model is.
    """
    return kind_of(fingerprint) + blake3("\n".join([fingerprint, *lines]).encode()).hexdigest()


@dataclass(eq=False)
class _Hashed:
    """A tensor's hashes of chunks: those that are there, or where they are going to be."""

    text: str
    digests: bytes = b""
    sums: Tensor | None = None  # on a device
    rest: Tensor | None = field(default=None, repr=False)  # bytes on a device, fewer than a chunk


def _state_hash(named: Named) -> str:
    found = {name: _hashed(name, tensor) for name, tensor in named}
    parts = [found[name] for name in sorted(found)]
    _fetch(parts)
    digest = blake3()
    for part in parts:
        digest.update(part.text.encode())
        digest.update(part.digests)
    return BEGINNING + digest.hexdigest()


def _hashed(name: str, tensor: Tensor) -> _Hashed:
    found = _Hashed(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|")
    raw = _bytes(tensor)
    if raw.device.type not in DEVICES:
        found.digests = digests_on_host(raw.cpu())
        return found
    whole = len(raw) // CHUNK * CHUNK
    if whole:
        aligned = raw[:whole] if raw.data_ptr() % 8 == 0 and raw.storage_offset() % 8 == 0 else raw[:whole].clone()
        found.sums = sums_on_device(aligned)
    found.rest = raw[whole:].clone() if raw.data_ptr() != tensor.data_ptr() else raw[whole:]  # no copy is kept whole
    return found


def _fetch(parts: list[_Hashed]) -> None:
    """Bring what lies on devices to the host, in two copies from each."""
    for device in {part.rest.device for part in parts if part.rest is not None}:
        own = [part for part in parts if part.rest is not None and part.rest.device == device]
        summed = [part for part in own if part.sums is not None]
        if summed:
            sums = torch.cat([part.sums for part in summed if part.sums is not None]).cpu()
            sizes = [len(part.sums) for part in summed if part.sums is not None]
            for part, each in zip(summed, sums.split(sizes), strict=True):
                part.digests = finished(each)
        rests = torch.cat([part.rest for part in own if part.rest is not None]).cpu()
        for part, rest in zip(own, rests.split([len(part.rest) for part in own if part.rest is not None]), strict=True):
            part.digests += digests_on_host(rest)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _earlier(named: Named) -> str:
    """The fingerprint of earlier versions: BLAKE3 over name, shape, type and bits of each, by name."""
    digest = blake3()
    for name, tensor in sorted(named, key=lambda item: item[0]):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        bits: Any = _bytes(tensor).cpu().numpy()
        digest.update(bits)
    return digest.hexdigest()
