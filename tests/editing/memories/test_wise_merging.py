"""Shards of WISE's published rule that become one, by TIES (Yadav et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from serac_wise import REQUEST, settings

import editing
from editing.memories import Memory
from editing.methods.wise.published import merged
from tracer import Model, TracerError

Tiny = Callable[[str], Model]
OTHERS = [
    editing.EditRequest("{} plays the", "Miles Davis", " drums"),
    editing.EditRequest("{} is", "Yo-Yo Ma", " old"),
]


def by_hand(deltas: list[np.ndarray], density: float) -> np.ndarray:
    """Entry by entry: the mean of those that are large in their copy and have the sign of such a one's sum."""
    kept = []
    for delta in deltas:
        least = np.sort(np.abs(delta).ravel())[::-1][int(density * delta.size) - 1]
        kept.append(np.where(np.abs(delta) >= least, delta, 0))
    found = np.zeros_like(deltas[0])
    for place in np.ndindex(found.shape):
        values = [one[place] for one in kept]
        sign = 1 if sum(values) >= 0 else -1
        agreeing = [value for value in values if np.sign(value) == sign]
        found[place] = np.mean(agreeing) if agreeing else 0
    return found


@pytest.mark.parametrize("density", [0.1, 0.53, 0.99])
def test_ties_is_that_of_peft(density: float) -> None:
    theirs = pytest.importorskip("peft.utils.merge_utils", reason="needs peft")
    deltas = [torch.randn(7, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    deltas[1][0] = 0  # ties at zero too
    assert torch.equal(merged(deltas, density), theirs.ties(deltas, torch.ones(4), density))
    assert torch.equal(merged(deltas[:1], 1.0), deltas[0])


def memories(model: Model, **more: object) -> list[Memory]:
    """After each of three edits; the model is as before."""
    name, given = settings(model, "wise published")
    editor, found = editing.Editor(model), []
    for request in (REQUEST, *OTHERS):
        editor.edit(request, name, **{**given, "save_freq": 1, **more})
        found += [memory for memory in model.memories if isinstance(memory, Memory)]
    digests = [memory.digest for memory in found]
    for k in (2, 1):
        editor.undo()
        assert [memory.digest for memory in model.memories] == digests[k - 1 : k]
    editor.undo()
    assert not model.memories
    return found


def test_shards_are_merged_after_as_many_edits(tiny: Tiny) -> None:
    model = tiny("llama")
    apart = memories(model)
    together = memories(model, merge_freq=2, merge_density=0.15)
    assert [len(memory.tensors["delta"]) for memory in apart] == [1, 2, 3]
    assert [len(memory.tensors["delta"]) for memory in together] == [1, 1, 2]
    deltas = [each.numpy() for each in apart[1].tensors["delta"]]
    expected = by_hand(deltas, 0.15)
    assert 0 < np.count_nonzero(expected) < expected.size // 3
    assert np.allclose(together[1].tensors["delta"][0], expected, atol=1e-7)
    assert float(together[1].tensors["distances"][0]) == float(apart[1].tensors["distances"].min())
    assert torch.equal(together[2].tensors["delta"][0], together[1].tensors["delta"][0])
    assert torch.allclose(together[2].tensors["delta"][1], apart[2].tensors["delta"][2])  # the third begins anew
    assert [line["edits"] for line in together[2].acts.entries(together[2])] == [2, 1]


@pytest.mark.parametrize(
    ("given", "told"), [({"merge_freq": 3}, "a multiple of save_freq"), ({"merge_density": 2.0}, "at most 1")]
)
def test_what_cannot_be_merged_is_refused(tiny: Tiny, given: dict[str, float], told: str) -> None:
    model = tiny("llama")
    name, quick = settings(model, "wise published")
    with pytest.raises(TracerError, match=told):
        editing.compute_edit(model, REQUEST, name, **{**quick, "save_freq": 2, **given})
