"""Solving with a covariance: C^-1 K by a Cholesky factor, in float64, for all keys at once, where that is fastest."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tracer.engine.row_budget import free_bytes
from tracer.errors import SingularCovariance, out_of_memory

LIMIT = {torch.float32: 1e9, torch.float64: 1e14}
"""Largest condition number a solve is trusted at, by the dtype the moment was summed in."""
SHARE = 1 / 4  # of the memory that is free: factors that are kept, and one that is made
PROBE = 512  # rows of the products by which devices are compared
STARTS, STEPS = 4, 6  # columns and applications of the estimate of an eigenvalue
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Solver:
    """C^-1 by a Cholesky factor.

    Attributes:
        factor: the Cholesky factor [d_mlp, d_mlp], float64, where it was made.
        condition: an estimate from below of largest over smallest eigenvalue, damping included.
    """

    factor: Tensor = field(repr=False)
    condition: float

    @classmethod
    def of(cls, moment: Tensor, tokens: int, layer: int, damping: float, device: torch.device = CPU) -> Solver:
        """See `Covariance.solver`; on a device whose memory runs out, it is made on the CPU.

        Args:
            moment: C [d_mlp, d_mlp], in the dtype it was summed in.
            tokens: number of keys counted.
            layer: named in messages.
            damping: share of the mean of the diagonal.
            device: where to factor.
        """
        try:
            return cls._made(moment, tokens, layer, damping, device)
        except Exception as error:
            if device == CPU or not out_of_memory(error):
                raise
        return cls._made(moment, tokens, layer, damping, CPU)

    @classmethod
    def _made(cls, moment: Tensor, tokens: int, layer: int, damping: float, device: torch.device) -> Solver:
        matrix = moment.to(device, torch.float64, copy=True)
        ridge = damping * matrix.diagonal().mean()
        matrix.diagonal().add_(ridge)
        width, dtype = len(matrix), moment.dtype
        factor, failed = torch.linalg.cholesky_ex(matrix)
        reason = ""
        condition = float("inf")
        if tokens < width and not damping:
            reason = "is singular: it has fewer tokens than dimensions"
        elif failed:
            reason = "is not positive definite"
        else:
            condition = _condition(matrix, factor)
            if not condition <= LIMIT[dtype if not damping else torch.float64]:
                reason = f"has the condition number {condition:.1e}, past what sums in {str(dtype)[6:]} can tell apart"
        if reason:
            raise SingularCovariance(
                f"the covariance of layer {layer} ({tokens:,} tokens, d_mlp {width:,}) {reason}, and cannot be "
                f"inverted. Estimate it on more text, well over {20 * width:,} tokens and of many kinds, or add to its "
                f"diagonal: damping=1e-4" + (f" rather than {damping:g}" if damping else "")
            )
        return cls(factor, condition)

    def solve(self, keys: Tensor) -> Tensor:
        """C^-1 K for K [d_mlp] or [d_mlp, n]; float64, on the device of `keys`."""
        if keys.dim() not in (1, 2) or len(keys) != len(self.factor):
            raise SingularCovariance(f"keys of shape {list(keys.shape)}: expected [{len(self.factor)}], or that by n")
        columns = keys.detach().to(self.factor.device, torch.float64).reshape(len(keys), -1)
        return torch.cholesky_solve(columns, self.factor).reshape(keys.shape).to(keys.device)


class Solvers:
    """Solvers that were made, the last ones used, within a share of the memory that is free where they lie."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, float, torch.device], Solver] = OrderedDict()
        self._faster: dict[torch.device, bool] = {}

    def get(self, key: tuple[int, float, torch.device], make: Callable[[], Solver]) -> Solver:
        """The solver of a layer, damping and device, made where it is not there.

        Args:
            key: of the solver.
            make: makes it.
        """
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        place = self._kept[key].factor.device
        there = [each for each, solver in self._kept.items() if solver.factor.device == place]
        while len(there) > 1 and sum(self._kept[each].factor.nbytes for each in there) > self._room(there, place):
            del self._kept[there.pop(0)]
        return self._kept[key]

    def _room(self, there: list, place: torch.device) -> int:
        """Bytes for the factors on a device: a share of what would be free without them."""
        return int(SHARE * (free_bytes(place) + sum(self._kept[each].factor.nbytes for each in there)))

    def place(self, device: torch.device, width: int) -> torch.device:
        """Where to solve for a model on a device: there, if it has float64, the memory, and is faster than the CPU.

        Args:
            device: of the model's layer.
            width: of the matrix; one on a device takes three times its size while it is factored.
        """
        if device.type in ("cpu", "mps", "meta") or 3 * 8 * width**2 > SHARE * free_bytes(device):
            return CPU
        if device not in self._faster:
            self._faster[device] = seconds(device) < seconds(CPU)
        return device if self._faster[device] else CPU


def seconds(device: torch.device) -> float:
    """Wall time of a product in float64 on a device; infinite where it has none.

    Args:
        device: any.
    """
    try:
        matrix = torch.ones(PROBE, PROBE, dtype=torch.float64, device=device)
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            (matrix @ matrix)[0, 0].item()
            best = min(best, time.perf_counter() - began)
    except (TypeError, RuntimeError) as error:  # no such numbers there
        if out_of_memory(error):
            raise
        return float("inf")
    return best


def _condition(matrix: Tensor, factor: Tensor) -> float:
    """Largest over smallest eigenvalue, from below, of the matrix and of its inverse."""
    most = _largest(lambda x: matrix @ x, matrix)
    return most * _largest(lambda x: torch.cholesky_solve(x, factor), matrix)


def _largest(apply: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """Largest eigenvalue of a symmetric matrix, from below: that in the Krylov space of a few columns (Rayleigh-Ritz).

    Every application is to several columns at once, so that a large matrix is read a few times instead of once for
    each of as many steps of a power iteration.
    """
    drawn = torch.randn(len(like), STARTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [torch.linalg.qr(drawn.to(like.device))[0]]
    for _ in range(STEPS - 1):
        found.append(torch.linalg.qr(apply(found[-1]))[0])
    basis = torch.linalg.qr(torch.cat(found, dim=1))[0]
    small = basis.T @ apply(basis)
    return float(torch.linalg.eigvalsh((small + small.T) / 2)[-1])
