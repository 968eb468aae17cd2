"""The result of acting on neurons: tables, files, and summaries over many facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tracer.errors import TracerError
from tracer.neurons.effects import (
    NeuronEffects,
    summarise_effects,
)

# --- the result ------------------------------------------------------------------------------------------------------

RESULT = NeuronEffects(
    action="amplify",
    factor=2.0,
    value=0.0,
    neurons=((0, 1), (3, 2)),
    other_neurons=((1, 1),),
    facts=("The [b] Needle is in", "Der [MASK] steht in Zürich"),
    answers=(" Seattle", " 東"),
    before=np.array([0.5, 0.2]),
    after=np.array([0.25, 0.3]),
    random=np.array([[0.5, 0.55, 0.45], [0.2, 0.2, 0.26]]),
    other=np.array([0.6, 0.1]),
    subject="Needle",
    tokens=(0, -1),
    site="pre",
    seed=3,
    model="tiny",
    fingerprint="abc",
    note="a remark",
)


def test_changes_and_frame() -> None:
    np.testing.assert_allclose(RESULT.change, [-0.5, 0.5])
    np.testing.assert_allclose(RESULT.random_change, [[0, 0.1, -0.1], [0, 0, 0.3]], atol=1e-15)
    np.testing.assert_allclose(RESULT.other_change, [0.2, -0.5])  # type: ignore[arg-type]
    frame = RESULT.to_frame()
    assert list(frame.columns) == ["prompt", "role", "condition", "draw", "before", "after", "change"]
    assert frame["role"].tolist() == ["fact"] * 5 + ["neighbour"] * 5
    assert frame["condition"].tolist() == ["neurons", "random", "random", "random", "other"] * 2
    assert frame["draw"].isna().tolist() == [True, False, False, False, True] * 2
    assert frame["draw"].dropna().tolist() == [0, 1, 2] * 2
    np.testing.assert_allclose(frame["after"], [0.25, 0.5, 0.55, 0.45, 0.6, 0.3, 0.2, 0.2, 0.26, 0.1])
    np.testing.assert_allclose(frame["change"], frame["after"] / frame["before"] - 1)
    without = dataclasses.replace(RESULT, other=None, other_neurons=())
    assert without.other_change is None
    assert "other" not in without.to_frame()["condition"].tolist()
    zero = dataclasses.replace(RESULT, before=np.array([0.0, 0.2]))
    assert np.isnan(zero.change).tolist() == [True, False]
    assert np.isnan(zero.to_frame()["change"]).sum() == 5


def test_the_table_shows_every_control() -> None:
    text = str(RESULT)
    for part in ("2 neurons of tiny times 2 at tokens [0, -1]", "The [b] Needle", "[MASK]", "Seattle", "0.5000"):
        assert part in text
    for part in ("-50.0%", "+0.0% (-9.5% to +9.5%)", "+20.0%", "neighbour", "Note: a remark", "3 random sets"):
        assert part in text
    assert "other" not in str(dataclasses.replace(RESULT, other=None, note=""))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    for number, result in enumerate((RESULT, dataclasses.replace(RESULT, other=None, tokens="all", other_neurons=()))):
        path = result.save(tmp_path / f"{number}.npz")
        loaded = NeuronEffects.load(path)
        for field in dataclasses.fields(NeuronEffects):
            ours, theirs = getattr(result, field.name), getattr(loaded, field.name)
            assert type(ours) is type(theirs)
            assert np.array_equal(ours, theirs) if isinstance(ours, np.ndarray) else ours == theirs
        assert str(loaded) == str(result)
    (tmp_path / "no.npz").write_bytes(b"no")
    with pytest.raises(TracerError, match=r"not a saved (tracer\.)?NeuronEffects"):
        NeuronEffects.load(tmp_path / "no.npz")
    with pytest.raises(ValueError, match="read-only"):
        RESULT.after[0] = 1


@pytest.mark.parametrize("field", ["before", "after", "random", "other"])
def test_arrays_of_another_shape_are_refused(field: str) -> None:
    with pytest.raises(TracerError, match=f"{field} of neuron effects"):
        dataclasses.replace(RESULT, **{field: np.zeros(3)})


# --- over many facts -------------------------------------------------------------------------------------------------


def many(subjects: Sequence[str], seed: int = 0) -> list[NeuronEffects]:
    """Results with other numbers for every fact; every third without the other fact's neurons."""
    generator = np.random.default_rng(seed)
    found = []
    for i, subject in enumerate(subjects):
        numbers = generator.uniform(0.1, 0.9, (4, 2))
        settings: dict[str, Any] = {"before": numbers[0], "after": numbers[1], "other": numbers[2] if i % 3 else None}
        random = generator.uniform(0.1, 0.9, (2, 3 + i % 2))
        found.append(dataclasses.replace(RESULT, subject=subject, random=random, **settings))
    return found


