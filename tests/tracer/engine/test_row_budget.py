"""How many rows run at once: by the memory that is free, whatever the device, and the numbers stay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from agreement import NOISE, Tiny, fact

from tracer.engine import row_budget
from tracer.errors import TracerError
from tracer.tracing.causal import causal_trace

GB = 2**30


def free(monkeypatch: pytest.MonkeyPatch, **devices: int) -> None:
    monkeypatch.setattr(row_budget, "free_bytes", lambda device: devices[device.type])


@pytest.mark.parametrize(("left", "bytes_"), [(4 * GB, GB // 2), (GB, GB // 8), (3 * GB // 2, GB // 8), (7, 1), (0, 1)])
def test_a_share_of_what_is_free_rounded_down(left: int, bytes_: int, tiny: Tiny, monkeypatch: Any) -> None:
    free(monkeypatch, cpu=left)
    assert row_budget.budget(tiny("gpt2")) == bytes_


def test_a_processor_takes_no_more_than_helps(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, cpu=500 * GB)
    assert row_budget.budget(tiny("gpt2")) == row_budget.MOST_ON_CPU


def test_of_several_devices_the_fullest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """And parameters that lie nowhere yet count as little as none."""
    places = [SimpleNamespace(device=torch.device(name)) for name in ("cuda:0", "cuda:1", "meta")]
    model: Any = SimpleNamespace(hf=SimpleNamespace(parameters=lambda: iter(places)), device=torch.device("cuda:0"))
    left = {0: 64 * GB, 1: 16 * GB}
    monkeypatch.setattr(row_budget, "free_bytes", lambda device: left[device.index])
    assert row_budget.budget(model) == 2 * GB


def test_free_on_an_accelerator_is_what_the_device_and_torch_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch keeps for later is free as well."""
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (10 * GB, 80 * GB))
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda device: 5 * GB)
    monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda device: 2 * GB)
    assert row_budget.free_bytes(torch.device("cuda:0")) == 13 * GB


@pytest.mark.parametrize(
    ("limit", "used"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_a_container_has_what_its_limit_leaves(
    limit: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_budget, "GROUPS", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100 * GB))
    assert row_budget.free_bytes(torch.device("cpu")) == 100 * GB
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("max\n")
    (tmp_path / used).write_text(f"{GB}\n")
    assert row_budget.free_bytes(torch.device("cpu")) == 100 * GB
    (tmp_path / limit).write_text(f"{4 * GB}\n")
    assert row_budget.free_bytes(torch.device("cpu")) == 3 * GB


def test_numbers_stay_whatever_is_free(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    found, most = [], []
    for left in (64 * GB, 2**19, 0):
        free(monkeypatch, cpu=left)
        rows: list[int] = []
        handle = model.module("hidden", model.n_layers - 1).register_forward_pre_hook(
            lambda _, args, kwargs, rows=rows: rows.append(len(args[0] if args else kwargs["hidden_states"])),
            with_kwargs=True,
        )
        try:
            found.append(causal_trace(model, fact(model), corruption=NOISE))
        finally:
            handle.remove()
        most.append(max(rows))
    assert most[0] > most[1] > most[2] == 1
    for each in found[1:]:
        np.testing.assert_allclose(each.scores, found[0].scores, atol=1e-6, rtol=0)


def test_equally_many_rows_give_the_same_bits(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    free(monkeypatch, cpu=2**19)
    first = causal_trace(model, fact(model), corruption=NOISE)
    free(monkeypatch, cpu=2**19 + 2**17)  # rounded down to the same
    again = causal_trace(model, fact(model), corruption=NOISE)
    assert np.array_equal(first.scores, again.scores)
    free(monkeypatch, cpu=0)
    told = causal_trace(model, fact(model), corruption=NOISE, max_rows=3)
    free(monkeypatch, cpu=64 * GB)
    assert np.array_equal(told.scores, causal_trace(model, fact(model), corruption=NOISE, max_rows=3).scores)


@pytest.mark.parametrize("max_rows", [0, -1])
def test_less_than_one_row_is_refused(max_rows: int) -> None:
    row_budget.check_max_rows(None)
    with pytest.raises(TracerError, match=f"max_rows is {max_rows}; expected at least 1"):
        row_budget.check_max_rows(max_rows)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_says_what_is_free() -> None:
    device = torch.device("cuda", 0)
    before = row_budget.free_bytes(device)
    held = torch.zeros(2**28, dtype=torch.uint8, device=device)
    assert 2**27 < before - row_budget.free_bytes(device) < 2**30
    del held
    assert abs(row_budget.free_bytes(device) - before) < 2**28
