"""Solving with a covariance: all columns at once, few passes over the matrix, where it is fastest, within memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from editing.covariance import Covariance, solver
from editing.covariance.solver import Solver, Solvers

WIDTH = 96
CUDA = torch.device("cuda", 0)


def covariance(values: Tensor, layers: int = 1) -> Covariance:
    """With these eigenvalues at every layer."""
    torch.manual_seed(1)
    vectors = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64))[0]
    moment = (vectors * values.double()) @ vectors.T
    half: Tensor = (moment + moment.T) / 2
    moments: dict[int, Any] = dict.fromkeys(range(layers), half)
    return Covariance(moments, "0" * 64, "made", "corpus", "text", 8, 10**6, {})


def former_condition(matrix: Tensor, factor: Tensor) -> float:
    """Power iteration of forty single columns, as it was."""
    ends = []
    for step in (lambda x: matrix @ x, lambda x: torch.cholesky_solve(x, factor)):
        x = torch.randn(len(matrix), 1, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
        length = x.norm()
        for _ in range(40):
            x = step(x / length)
            length = x.norm()
        ends.append(length.item())
    return ends[0] * ends[1]


@pytest.mark.parametrize(
    "values",
    [
        torch.logspace(0, -8, WIDTH),
        torch.ones(WIDTH),
        torch.cat([torch.ones(WIDTH - 1), torch.tensor([1e-6])]),
        torch.linspace(1, 2, WIDTH),
        1 / torch.arange(1, WIDTH + 1),
    ],
)
def test_solutions_and_condition_are_the_former_ones(values: Tensor) -> None:
    made = covariance(values)
    found, keys = made.solver(0), torch.randn(WIDTH, 7)
    factor = torch.linalg.cholesky(made.matrix(0))
    columns = torch.stack([torch.cholesky_solve(key.double()[:, None], factor)[:, 0] for key in keys.T], dim=1)
    torch.testing.assert_close(found.solve(keys), columns, rtol=1e-6, atol=1e-6 * float(columns.abs().max()))
    exact, former = made.condition(0), former_condition(made.matrix(0), factor)
    assert 0.95 * former <= found.condition <= 1.001 * exact


def test_a_factor_is_read_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    solves: list[int] = []
    own = torch.cholesky_solve

    def counted(columns: Tensor, factor: Tensor) -> Tensor:
        solves.append(columns.shape[1])
        return own(columns, factor)

    monkeypatch.setattr(torch, "cholesky_solve", counted)
    covariance(torch.logspace(0, -3, WIDTH)).solver(0).solve(torch.ones(WIDTH, 30))
    assert len(solves) == solver.STEPS + 1 <= 8 and solves[-1] == 30


def test_factors_are_kept_within_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = covariance(torch.logspace(0, -3, WIDTH), layers=5)
    first = made.solver(0)
    every = [made.solver(layer) for layer in range(5)]
    assert every[0] is first is made.solver(0)
    size = first.factor.nbytes
    # a quarter of what is free without them has room for two
    monkeypatch.setattr(solver, "free_bytes", lambda _: 9 * size - len(made._solvers._kept) * size)
    second = made.solver(1)
    assert [layer for layer, *_ in made._solvers._kept] == [0, 1] and made.solver(1) is second
    assert made.solver(3) is made.solver(3) and [layer for layer, *_ in made._solvers._kept] == [1, 3]
    monkeypatch.setattr(solver, "free_bytes", lambda _: 0)
    assert made.solver(4) is made.solver(4) and len(made._solvers._kept) == 1  # one in any case


def test_a_device_is_taken_if_it_is_faster_and_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def seconds(device: torch.device) -> float:
        taken.append(device.type)
        return {"cuda": 1.0, "cpu": 2.0, "xpu": 3.0}[device.type]

    monkeypatch.setattr(solver, "seconds", seconds)
    monkeypatch.setattr(solver, "free_bytes", lambda _: 1 << 30)
    solvers = Solvers()
    assert solvers.place(CUDA, WIDTH) == solvers.place(CUDA, 2 * WIDTH) == CUDA
    assert taken == ["cuda", "cpu"]  # measured once
    others = [solvers.place(torch.device(name), WIDTH).type for name in ("xpu", "mps", "cpu", "meta")]
    assert others == ["cpu"] * 4
    assert solvers.place(CUDA, 1 << 14).type == "cpu"  # 3 * 2 GiB of a quarter of one


def test_a_device_without_double_precision_is_never_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < solver.seconds(torch.device("cpu")) < 5

    def ones(*_: int, **__: Any) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    monkeypatch.setattr(torch, "ones", ones)
    assert solver.seconds(torch.device("mps")) == float("inf")


def test_memory_that_runs_out_on_a_device_leads_to_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    own: Callable[..., Solver] = Solver._made
    tried: list[str] = []

    def made(*given: Any) -> Solver:
        tried.append(given[-1].type)
        if given[-1] == CUDA:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(*given)

    monkeypatch.setattr(Solver, "_made", made)
    found = Solver.of(covariance(torch.ones(WIDTH)).matrix(0), 10**6, 0, 0.0, CUDA)
    assert tried == ["cuda", "cpu"] and found.factor.device.type == "cpu"
    assert replace(found).condition == pytest.approx(1.0)
