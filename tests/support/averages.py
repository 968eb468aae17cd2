"""What the tests of averages share: facts, settings, and traces that are counted."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracer.facts.fact import Fact
from tracer.model import Model
from tracer.tracing.average import AverageTrace
from tracer.tracing.average_trace import ARRAYS
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise

Tiny = Callable[[str], Model]
NOISE = GaussianNoise(level=0.5, samples=2)
FACTS = [
    Fact("{} is in", "Paris"),
    Fact("The capital of {} is", "France"),
    Fact("{} plays the", "Miles Davis"),
    Fact("{} is in the heart of", "The Eiffel Tower"),
    Fact("{}", "Seattle"),
    Fact("{} plays the", "Yo-Yo Ma"),
    Fact("{} was born in", "Dvořák"),
    Fact("{} is the capital of", "Paris"),
]
UNKNOWN = Fact("{} is", "Uppsala", " violin")
SETTINGS: dict[str, Any] = {"corruption": NOISE, "resamples": 50}
FIRST, MIDDLE, LAST_SUBJECT, SUBSEQUENT, FURTHER, LAST = range(6)


def counting(limit: int | None = None, calls: list[Fact] | None = None) -> tuple[Callable[..., Any], list[Fact]]:
    """``causal_trace`` under its own name, which notes the facts it is called with and stops after ``limit``."""
    done = [] if calls is None else calls

    @functools.wraps(causal_trace)
    def trace(model: Model, fact: Fact, **settings: Any) -> Any:
        if limit is not None and len(done) >= limit:
            raise KeyboardInterrupt
        done.append(fact)
        return causal_trace(model, fact, **settings)

    return trace, done


def assert_same(one: AverageTrace, other: AverageTrace, skip: Sequence[str] = ()) -> None:
    """Equal to the bit."""
    for field in dataclasses.fields(AverageTrace):
        if field.name in ARRAYS:
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), strict=True)
        elif field.name not in skip:
            assert getattr(one, field.name) == getattr(other, field.name), field.name
