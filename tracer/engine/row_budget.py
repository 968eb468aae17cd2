"""How many rows run at once: as many as fit a share of the memory that is free on the model's devices.

Numbers do not depend on it beyond rounding, and to the bit where equally many rows run at once. So that they do not
change with every other program on the machine either, the share is rounded down to a power of two.

An estimate may be wrong, and others may take what is free meanwhile: where memory runs out, the work is done again with
half as many rows, down to one, and a note says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from tracer.errors import TracerError, TracerNote, TraceSettingError, out_of_memory

if TYPE_CHECKING:
    from tracer.model import Model

Result = TypeVar("Result")
SHARE = 1 / 8  # of what is free: estimates of a row leave out attention, and other workers take their shares
# bytes; more rows are no faster on a processor: a row of 10 tokens of GPT-2 small takes 15.6 ms among 32 rows, 15.4 ms
# among 256 and 18.8 ms among 512, and 348 such rows take these bytes
MOST_ON_CPU = 2**29
GROUPS = Path("/sys/fs/cgroup")  # where Linux keeps the limits of a container


def check_max_rows(max_rows: int | None) -> None:
    """Check `max_rows`.

    Raises:
        TracerError: it is neither None nor at least 1.
    """
    if max_rows is not None and max_rows < 1:
        raise TraceSettingError(f"max_rows is {max_rows}; expected at least 1, or None for a default by memory")


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device; on a processor those of its container, where it is in one with a limit."""
    if device.type == "cpu":
        import psutil

        return min([psutil.virtual_memory().available, *_left_in_container()])
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free, _ = torch.accelerator.get_memory_info(device)
    # what torch has taken from the device and keeps for later is free as well
    return free + torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)


def _left_in_container() -> list[int]:
    """What the limits of this process's container leave; empty without limits, or where none can be read."""
    found = []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(max(0, int((GROUPS / limit).read_text()) - int((GROUPS / used).read_text())))
        except (OSError, ValueError):  # no such file; "max" is no number
            continue
    return found


def budget(model: Model) -> int:
    """Bytes for the rows of one forward: the power of two within `SHARE` of what is free where least is."""
    devices = {parameter.device for parameter in model.hf.parameters() if parameter.device.type != "meta"}
    shares = []
    for device in devices or {model.device}:
        share = int(SHARE * free_bytes(device))
        shares.append(min(share, MOST_ON_CPU) if device.type == "cpu" else share)
    return 1 << max(0, min(shares).bit_length() - 1)


def rows_that_fit(model: Model, row: int, *, least: int = 1) -> int:
    """Number of rows of `row` bytes each that run at once; at least `least`."""
    return max(least, budget(model) // max(1, row))


def fitting(work: Callable[[int], Result], rows: int) -> Result:
    """`work` done with at most so many rows at once, and again with half as many wherever memory runs out.

    Args:
        work: given the most rows; begins from the beginning each time.
        rows: the most at first.

    Raises:
        Exception: whatever `work` raises, and memory that runs out with one row.

    Warns:
        TracerNote: memory ran out.
    """
    most = rows
    while True:
        try:
            found = work(most)
            break
        except Exception as error:
            if most <= 1 or not out_of_memory(error):
                raise
        most = (most + 1) // 2  # out of the clause, so that nothing of the failure is held any more
    if most < rows:
        note_halved(rows, most)
    return found


def note_halved(rows: int, most: int) -> None:
    """Tell that fewer rows ran at once than was meant."""
    warnings.warn(
        f"memory ran out with {rows} rows in a forward, so that {most} ran at once, with the same numbers; "
        f"max_rows={most} spares the attempt",
        TracerNote,
        stacklevel=3,
    )


def default_rows(model: Model, tokens: int, read: int) -> int:
    """Number of rows of `tokens` tokens, with logits at `read` positions, that run at once without gradients."""
    width = torch.finfo(model.dtype).bits // 8
    try:
        inner = model.d_mlp
    except TracerError:  # an MLP of another kind, such as a mixture of experts
        inner = 4 * model.d_model
    hidden = tokens * (3 * inner + 12 * model.d_model) * width
    logits = read * model.hf.config.get_text_config().vocab_size * (2 * width + 8)
    return rows_that_fit(model, hidden + logits)
