"""Kinds for tests, and the models that memories are tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from toys import TOYS

from editing.memories import KINDS
from tracer import Model
from tracer.engine import set_memories

ARCHITECTURES = ("gpt2", "llama", "gemma3", "neox")
Tiny = Callable[[str], Model]


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in TOYS.items():
        monkeypatch.setitem(KINDS, name, place)


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tiny: Tiny) -> Iterator[Model]:
    found = tiny(request.param)
    before = found.fingerprint()
    yield found
    set_memories(found, [])
    assert found.fingerprint() == before


@pytest.fixture
def gpt2(tiny: Tiny) -> Iterator[Model]:
    yield (found := tiny("gpt2"))
    set_memories(found, [])
