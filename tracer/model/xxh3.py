"""XXH3 of chunks of tensors, 128 bits each: by the library in the host's memory, by the same arithmetic on a device.

XXH3 (Collet, "XXH3 specification", 2021) multiplies 32-bit halves of keyed words into 64-bit sums, so that a bit that
changed, two words that changed places and a sign each give another hash. It reads memory about as fast as a processor
can. Chunks have one length, and each is hashed by itself: those of a device are then a few tensor operations over all
of them, exact in integers that wrap around, and only 64 bytes of each leave the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

CHUNK = 1 << 16
"""Bytes of a chunk."""
PIECE = 1 << 10  # chunks at a time on a device: 64 MB, and about five times that in passing

_BLOCK, _STRIPES, _LANES = CHUNK // 1024, 16, 8  # blocks of a chunk, stripes of a block, words of a stripe
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248e"
    "e03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d"
    "8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc"
    "8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_PRIMES_32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_PRIMES_64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
_START = (_PRIMES_32[2], *_PRIMES_64[:4], _PRIMES_32[1], _PRIMES_64[4], _PRIMES_32[0])
_HALF = 0xFFFFFFFF


def digests_on_host(raw: Tensor) -> bytes:
    """Hashes of the chunks of bytes in the host's memory, 16 bytes each; the last chunk may be shorter.

    Args:
        raw: [bytes], uint8.
    """
    own: Any = raw.numpy()
    seen = memoryview(own)
    return b"".join(xxhash.xxh3_128_digest(seen[at : at + CHUNK]) for at in range(0, len(seen), CHUNK))


def sums_on_device(raw: Tensor) -> Tensor:
    """What each whole chunk comes to before the last step, which `finished` does; [chunks, 8] int64, where `raw` lies.

    Args:
        raw: [chunks * CHUNK], uint8, at an address that is a multiple of 8.
    """
    keys, scramble, start = (part.to(raw.device) for part in _constants())
    words = raw.view(torch.int64).view(-1, _BLOCK, _STRIPES, _LANES)
    sums = torch.cat([_block_sums(piece, keys) for piece in words.split(PIECE)])  # [chunks, blocks, lanes]
    found = start.repeat(len(sums), 1)
    for block in range(_BLOCK):
        found += sums[:, block]
        if block < _BLOCK - 1:
            found ^= (found >> 47) & 0x1FFFF
            found ^= scramble
            found *= _PRIMES_32[0]
    return found


def finished(sums: Tensor) -> bytes:
    """Hashes of chunks, 16 bytes each.

    Args:
        sums: of `sums_on_device`, on the CPU.
    """
    lanes = sums.numpy().view(np.uint64)
    low = _merged(lanes, 11, CHUNK * _PRIMES_64[0])
    high = _merged(lanes, len(_SECRET) - 64 - 11, ~(CHUNK * _PRIMES_64[1]))
    return np.stack([high, low], axis=1).astype(">u8").tobytes()


def _block_sums(words: Tensor, keys: Tensor) -> Tensor:
    """Sums [chunks, blocks, lanes] over the stripes of each block: products of halves, and words of the next lane."""
    plain = words.sum(2)
    keyed = words ^ keys
    low = keyed & _HALF
    keyed >>= 32
    keyed &= _HALF  # the shift keeps the sign
    low *= keyed
    neighbours = plain.view(*plain.shape[:2], _LANES // 2, 2).flip(-1).view_as(plain)
    return low.sum(2) + neighbours


def _constants() -> tuple[Tensor, Tensor, Tensor]:
    """Keys [blocks, stripes, lanes], the key between blocks [lanes], and what a chunk begins with [lanes]; int64."""
    keys = np.stack([_secret(8 * stripe, _LANES) for stripe in range(_STRIPES)])
    keys = np.repeat(keys[None], _BLOCK, axis=0)
    keys[-1, -1] = _secret(len(_SECRET) - 64 - 7, _LANES)  # of a chunk's last stripe
    parts = (keys, _secret(len(_SECRET) - 64, _LANES), np.array(_START, dtype=np.uint64))
    return tuple(torch.from_numpy(part.view(np.int64)) for part in parts)  # type: ignore[return-value]


def _secret(at: int, count: int) -> np.ndarray:
    return np.frombuffer(_SECRET, dtype="<u8", count=count, offset=at).astype(np.uint64)


def _merged(lanes: np.ndarray, at: int, start: int) -> np.ndarray:
    """One number [chunks] from eight: products of pairs, folded, and stirred."""
    keyed = lanes ^ _secret(at, _LANES)
    found = np.full(len(lanes), start & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64)
    for pair in range(0, _LANES, 2):
        found += _folded(keyed[:, pair], keyed[:, pair + 1])
    found ^= found >> np.uint64(37)
    found *= np.uint64(0x165667919E3779F9)
    return found ^ (found >> np.uint64(32))


def _folded(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The two halves of 128-bit products, joined by exclusive or."""
    half, mask = np.uint64(32), np.uint64(_HALF)
    (a, b), (c, d) = ((each >> half, each & mask) for each in (one, two))
    middle = (b * d >> half) + (a * d & mask) + (b * c & mask)
    high = a * c + (a * d >> half) + (b * c >> half) + (middle >> half)
    return high ^ (one * two)
