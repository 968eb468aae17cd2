"""The machine: processors, memory, accelerators, and the folder for what is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tracer.files import cache_folder

from .finding import Finding

GIB = 1 << 30
SCARCE = 2 * GIB  # of memory or disk: a small model does not fit
FLOAT32 = 4  # bytes of a parameter


def machine() -> Iterator[Finding]:
    """Processors, threads, memory and accelerators."""
    import psutil
    import torch

    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0)) if _has_affinity() else os.cpu_count() or 1
    told = f"{cores} cores, {threads} threads of torch"
    if threads > cores:
        yield Finding("machine", "processor", told, "bad", f"set OMP_NUM_THREADS={cores}")
    else:
        yield Finding("machine", "processor", told)
    free, whole = psutil.virtual_memory().available, psutil.virtual_memory().total
    told = f"{free / GIB:.1f} of {whole / GIB:.1f} GiB free; holds models of up to {_parameters(free)} in float32"
    if free < SCARCE:
        yield Finding("machine", "memory", told, "bad", "close other programs; a traced model needs its size twice")
    else:
        yield Finding("machine", "memory", told)
    yield from _accelerators()


def _accelerators() -> Iterator[Finding]:
    import torch

    for place in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(place)
        name = torch.cuda.get_device_name(place)
        yield Finding("machine", f"cuda:{place}", f"{name}, {free / GIB:.1f} of {whole / GIB:.1f} GiB free")
    if torch.backends.mps.is_available():
        yield Finding("machine", "mps", "an Apple GPU")
    if not torch.cuda.device_count() and not torch.backends.mps.is_available():
        built = torch.version.cuda
        told = f"none seen by torch {torch.__version__}" + (f", built for CUDA {built}" if built else ", a CPU build")
        repair = "with an NVIDIA GPU: nvidia-smi shows whether its driver works" if built else ""
        yield Finding("machine", "accelerator", told, "missing" if built else "good", repair)


def files() -> Iterator[Finding]:
    """The cache: where it is, what is in it, whether it can be written and has room."""
    place = cache_folder()
    held = sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) if place.is_dir() else 0
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    if not os.access(there, os.W_OK):
        repair = "name a folder of yours in TRACER_CACHE"
        yield Finding("files", "cache", f"{place} cannot be written", "bad", repair)
        return
    free = shutil.disk_usage(there).free
    told = f"{place}, {held / GIB:.2f} GiB; {free / GIB:.1f} GiB free on its disk"
    if free < SCARCE:
        repair = f"make room, name another folder in TRACER_CACHE, or delete {place}: all in it is made again"
        yield Finding("files", "cache", told, "bad", repair)
    else:
        yield Finding("files", "cache", told)
    named = os.environ.get("TRACER_DATA")
    if named and not Path(named).is_dir():
        yield Finding(
            "files", "TRACER_DATA", f"{named} is no folder", "bad", "name one with benchmark records, or unset it"
        )


def _has_affinity() -> bool:
    return hasattr(os, "sched_getaffinity")


def _parameters(free: int) -> str:
    millions = free / FLOAT32 / 2 / 1e6  # weights, and as much again for states and copies
    return f"{millions / 1e3:.1f} billion parameters" if millions >= 1e3 else f"{millions:.0f} million parameters"
