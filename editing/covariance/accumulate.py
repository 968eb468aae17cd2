"""Running sums of k k^T: how much the moment still changes, and a file to resume from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from tracer.files import tensors as tensorfile

from . import triangles as packed


@dataclass
class Sums:
    """State of the sums.

    Attributes:
        totals: by layer, the sum of k k^T, of which the upper triangle counts.
        halves: by layer, the totals at the last doubling that was watched.
        tokens: number of keys in `totals`.
        at_half: number of keys in `halves`.
        groups: number of finished groups of windows.
        doublings: by layer, (tokens, relative change) so far.
    """

    totals: dict[int, Tensor]
    halves: dict[int, Tensor] = field(default_factory=dict)
    tokens: int = 0
    at_half: int = 0
    groups: int = 0
    doublings: dict[int, list[tuple[int, float]]] = field(default_factory=dict)

    FORMAT = "Unfinished covariance/1"

    def mark(self) -> None:
        """Note how much the moment has changed since the last mark."""
        for layer, total in self.totals.items():
            rows = self.doublings.setdefault(layer, [])
            if self.at_half:
                rows.append((self.tokens, _change(total, self.tokens, self.halves[layer], self.at_half)))
            self.halves[layer] = total.clone()
        self.at_half = self.tokens

    def save(self, path: Path) -> None:
        """Keep the state in a file, whole or not at all."""
        tensors = {f"total{layer}": packed.pack(total) for layer, total in self.totals.items()}
        tensors |= {f"half{layer}": packed.pack(half) for layer, half in self.halves.items()}
        header = {
            "tokens": self.tokens,
            "at_half": self.at_half,
            "groups": self.groups,
            "doublings": {str(layer): rows for layer, rows in self.doublings.items()},
        }
        tensorfile.write(path, self.FORMAT, tensors, header)

    def restore(self, path: Path) -> None:
        """Resume from a file of `save`.

        Args:
            path: of the file.

        Raises:
            TracerError: not such a file.
        """
        tensors, header = tensorfile.read(path, self.FORMAT)
        found = {name: packed.unpack(tensor) for name, tensor in tensors.items()}
        for layer, total in self.totals.items():
            total.copy_(found[f"total{layer}"])
            if f"half{layer}" in found:
                self.halves[layer] = found[f"half{layer}"].to(total.device)
        self.tokens, self.at_half, self.groups = header["tokens"], header["at_half"], header["groups"]
        self.doublings = {int(layer): [(n, c) for n, c in rows] for layer, rows in header["doublings"].items()}


def _change(total: Tensor, tokens: int, half: Tensor, at_half: int) -> float:
    """Relative Frobenius change between two moments, given as sums with their upper triangles."""

    def norm(upper: Tensor) -> float:
        square = upper.triu().double().square()
        return (2 * square.sum() - square.diagonal().sum()).sqrt().item()

    whole = norm(total) / tokens
    return norm(total / tokens - half / at_half) / whole if whole else 0.0
