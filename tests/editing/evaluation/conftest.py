"""The model of this room's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from evaluation_runs import Tiny

from tracer import Model


@pytest.fixture
def model(tiny: Tiny) -> Iterator[Model]:
    found = tiny("gpt2")
    before = found.fingerprint()
    yield found
    assert found.fingerprint() == before
