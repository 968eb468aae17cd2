"""How far a search is from its end: by the NLL, and by the target's log-odds near the end."""

from __future__ import annotations

import math
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.methods.compute import compute_edits
from editing.methods.value import descent
from editing.methods.value.objective import LIKELY, remaining
from editing.request import EditRequest
from tracer import factworld
from tracer.model import load


@given(st.floats(-15.0, 15.0), st.floats(0.05, 20.0), st.floats(1e-3, 0.5))
def test_the_step_near_the_end_is_the_one_to_its_log_odds(odds: float, slope: float, stop: float) -> None:
    """A target whose log-odds grow by `slope` a step: the NLL's slope times the way to half of `stop`."""
    nll = math.log1p(math.exp(-odds))
    falls = slope * (1 - math.exp(-nll))
    if nll >= LIKELY or falls == 0:
        assert remaining(nll, stop) == nll  # Polyak's step
        return
    way = remaining(nll, stop) / falls
    assert way >= nll / falls * (1 - 1e-12)  # never shorter than that
    if nll > stop:  # the search goes on
        there = math.log1p(math.exp(-(odds + slope * way)))
        assert there == pytest.approx(stop / 2, rel=1e-6) or way == pytest.approx(nll / falls)


def test_a_search_ends_in_fewer_updates_at_a_value_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the embedded model, against a search that goes by the NLL to its end."""
    model = load()
    records = Random(0).sample(factworld.records("validation"), 4)
    requests = [EditRequest.of(record) for record in records]
    edits = compute_edits(model, [[request] for request in requests], "rome", known="edit", check=None)
    monkeypatch.setattr(descent, "remaining", lambda nll, stop: nll)
    former = compute_edits(model, [[request] for request in requests], "rome", known="edit", check=None)
    updates = [[int(torch.isfinite(edit.evidence["loss"][0, :, 0]).sum()) for edit in some] for some in (edits, former)]  # type: ignore[index]
    lengths = [torch.tensor([float(edit.evidence["delta"].norm()) for edit in some]) for some in (edits, former)]  # type: ignore[index]
    assert sum(updates[0]) < 0.75 * sum(updates[1])
    torch.testing.assert_close(lengths[0], lengths[1], rtol=0.05, atol=0.0)
    assert all(float(edit.evidence["loss"][0, :, 1].nan_to_num(9).min()) < 0.01 for edit in edits)  # type: ignore[index]
