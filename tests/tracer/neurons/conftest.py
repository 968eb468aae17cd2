"""Models of this room's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from agreement import Tiny, in_float64


@pytest.fixture(scope="module")
def wide(tiny_folder: Callable[[str], Path]) -> Tiny:
    return in_float64(tiny_folder)
