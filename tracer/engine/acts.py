"""What a memory says it does: what it changes in a forward, and what is run in the place of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .frame import Frame

if TYPE_CHECKING:
    from tracer.model import Model

Ids = tuple[int, ...]
Place = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Hook:
    """What a memory does in a forward.

    Attributes:
        write: kind and layer of the site it changes.
        act: `act(x, y, frame)` gives the new state of that site for its state y [rows, tokens, width], or None to leave
            the very tensor; x is the state at `read`.
        read: a site that is computed before; None: x is y.
    """

    write: Place
    act: Callable[[Tensor, Tensor, Frame], Tensor | None]
    read: Place | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """What is run in the place of a prompt.

    Attributes:
        ids: of the rewritten prompt.
        model: another one that is to answer, with the same tokens; None: the model that was asked.
    """

    ids: Ids
    model: Model | None = None