def test_means_over_facts() -> None:
    effects = many("abcdefgh")
    frame = summarise_effects(effects).set_index(["role", "condition"])
    assert frame.index.tolist() == [(r, c) for r in ("fact", "neighbour") for c in ("neurons", "random", "other")]
    for i, role in enumerate(("fact", "neighbour")):
        cases = {
            "neurons": [(e.after[i], e.before[i]) for e in effects],
            "random": [(e.random[i], e.before[i]) for e in effects],
            "other": [(e.other[i], e.before[i]) for e in effects if e.other is not None],
        }
        for condition, pairs in cases.items():
            row: Any = frame.loc[(role, condition)]
            assert row["change"] == pytest.approx(np.mean([np.mean(a / b - 1) for a, b in pairs]))
            assert row["difference"] == pytest.approx(np.mean([np.mean(a - b) for a, b in pairs]))
            assert row["prompts"] == row["subjects"] == len(pairs)
            assert row["change_low"] < row["change"] < row["change_high"]
            assert row["difference_low"] < row["difference"] < row["difference_high"]
    pd.testing.assert_frame_equal(summarise_effects(effects), summarise_effects(effects))
    assert not summarise_effects(effects, seed=1).equals(summarise_effects(effects))
    assert "other" not in summarise_effects(effects[:1])["condition"].tolist()


def test_the_interval_draws_subjects() -> None:
    subjects = list("aabbbcdeffghij")
    effects = many(subjects, seed=2)
    row: Any = summarise_effects(effects, resamples=4000).iloc[0]
    change = np.array([e.change[0] for e in effects])
    generator, means = np.random.default_rng(5), []
    names = sorted(set(subjects))
    for _ in range(4000):
        drawn = generator.choice(names, len(names))
        means.append(np.mean(np.concatenate([change[np.array(subjects) == name] for name in drawn])))
    low, high = np.quantile(means, [0.025, 0.975])
    assert row["change_low"] == pytest.approx(low, abs=0.05 * (high - low))
    assert row["change_high"] == pytest.approx(high, abs=0.05 * (high - low))
    assert (row["prompts"], row["subjects"]) == (14, 10)
    narrow: Any = summarise_effects(effects, confidence=0.5).iloc[0]
    assert narrow["change_high"] - narrow["change_low"] < 0.6 * (high - low)
    twice: Any = summarise_effects(effects * 2, resamples=4000).iloc[0]  # the same subjects again tell nothing new
    assert twice["change_high"] - twice["change_low"] == pytest.approx(high - low, rel=0.1)
    alone: Any = summarise_effects(effects[:2]).iloc[0]
    assert alone["subjects"] == 1 and np.isnan(alone["change_low"])


def test_prompts_that_had_no_probability_are_left_out_of_relative_changes() -> None:
    effects = many("abcde")
    effects.append(dataclasses.replace(effects[0], subject="f", before=np.zeros(2)))
    row: Any = summarise_effects(effects).iloc[0]
    assert row["change"] == pytest.approx(np.mean([e.change[0] for e in effects[:5]]))
    assert row["difference"] == pytest.approx(np.mean([e.after[0] - e.before[0] for e in effects]))


@pytest.mark.parametrize(
    ("effects", "settings", "message"),
    [
        ([], {}, "0 effects"),
        ([RESULT, dataclasses.replace(RESULT, action="suppress")], {}, "2 interventions"),
        ([RESULT, dataclasses.replace(RESULT, fingerprint="other")], {}, "2 interventions"),
        ([RESULT], {"resamples": 0}, "resamples"),
        ([RESULT], {"confidence": 1.0}, "confidence"),
        ([RESULT], {"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_summarised(effects: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        summarise_effects(effects, **settings)
