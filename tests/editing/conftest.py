"""What several rooms' tests use."""

from __future__ import annotations

import pytest

from tracer import Model, load


@pytest.fixture(scope="module")
def world() -> Model:
    return load().pinned()
