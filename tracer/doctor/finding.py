"""A finding: one thing of an installation, whether it is as it should be, and the repair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["good", "missing", "bad"]


@dataclass(frozen=True)
class Finding:
    """A thing that was looked at.

    Attributes:
        part: what it is a part of: "versions", "machine", "files", "figures", "extras" or "models".
        name: of the thing.
        found: in a few words.
        state: "good", "missing" (something more could be had) or "bad" (something will fail).
        repair: a command or a hint, of one line; empty where nothing is to be done.
    """

    part: str
    name: str
    found: str
    state: State = "good"
    repair: str = ""
