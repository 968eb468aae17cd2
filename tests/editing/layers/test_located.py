"""Layers that a result suggests: by hand, from every kind of result, kept in files, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade_located import located
from synthetic import synthetic_attribution, synthetic_average, synthetic_trace

from editing.layers.from_result import layers_from
from editing.layers.located import Located, suggest
from tracer import (
    AverageTrace,
    Model,
    TracerError,
    export,
    factworld,
)
from tracer.files import npz as storage

NAN = float("nan")


# suggestions by hand


@pytest.mark.parametrize(
    ("profile", "share", "most", "layers", "window"),
    [
        ([0.1, 0.8, 1.0, 0.9, 0.2], 0.8, 6, (2, 3, 1), (1, 2, 3)),
        ([0.1, 0.8, 1.0, 0.9, 0.2], 0.85, 6, (2, 3), (2, 3)),
        ([0.1, 0.8, 1.0, 0.9, 0.2], 0.0, 3, (2, 3, 1), (1, 2, 3)),  # the better side first
        ([0.1, 0.8, 1.0, 0.9, 0.2], 0.0, 2, (2, 3), (2, 3)),
        ([0.1, 0.8, 1.0, 0.9, 0.2], 0.0, 6, (2, 3, 1, 4, 0), (0, 1, 2, 3, 4)),
        ([0.9, 0.1, 1.0, 0.1, 0.9], 0.8, 6, (2,), (2,)),  # a range without gaps
        ([1.0, 0.9, NAN, 0.9], 0.8, 6, (0, 1), (0, 1)),
        ([NAN, NAN, 0.3, NAN], 0.8, 6, (2,), (2,)),
        ([1.0, 1.0, 1.0], 1.0, 6, (0, 1, 2), (0, 1, 2)),  # of equal ones the lower
        ([0.0, 1.0, 1.0 + 1e-12], 1.0, 1, (1,), (1,)),  # rounding tells nothing apart
        ([-0.3, -0.1, -0.1], 0.8, 6, (1,), (1,)),  # nothing above zero: one layer
        ([0.0, 0.0], 0.0, 6, (0,), (0,)),
        ([0.5], 0.8, 6, (0,), (0,)),
    ],
)
def test_suggestions(profile: list[float], share: float, most: int, layers: Any, window: Any) -> None:
    assert suggest(np.array(profile), share, most) == (layers, window)


def test_equal_layers_are_told_apart_by_margins() -> None:
    assert suggest(np.ones(4), 0.8, ties=np.array([0.1, 0.4, 0.3, 0.2]))[0] == (1, 2, 3, 0)
    assert suggest(np.array([0.9, 1.0, 0.9]), 0.8, ties=np.array([9, 0, 9.5]))[0] == (1, 2, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], 1.5), "share is 1.5"),
        (([1.0], -0.1), "share is -0.1"),
        (([1.0], True), "share is True"),
        (([1.0], 0.8, 0), "most is 0"),
        (([1.0], 0.8, 1.5), "most is 1.5"),
        (([NAN, NAN],), "no layer was measured"),
    ],
)
def test_suggestions_refused(arguments: tuple, message: str) -> None:
    profile, *rest = arguments
    with pytest.raises(TracerError, match=message):
        suggest(np.array(profile), *(rest or [0.8]))  # pyright: ignore[reportArgumentType]


# results


def test_the_profile_of_a_sweep_is_the_harmonic_mean() -> None:
    found = located("sweep", n_layers=3, reliability=[[1, 1, 0]], generalisation=[[0.5, 1, 1]], locality=[[0.25, 1, 1]])
    np.testing.assert_allclose(found.profile, [3 / (1 + 2 + 4), 1, 0])
    assert found.layers == (1,)
    assert found.settings["share"] == 0.95
    missing = located("sweep", n_layers=3, reliability=[[1, 0.5, 0]], generalisation=[[NAN] * 3], locality=[[NAN] * 3])
    np.testing.assert_allclose(missing.profile, [1, 0.5, 0])  # what is missing does not count as 0
    margins: dict[str, Any] = {"reliability margin": [[0.1, 0.3, 0.2]], "locality margin": [[NAN, 0.1, 0.5]]}
    equal = located("sweep", n_layers=3, reliability=[[1, 1, 1]], **margins)
    assert equal.layers == (2, 1, 0)  # of equal shares the larger margins
    several = located("sweep", n_layers=2, reliability=[[1, 0], [0, 0]], generalisation=[[1, 1], [NAN, NAN]])
    np.testing.assert_allclose(several.mean("generalisation")[0], [1, 1])
    np.testing.assert_allclose(several.mean("reliability")[0], [0.5, 0])


def test_means_over_facts_have_intervals() -> None:
    found = located("trace", n_layers=2, effect=[[0, 1], [1, 1], [0, 1], [1, 1]])
    mean, low, high = found.mean("effect")
    assert mean.tolist() == [0.5, 1]
    assert low[0] < 0.5 < high[0]
    assert low[1] == high[1] == 1
    frame = found.to_frame()
    assert list(frame.columns) == ["layer", "rank", "profile", "effect", "effect low", "effect high"]
    assert frame["rank"].tolist() == [0, 1]
    assert frame["effect low"].tolist() == low.tolist()


@pytest.mark.parametrize("using", ["trace", "neurons", "change", "sweep"])
def test_saved_and_loaded_is_the_same(tmp_path: Path, using: str) -> None:
    found = located(using, unknown=("Zürich is in",), note="a remark")
    again = Located.load(found.save(tmp_path / "located.npz"))
    for field in dataclasses.fields(Located):
        one, other = getattr(found, field.name), getattr(again, field.name)
        if field.name in ("evidence", "unedited"):
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
        else:
            assert one == other, field.name
    for suffix in ("csv", "json", "npz"):
        export(found, tmp_path / f"located.{suffix}")
    assert len((tmp_path / "located.csv").read_text().splitlines()) == 1 + found.n_layers


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TracerError, match="no file"):
        Located.load(tmp_path / "none.npz")
    synthetic_trace().save(tmp_path / "trace.npz")
    with pytest.raises(TracerError, match=r"not a saved editing\.Located"):
        Located.load(tmp_path / "trace.npz")
    storage.write(tmp_path / "other.npz", "editing.Located/1", {}, {"layers": []})
    with pytest.raises(TracerError, match="not a saved Located"):
        Located.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"using": "guess"}, "using is 'guess'"),
        ({"layers": (1, 2)}, "not the same layers"),
        ({"layers": (), "window": ()}, "not the same layers"),
        ({"evidence": {}}, "lacks 'effect'"),
        ({"evidence": {"effect": np.zeros((2, 3))}}, r"'effect' has the shape \(2, 3\); expected \(4, 8\)"),
        ({"unedited": {"locality": np.zeros(3)}}, r"'locality' has the shape \(3,\); expected \(4,\)"),
    ],
)
def test_results_that_contradict_themselves_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        dataclasses.replace(located("trace"), **change)


def test_results_are_read_only_and_say_what_was_found() -> None:
    found = located("trace", n_layers=3, effect=[[0.1, 0.5, 0.45]] * 2, unknown=("x",))
    with pytest.raises(ValueError, match="read-only"):
        found.evidence["effect"][0] = 1
    assert str(found).splitlines() == [
        "layer 1, window 1 to 2, by MLP trace; 2 facts, left out as unknown to the model: 1; model factworld",
        "at layer 1: effect 0.5",
    ]
    assert "says little" in str(located("neurons", n_layers=2, mass=[[-0.2, -0.1]]))
    assert found.rank_correlation(located("trace", n_layers=3, effect=[[3, 1, 2]])) == pytest.approx(-0.5 - 0.5)
    with pytest.raises(TracerError, match="different models"):
        found.rank_correlation(located("trace", n_layers=3, effect=[[3, 1, 2]], fingerprint="1" * 64))


# what other results say


def eight(world: Model, **fields: Any) -> dict[str, Any]:
    return {"fingerprint": world.fingerprint(), **fields}


def test_layers_from_traces(world: Model) -> None:
    # synthetic traces: 0.5 * 0.8 ** |layer - 2| at the subject's last token, more than that at the prompt's last
    for kind in ("hidden", "mlp"):
        trace = synthetic_trace(kind, **eight(world))
        assert layers_from(trace, single=True, model=world) == (2,)
        assert layers_from(trace, single=False, model=world) == (1, 2, 3)
    part = synthetic_trace("mlp", layers=(3, 4, 5), positions=(3,), **eight(world))
    assert layers_from(part, single=True, model=world) == (3,)
    rising = synthetic_trace("mlp", layers=(3, 4, 5), positions=(3,), scores=[[0.3, 0.4, 0.5]], **eight(world))
    assert layers_from([part, part, rising], single=True, model=world) == (3,)  # 0.4, 0.32, 0.256; 0.1, 0.2, 0.3
    assert layers_from([part, rising], single=True, model=world) == (5,)
    falling = {"metric": "kl", "clean": 0.0, "corrupted": 2.0}
    kl = synthetic_trace("mlp", layers=(0, 1), positions=(3,), scores=[[1.5, 0.5]], **falling, **eight(world))
    assert layers_from(kl, single=True, model=world) == (1,)


def test_layers_from_averages(world: Model) -> None:
    average = synthetic_average("mlp", **eight(world))
    assert layers_from(average, single=True, model=world) == (2,)
    assert layers_from(average, single=False, model=world) == (1, 2, 3)
    traces = [synthetic_trace("mlp", subject=name, **eight(world)) for name in "ab"]
    assert layers_from(AverageTrace.of(traces), single=False, model=world) == layers_from(
        traces, single=False, model=world
    )


def test_layers_from_neurons(world: Model) -> None:
    fact = factworld.find("The Space Needle")
    last = fact.align(world).subject_range[1] - 1
    at = {"prompt": fact.text, "subject": fact.subject, "positions": (last,)}
    scores = np.zeros((8, 20))
    scores[5, :4], scores[3, 0] = 0.1, 0.35  # more in sum, fewer at the top
    found = synthetic_attribution(scores=scores, activations=scores, **at, **eight(world))
    assert layers_from(found, single=True, model=world) == (5,)
    assert layers_from([found, found], single=False, model=world) == (5,)
    elsewhere = dataclasses.replace(found, positions=(len(found.tokens) - 1,))
    with pytest.raises(TracerError, match="attribute with token='subject_last'"):
        layers_from(elsewhere, single=True, model=world)
    with pytest.raises(TracerError, match="do not add up"):
        layers_from(dataclasses.replace(found, method="activation_contrast"), single=True, model=world)


def test_layers_from_located(world: Model) -> None:
    found = located("trace", effect=[[0, 0.1, 0.8, 0.9, 1.0, 0.3, 0, 0]], **eight(world))
    assert layers_from(found, single=True, model=world) == (4,)
    assert layers_from(found, single=False, model=world) == (2, 3, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda own: synthetic_trace("attn", **own), "of kind 'attn' does not say"),
        (lambda own: synthetic_trace(sever="mlp", **own), "with mlp severed does not say"),
        (lambda own: synthetic_trace("mlp", positions=(0, 6), **own), "lacks the subject's last token"),
        (lambda own: synthetic_average("attn", **own), "of kind 'attn'"),
        (lambda own: synthetic_average(effect=np.full((6, 8), NAN), **own), "lacks the subjects' last tokens"),
        (lambda own: synthetic_trace("mlp", scores=np.full((7, 8), 0.1), **own), "no layer of the result"),
        (lambda _: synthetic_trace("mlp"), "of other weights"),
        (lambda _: located("trace"), "of other weights"),
        (lambda _: [], "got nothing"),
        (lambda _: 3, "got int"),
        (lambda own: [synthetic_trace("mlp", **own), synthetic_average("mlp", **own)], "got AverageTrace, CausalTrace"),
        (lambda own: [located("trace", **own)], "got Located"),
    ],
)
def test_results_that_name_no_layers(world: Model, given: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        layers_from(given(eight(world)), single=True, model=world)
