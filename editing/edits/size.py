"""Size of a low-rank change, and the form in which an edit keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, float32

from tracer.errors import EditOfOtherWeights

from .weights import Factors


def owned(factors: Factors) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors in float32 on the CPU.

    Raises:
        TracerError: factors that do not belong together.
    """
    found = {}
    for name, (u, v) in factors.items():
        if u.dim() != 2 or v.dim() != 2 or u.shape[1] != v.shape[1]:
            raise EditOfOtherWeights(
                f"the change of {name!r} has factors U {list(u.shape)} and V {list(v.shape)}; expected "
                "U [rows, r] and V [columns, r]"
            )
        found[name] = (_own(u), _own(v))
    return found


def owned_whole(deltas: Mapping[str, Tensor], factors: Factors) -> dict[str, Tensor]:
    """Changes of whole tensors in float32 on the CPU.

    Raises:
        TracerError: one of a weight that has factors too.
    """
    if twice := next((name for name in deltas if name in factors), None):
        raise EditOfOtherWeights(
            f"the weight {twice!r} has factors and a delta; give its change as one of them (`Edit.to_dense` has both)"
        )
    return {name: _own(delta) for name, delta in deltas.items()}


def norm_of(u: Tensor, v: Tensor) -> float:
    """Frobenius norm of U V^T from the r x r Gram matrices, so that no dense matrix is made.

    ||U V^T||^2 is the sum of U^T U * V^T V.
    """
    u, v = u.double(), v.double()
    squared = ((u.T @ u) * (v.T @ v)).sum()
    return math.sqrt(max(float(squared), 0.0))


def _own(factor: Tensor) -> Tensor:
    return factor.detach().to("cpu", float32).contiguous()
