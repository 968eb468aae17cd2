"""Memory that runs out leads to half as many rows; with one row it is said as it is, and no other way is tried."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from agreement import NOISE, fact, variant
from repository import ROOT
from torch import Tensor
from values import found, subjects

from editing.health.drift import Drift
from tracer import TracerError, attribute_neurons
from tracer.engine.follow import Line, follow
from tracer.engine.hooks import Replace, Site, intervene
from tracer.engine.sweep import record
from tracer.errors import TracerNote, out_of_memory
from tracer.model import Model, load
from tracer.tracing.causal import causal_trace

SAID = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)"),
]
REPORTS = {  # handlers of any exception that tell what it said and do not go on as if it had worked
    "tracer/model/checkpoint.py": {"device_of"},
    "tracer/runs/worker.py": {"main"},
    "tracer/runs/cluster.py": {"work", "__exit__", "_connected"},
    "tracer/runs/work.py": {"loop", "beat"},
    "editing/workbench/page.py": {"_begin", "ended", "_guarded"},
    "editing/workbench/jobs.py": {"start", "_run"},
    "tracer/files/rows.py": {"_cell"},  # Python's parser says so of brackets nested too deep
}


@pytest.mark.parametrize("error", SAID, ids=lambda error: f"{type(error).__name__}: {error}"[:60])
def test_is_recognised(error: Exception) -> None:
    assert out_of_memory(error)
    wrapped = ValueError("cannot be read")
    wrapped.__cause__ = error
    assert out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), ValueError("out of memory"), TypeError(), TracerError("x")]
)
def test_nothing_else_is(error: Exception) -> None:
    assert not out_of_memory(error)


@contextmanager
def failing(model: Model, at: int, error: Exception) -> Iterator[list[int]]:
    """The ``at``-th forward of the last block finds no memory; how many there were."""
    seen: list[int] = []

    def before(*_: Any) -> None:
        seen.append(len(seen))
        if len(seen) - 1 == at:
            raise error

    handle = model.module("hidden", model.n_layers - 1).register_forward_pre_hook(before)
    try:
        yield seen
    finally:
        handle.remove()


def _trace(model: Model, max_rows: int | None = 1) -> Tensor:
    return torch.tensor(causal_trace(model, fact(model), corruption=NOISE, max_rows=max_rows).scores)


def _attribute(model: Model, max_rows: int | None = 1) -> Tensor:
    return torch.tensor(attribute_neurons(model, fact(model), 3, max_rows=max_rows).scores)


def _value(model: Model, max_rows: int | None = 1) -> Tensor:
    return torch.stack([each.delta for each in found(model, subjects(model), [("mlp", 1)], max_rows=max_rows)])


def _write(model: Model, max_rows: int | None = 1) -> Tensor:
    lines = [
        Line(tuple(model.tokenizer(text)["input_ids"]), tokens=4, draw=torch.Generator().manual_seed(7))
        for text in ("The Space Needle is in", "Paris")
    ]
    return torch.tensor([each.written for each in follow(model, lines, max_rows=max_rows)])


def _drift(model: Model, max_rows: int | None = None) -> Tensor:
    assert max_rows is None
    return Drift.recorded(model, "The Space Needle is in downtown Seattle. " * 8, tokens=60, width=6).before


@pytest.mark.parametrize("work", [_trace, _attribute, _value, _write], ids=lambda work: work.__name__)
@pytest.mark.parametrize("settings", [{}, {"n_embd": 32, "n_layer": 4, "n_head": 4}], ids=["gpt2", "several ways"])
def test_at_any_forward_it_comes_out(
    settings: dict[str, int], work: Callable[[Model], None], tiny: Callable[[str], Model]
) -> None:
    model = variant("GPTBigCodeConfig", settings) if settings else tiny("gpt2")
    with failing(model, -1, MemoryError()) as seen:
        work(model)
    assert len(seen) > 2
    for at in range(min(len(seen), 12)):
        error = torch.OutOfMemoryError(f"CUDA out of memory at {at}")
        with failing(model, at, error) as again, pytest.raises(torch.OutOfMemoryError) as raised:
            work(model)
        assert raised.value is error
        assert len(again) == at + 1  # nothing else was tried


@contextmanager
def narrow(model: Model, most: int) -> Iterator[list[int]]:
    """No forward's last block has memory for more than so many rows; how many those had that went through."""
    went: list[int] = []

    def before(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        rows = len(args[0] if args else kwargs["hidden_states"])
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        went.append(rows)

    handle = model.module("hidden", model.n_layers - 1).register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield went
    finally:
        handle.remove()


@pytest.mark.parametrize("work", [_trace, _value, _write, _drift], ids=lambda work: work.__name__)
def test_half_as_many_rows_are_tried_and_a_note_says_so(work: Callable, tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    expected = work(model, None)
    most = 1 if work is _write else 2
    with narrow(model, most) as went, pytest.warns(TracerNote, match="memory ran out with .* rows in a forward"):
        again = work(model, None)
    assert max(went) == most
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)
    with narrow(model, 0), pytest.raises(torch.OutOfMemoryError):
        work(model, None)


def test_an_intervention_does_not_call_it_a_wrong_shape(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")

    class Greedy(Replace):
        def __call__(self, *_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        record(model, [1, 2, 3], [Greedy(Site("embed", token=1), torch.zeros(32))])
    with intervene(model, [Greedy(Site("mlp", 1, 1), torch.zeros(32))]), pytest.raises(torch.OutOfMemoryError):
        model.hf(torch.tensor([[1, 2, 3]]))


def test_reading_weights_does_not_call_them_wrong(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", greedy)
    with pytest.raises(torch.OutOfMemoryError):
        load(tiny_folder("gpt2"))


def _broad(handler: ast.ExceptHandler) -> bool:
    kinds = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else {"bare"}
    return bool(kinds & {"bare", "Exception", "BaseException", "RuntimeError", "MemoryError"})


def _passes_it_on(handler: ast.ExceptHandler) -> bool:
    bare = isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
    return bare or any(isinstance(node, ast.Name) and node.id == "out_of_memory" for node in ast.walk(handler))


def test_every_handler_of_any_exception_passes_it_on_or_reports_it() -> None:
    swallowing = []
    for path in [*(ROOT / "tracer").rglob("*.py"), *(ROOT / "editing").rglob("*.py")]:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        for function in ast.walk(ast.parse(text)) if "except" in text else ():
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if not isinstance(node, ast.ExceptHandler) or not _broad(node) or _passes_it_on(node):
                    continue
                if function.name not in REPORTS.get(name, ()):
                    swallowing.append(f"{name}:{node.lineno} in {function.name}")
    assert not swallowing
