"""A trace that is saved and loaded is the same trace; other files are refused; failing leaves nothing behind."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracer.errors import TracerError
from tracer.tracing.trace import CausalTrace

TRACE = CausalTrace(
    scores=np.array([[0.1, 0.4, 0.2], [0.3, 0.1, 0.9]]),
    clean=0.95,
    corrupted=0.05,
    answer=" Zürich",
    tokens=("The", " Space", " <b>", " in", " 東"),
    subject_range=(1, 3),
    kind="mlp",
    window=10,
    layers=(0, 5, 7),
    positions=(2, 4),
    metric="prob",
    prompt="The Space <b> in 東",
    subject="Space <b>",
    model="tiny",
    n_layers=8,
    fingerprint="abc",
    corruption={"name": "GaussianNoise", "sigma": 3.0, "level": 0.25, "samples": 10, "seed": 1},
    note="a remark",
)


def test_effect_and_peak() -> None:
    np.testing.assert_array_equal(TRACE.effect, TRACE.scores - 0.05)
    assert TRACE.peak() == (4, 7)
    assert dataclasses.replace(TRACE, scores=np.ones((2, 3))).peak() == (2, 0)


def test_frame_has_a_row_per_site() -> None:
    frame = TRACE.to_frame()
    assert list(frame.columns) == ["token_index", "token", "in_subject", "layer", "score", "effect"]
    assert frame["token_index"].tolist() == [2, 2, 2, 4, 4, 4]
    assert frame["token"].tolist() == [" <b>"] * 3 + [" 東"] * 3
    assert frame["in_subject"].tolist() == [True] * 3 + [False] * 3
    assert frame["layer"].tolist() == [0, 5, 7] * 2
    assert frame["score"].tolist() == TRACE.scores.ravel().tolist()
    assert frame["effect"].tolist() == TRACE.effect.ravel().tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saved_and_loaded_is_the_same(dtype: Any, tmp_path: Path) -> None:
    trace = dataclasses.replace(TRACE, scores=TRACE.scores.astype(dtype))
    path = tmp_path / "trace.npz"
    assert trace.save(path) == path
    loaded = CausalTrace.load(str(path))
    assert loaded.scores.dtype == dtype
    np.testing.assert_array_equal(loaded.scores, trace.scores)
    for field in dataclasses.fields(trace):
        if field.name != "scores":
            assert getattr(loaded, field.name) == getattr(trace, field.name), field.name
    assert [file.name for file in tmp_path.iterdir()] == ["trace.npz"]
    trace.save(path)  # over itself


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        TRACE.scores[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        TRACE.clean = 1.0  # type: ignore[misc]


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(TracerError, match=r"expected one row per position and one column per layer, \(2, 3\)"):
        dataclasses.replace(TRACE, scores=np.ones((3, 3)))


@pytest.mark.parametrize("where", ["missing/trace.npz", "folder"])
def test_an_unwritable_place_leaves_nothing_behind(where: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(TracerError, match="cannot write to"):
        TRACE.save(tmp_path / where)
    assert [file.name for file in tmp_path.rglob("*")] == ["folder"]


def test_a_failing_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    path = TRACE.save(tmp_path / "trace.npz")
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(TracerError, match="No space left on device"):
        TRACE.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def write_text(path: Path) -> None:
    path.write_text("scores")


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"scores": 1}))


def write_other_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, scores=np.ones(2))


def write_objects(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, scores=np.array([{}], dtype=object), header=np.array([{}], dtype=object))


def write_half(path: Path) -> None:
    TRACE.save(path)
    path.write_bytes(path.read_bytes()[:200])


def write_other_format(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, scores=np.ones((1, 1)), header=np.frombuffer(b'{"format": "other"}', dtype=np.uint8))


@pytest.mark.parametrize(
    "write", [write_text, write_pickle, write_other_npz, write_objects, write_half, write_other_format]
)
def test_other_files_are_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    write(path)
    with pytest.raises(TracerError, match="is not a saved trace"):
        CausalTrace.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TracerError, match="there is no file"):
        CausalTrace.load(tmp_path / "trace.npz")
