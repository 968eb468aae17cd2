"""Time of making a solver of a covariance and solving with it, against the former way, in one process on one thread.

    python benchmarks/solves.py                 matrices of 1,024, 2,048 and 4,096 rows
    python benchmarks/solves.py --width 6400

The former way estimated the condition number by power iterations, forty triangular solves of one column each, and
solved one key after the other. Prints seconds of the processor for the estimate and for 32 keys, their ratios, both
estimates beside each other, and the largest relative difference of the solutions.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.trace import timed
from editing.covariance.solver import Solver, _condition

KEYS = 32


def former_condition(matrix: Tensor, factor: Tensor) -> float:
    """Largest over smallest eigenvalue by power iteration with the matrix and with its inverse."""
    ends = []
    for step in (lambda x: matrix @ x, lambda x: torch.cholesky_solve(x, factor)):
        x = torch.randn(len(matrix), 1, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
        length = x.norm()
        for _ in range(40):
            x = step(x / length)
            length = x.norm()
        ends.append(length.item())
    return ends[0] * ends[1]


def compare(width: int) -> None:
    """Print the line of a width."""
    torch.manual_seed(0)
    drawn = torch.randn(2 * width, width, dtype=torch.float64) * torch.linspace(0.1, 3, width, dtype=torch.float64)
    matrix = drawn.T @ drawn / len(drawn)
    factor, keys = torch.linalg.cholesky(matrix), torch.randn(width, KEYS)
    former, slow, _ = timed(lambda: former_condition(matrix, factor))
    now, fast, _ = timed(lambda: _condition(matrix, factor))
    wide = keys.double()
    each, single, _ = timed(lambda: torch.cat([torch.cholesky_solve(key[:, None], factor) for key in wide.T], dim=1))
    every, joint, _ = timed(lambda: Solver(factor, now).solve(keys))
    apart = float((each - every).abs().max() / each.abs().max())
    print(
        f"{width:6}{slow:10.3f}{fast:10.3f}{slow / fast:7.1f}x{former:12.4g}{now:12.4g}"
        f"{single:10.3f}{joint:10.3f}{single / joint:7.1f}x{apart:10.0e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="+", default=[1024, 2048, 4096], help="rows of the matrices")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'width':>6}{'former':>10}{'now':>10}{'ratio':>8}{'estimates':>24}", end="")
    print(f"{'one by one':>10}{'together':>10}{'ratio':>8}{'apart':>10}")
    for width in given.width:
        compare(width)


if __name__ == "__main__":
    main()
