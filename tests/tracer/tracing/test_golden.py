"""Traces against the published code's own outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracer.facts.fact import Fact
from tracer.model import Model
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise


@pytest.mark.parametrize(("kind", "key"), [("hidden", "None"), ("mlp", "mlp"), ("attn", "attn")])
@pytest.mark.parametrize("case", ["museum", "birthplace", "capital"])
def test_traces_equal_the_published_ones(case: str, kind: Any, key: str, golden: Path, golden_model: Model) -> None:
    with np.load(golden / f"trace_{case}.npz") as file:
        published = {name: file[name] for name in file.files}
    trace = causal_trace(
        golden_model,
        Fact(str(published["prompt"]), str(published["subject"])),
        kind=kind,
        window=10,
        corruption=GaussianNoise(level=float(published["noise_level"])),
    )
    np.testing.assert_allclose(trace.scores, published[f"scores_{key}"], atol=1e-6, rtol=0)
    assert trace.clean == pytest.approx(float(published["high_score"]), abs=1e-6)
    assert trace.corrupted == pytest.approx(float(published["low_score"]), abs=1e-6)
    assert trace.answer == str(published["answer"])
    assert trace.subject_range == tuple(published["subject_range"])
    assert trace.note == ""
