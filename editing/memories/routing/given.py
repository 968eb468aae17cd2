"""What features and rules are given of a router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from editing.memories.small import Parts

Line = Mapping[str, Any]
"""What is known of an entry: "prompt", "ids" (of the prompt), "target" with its leading space, "subject"."""


class Given(Protocol):
    """A router, as its features and its rule see it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Numbers and words, json values."""
        ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By name, on the CPU."""
        ...

    @property
    def parts(self) -> Parts:
        """The tensors, with what is made of them once."""
        ...
