"""No test of this folder keeps a covariance where others would find it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is kept outside of the test's own folder."""
    monkeypatch.setenv("TRACER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
