"""Controls of an edit: the same size in a random direction, the same method at random layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editing.edits.edit import Edit
from tracer.errors import EvaluationOptionError


def random_direction(edit: Edit, seed: int) -> Edit:
    """The edit's own control; see [`editing.Edit.control`][].

    Args:
        edit: the edit.
        seed: of the draw.
    """
    return edit.control(seed)


def random_layers(able: range, layers: Sequence[int], seed: int) -> tuple[int, ...]:
    """As many neighbouring layers as `layers`, at another place among some.

    Args:
        able: layers that can be written.
        layers: of the edit.
        seed: of the draw.

    Raises:
        TracerError: there is no such place.
    """
    count = len(layers)
    starts = [start for start in able[: len(able) - count + 1] if set(range(start, start + count)) != set(layers)]
    if not starts:
        raise EvaluationOptionError(f"{len(able)} layers have no other place for {count} of them")
    start = starts[int(torch.randint(len(starts), (), generator=torch.Generator().manual_seed(seed)))]
    return tuple(range(start, start + count))
