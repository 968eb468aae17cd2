"""How alike edits are: cosines of their changes of weights, without a dense matrix of any of low rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from editing.edits.edit import Edit
from tracer.errors import EditOfOtherWeights, UnsuitableResult


def inner(one: Edit, two: Edit) -> float:
    """Sum over all weights of the products of two changes, number by number.

    Args:
        one: an edit.
        two: another, of the same model.
    """
    return sum(_inner(_change(one, name), _change(two, name)) for name in one.weights if name in set(two.weights))


def cosines(edits: Sequence[Edit]) -> np.ndarray:
    """Cosine of every edit with every other, [n, n]; changes of memories do not count.

    Task vectors of different tasks are close to orthogonal (Ilharco et al. 2023, figure 5), which is why they add up.

    Args:
        edits: of one model.

    Raises:
        TracerError: no edits, edits of different weights, one that changes no weight.
    """
    if not edits:
        raise UnsuitableResult("there are no edits to compare; give at least one")
    for place, edit in enumerate(edits):
        if edit.fingerprint != edits[0].fingerprint:
            raise EditOfOtherWeights(
                f"edit {place} was computed on other weights ({edit.model} {edit.fingerprint[:12]}) than the first "
                f"({edits[0].model} {edits[0].fingerprint[:12]}), so that they have no angle; compute both on the same"
            )
    lengths = [math.sqrt(max(0.0, inner(edit, edit))) for edit in edits]
    if 0.0 in lengths:
        raise UnsuitableResult(f"edit {lengths.index(0.0)} changes no weight and has no direction; leave it out")
    found = np.eye(len(edits))
    for i, one in enumerate(edits):
        for j in range(i):
            found[i, j] = found[j, i] = inner(one, edits[j]) / (lengths[i] * lengths[j])
    return found


def _change(edit: Edit, name: str) -> Tensor | tuple[Tensor, Tensor]:
    return edit.deltas[name].double() if name in edit.deltas else tuple(part.double() for part in edit.factors[name])  # type: ignore[return-value]


def _inner(one: Tensor | tuple[Tensor, Tensor], two: Tensor | tuple[Tensor, Tensor]) -> float:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return float((one * two).sum())
    if isinstance(one, Tensor) or isinstance(two, Tensor):
        whole, (u, v) = (one, two) if isinstance(one, Tensor) else (two, one)
        return float(((whole @ v) * u).sum())  # type: ignore[operator]
    (u, v), (left, right) = one, two
    return float(((u.T @ left) * (v.T @ right)).sum())
