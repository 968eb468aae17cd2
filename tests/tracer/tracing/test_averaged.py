"""Averages of given traces: classes of tokens, numbers by hand, files, tables and text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from averages import (
    FIRST,
    FURTHER,
    LAST,
    LAST_SUBJECT,
    MIDDLE,
    assert_same,
)
from hypothesis import given
from hypothesis import strategies as st
from synthetic import synthetic_trace

from tracer.errors import TracerError
from tracer.files import npz as storage
from tracer.statistics import clustered_mean
from tracer.tracing.average import AverageTrace
from tracer.tracing.average_trace import token_classes

# classes of tokens


@pytest.mark.parametrize(
    ("length", "subject", "members"),
    [
        (9, (1, 5), [[1], [2, 3], [4], [5], [6, 7], [8]]),
        (5, (0, 2), [[0], [], [1], [2], [3], [4]]),
        (6, (2, 3), [[2], [], [2], [3], [4], [5]]),  # one token: first and last of the subject
        (4, (0, 3), [[0], [1], [2], [3], [], [3]]),  # one token follows: first subsequent and last
        (4, (1, 4), [[1], [2], [3], [], [], [3]]),  # the subject ends the prompt
        (2, (1, 2), [[1], [], [1], [], [], [1]]),
        (1, (0, 1), [[0], [], [0], [], [], [0]]),
    ],
)
def test_classes(length: int, subject: tuple[int, int], members: list[list[int]]) -> None:
    found = token_classes(length, subject, range(length))
    assert [np.flatnonzero(row).tolist() for row in found] == members


@given(st.data())
def test_classes_partition_the_prompt_from_the_subject_on(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 12))
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start + 1, length))
    positions = data.draw(st.lists(st.integers(0, length - 1), unique=True))
    found = token_classes(length, (start, end), positions)
    assert found.shape == (6, len(positions))
    for position, classes in zip(positions, found.T, strict=True):
        expected = 0 if position < start else 1
        expected += position == start == end - 1  # first and last subject token
        expected += position == length - 1 and position in (end - 1, end)  # last token, and what it is besides
        assert classes.sum() == expected


# numbers by hand


def hand(scores: Any, corrupted: float, subject: str = "a", span: tuple[int, int] = (0, 1), **fields: Any) -> Any:
    """A trace of one layer, by its scores per token."""
    table = np.array(scores, dtype=float)[:, None]
    tokens = tuple(f"t{i}" for i in range(len(table)))
    default: dict[str, Any] = {"clean": 0.9, "subject": subject, "n_layers": 1, "layers": (0,), "tokens": tokens}
    return synthetic_trace(scores=table, corrupted=corrupted, subject_range=span, **(default | fields))


def test_numbers_by_hand() -> None:
    traces = [
        hand([0.1, 0.5, 0.6, 0.7, 0.8, 0.3, 0.9], 0.1, "a", (1, 5)),  # first, 2 middle, last, subsequent and last
        hand([0.4, 0.2, 0.6, 0.8, 0.5], 0.2, "b", (0, 1), clean=0.6),  # first = last, subsequent, 2 further, last
        hand([0.3, 0.7, 0.35], 0.3, "b", (0, 2), clean=0.3),  # first, last, subsequent = last
    ]
    average = AverageTrace.of(traces, ["unknown"], resamples=100)
    assert average.tokens.tolist() == [3, 2, 3, 3, 2, 3]
    expected = [
        (0.4 + 0.2 + 0.0) / 3,
        (0.5 + 0.6) / 2,
        (0.7 + 0.2 + 0.4) / 3,
        (0.2 + 0.0 + 0.05) / 3,
        (0.4 + 0.6) / 2,
        (0.8 + 0.3 + 0.05) / 3,
    ]
    np.testing.assert_allclose(average.effect[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(average.scores[MIDDLE, 0], (0.6 + 0.7) / 2, atol=1e-12)
    np.testing.assert_allclose(average.scores[LAST, 0], (0.9 + 0.5 + 0.35) / 3, atol=1e-12)
    assert average.clean == pytest.approx(0.6)
    assert average.corrupted == pytest.approx(0.2)
    assert average.total_effect == pytest.approx(0.4)
    assert (average.facts, average.subjects, average.unknown) == (3, 2, ("unknown",))
    # the total effect has the two subjects' draws: a alone 0.8, b alone 0.2, both 0.4
    assert (average.total_low, average.total_high) == (pytest.approx(0.2), pytest.approx(0.8))
    assert average.peak() == ("middle subject tokens", 0)
    # the published effect subtracts the mean corrupted score, 0.2, and cuts off below 0
    np.testing.assert_allclose(average.published(), np.clip(average.scores - 0.2, 0, None), atol=1e-12)
    np.testing.assert_allclose(average.published()[MIDDLE], 0.45, atol=1e-12)
    np.testing.assert_allclose(average.published()[FIRST], average.effect[FIRST], atol=1e-12)  # every fact has one
    assert np.nanmax(AverageTrace.of([hand([0.1, 0.1], 0.2)]).published()) == 0


def test_intervals_are_clustered_by_subject() -> None:
    random = np.random.default_rng(0)
    traces = [hand([score, score], 0.0, subject) for subject in "abcdefgh" for score in [random.normal()] * 3]
    draw: dict[str, Any] = {"resamples": 300, "seed": 4, "confidence": 0.9}
    average = AverageTrace.of(traces, **draw)
    values = [trace.scores[0, 0] for trace in traces]
    mean, low, high = clustered_mean(values, [t.subject for t in traces], **draw)
    found = average.effect[FIRST, 0], average.low[FIRST, 0], average.high[FIRST, 0]
    np.testing.assert_allclose(found, [mean, low, high], atol=1e-12)
    apart = AverageTrace.of([dataclasses.replace(t, subject=str(i)) for i, t in enumerate(traces)], **draw)
    assert (high - low) > 1.3 * (apart.high - apart.low)[FIRST, 0]
    assert (average.subjects, apart.subjects) == (8, 24)


def test_a_class_without_tokens_is_nan() -> None:
    average = AverageTrace.of([hand([0.5, 0.6], 0.1)])
    for array in (average.effect, average.low, average.high, average.scores, average.published()):
        assert np.isnan(array[:, 0]).tolist() == [False, True, False, False, True, False]
    assert average.low[FIRST] == average.high[FIRST] == average.effect[FIRST]  # a single subject


def test_selected_rows_count_where_they_are() -> None:
    trace = synthetic_trace(positions=(3,))
    average = AverageTrace.of([trace, dataclasses.replace(trace, subject="other")])
    assert average.tokens.tolist() == [0, 0, 2, 0, 0, 0]
    np.testing.assert_allclose(average.effect[LAST_SUBJECT], trace.effect[0], atol=1e-12)
    before = AverageTrace.of([synthetic_trace(subject_range=(2, 4), positions=(0, 1))])
    assert np.isnan(before.effect).all()
    assert "strongest" not in str(before)
    with pytest.raises(TracerError, match="no tokens from the subject on"):
        before.peak()


def test_peak_of_a_divergence_is_where_it_falls_most() -> None:
    average = AverageTrace.of([hand([1.5, 3.0, 0.5], 2.0, clean=0.0, metric="kl")])
    assert average.total_effect == -2
    assert average.peak() == ("last token", 0)
    assert "strongest: last token, layer 0, -1.5" in str(average)


def test_replaced_subjects_may_differ() -> None:
    replaced = [{"name": "TokenReplacement", "subjects": [name], "samples": 1} for name in ("Rome", "Oslo")]
    average = AverageTrace.of([synthetic_trace(corruption=corruption) for corruption in replaced])
    assert average.corruption == {"name": "TokenReplacement", "samples": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "mlp"}, "differ in kind: 'hidden' and 'mlp'"),
        ({"window": 5}, "differ in window: 3 and 5"),
        ({"metric": "kl"}, "differ in metric"),
        ({"sever": "mlp"}, "differ in sever: None and 'mlp'"),
        ({"method": "attribution"}, "differ in method"),
        ({"fingerprint": "1" * 64}, "differ in fingerprint"),
        ({"layers": tuple(range(1, 8))}, "differ in layers"),
        ({"corruption": {**synthetic_trace().corruption, "level": 0.2}}, "differ in corruption's level: 0.1 and 0.2"),
    ],
)
def test_traces_of_different_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=f"traces 0 and 2 {message}"):
        AverageTrace.of([synthetic_trace(), synthetic_trace(), synthetic_trace(**fields)])


def test_other_things_are_refused() -> None:
    with pytest.raises(TracerError, match="no traces to average"):
        AverageTrace.of([])
    with pytest.raises(TracerError, match="entry 1 of the traces is a str"):
        AverageTrace.of([synthetic_trace(), "trace"])  # type: ignore[list-item]
    average = AverageTrace.of([synthetic_trace()])
    with pytest.raises(TracerError, match=r"low of an average has the shape \(6, 7\); expected \(6, 8\)"):
        dataclasses.replace(average, low=average.low[:, 1:])
    with pytest.raises(ValueError, match="read-only"):
        average.effect[0] = 1


# on disk, as a table, in words


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    average = AverageTrace.of([synthetic_trace(), synthetic_trace(subject="B")], ["Zürich is in"], confidence=0.9)
    assert np.isnan(average.effect[FURTHER:LAST]).sum() == 0
    assert_same(AverageTrace.load(average.save(tmp_path / "average.npz")), average)
    nothing = AverageTrace.of([synthetic_trace(positions=(3,))])
    assert_same(AverageTrace.load(nothing.save(tmp_path / "average.npz")), nothing)  # nan and all
    synthetic_trace().save(tmp_path / "trace.npz")
    with pytest.raises(TracerError, match=r"is not a saved tracer\.AverageTrace"):
        AverageTrace.load(tmp_path / "trace.npz")
    storage.write(tmp_path / "other.npz", "tracer.AverageTrace/1", {"effect": np.ones(1)}, {"unknown": []})
    with pytest.raises(TracerError, match="is not a saved AverageTrace"):
        AverageTrace.load(tmp_path / "other.npz")


def test_frame() -> None:
    average = AverageTrace.of([synthetic_trace(layers=(0, 2, 5)), synthetic_trace(layers=(0, 2, 5), subject="B")])
    frame = average.to_frame()
    assert list(frame.columns) == ["token_class", "layer", "effect", "low", "high", "score", "tokens"]
    assert len(frame) == 18
    row = frame[(frame["token_class"] == "last token") & (frame["layer"] == 5)].iloc[0]
    expected = average.effect[LAST, 2], average.low[LAST, 2], average.high[LAST, 2], average.scores[LAST, 2], 2
    assert tuple(row[["effect", "low", "high", "score", "tokens"]]) == expected


def test_text_says_what_was_found() -> None:
    lines = str(AverageTrace.of([synthetic_trace(), synthetic_trace(subject="B")], ["x"])).splitlines()
    assert lines == [
        "average trace; facts: 2, subjects: 2, left out as unknown to the model: 1",
        "hidden, prob, exact; model factworld",
        "total effect 0.7 [0.7, 0.7] (95 % confidence)",
        "strongest: last token, layer 7, 0.7 [0.7, 0.7]",
        "strongest of the subject: last subject token, layer 2, 0.5 [0.5, 0.5]",
    ]
    severed = AverageTrace.of([synthetic_trace("mlp", positions=(6,), sever="attn")], confidence=0.9)
    lines = str(severed).splitlines()
    assert lines[0] == "average trace; facts: 1, subjects: 1"
    assert lines[1] == "mlp, window 3, attn severed, prob, exact; model factworld"
    assert lines[2].endswith("(90 % confidence)")
    assert lines[3:] == ["strongest: last token, layer 0, 0 [0, 0]"]
