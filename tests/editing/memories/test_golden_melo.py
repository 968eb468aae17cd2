"""MELO's clusters, batch by batch, against those of the published code."""

from __future__ import annotations

from pathlib import Path

import goldens
import numpy as np
import torch

from editing.memories import Memory
from editing.methods.codebook.clusters import Clusters, Point
from editing.methods.melo import MELOSettings
from editing.methods.published_settings import published
from tracer import Fact, Model
from tracer.engine.prompt_states import prompt_states

NONE = -100


def test_the_clusters_are_the_published_ones(golden: Path, golden_model: Model) -> None:
    theirs = goldens.arrays(golden / "memory" / "melo_clusters.npz")
    rule, place = MELOSettings(**published("melo", "gpt2-xl")).rule, ("pre", int(theirs["layer"]))
    radius = float(theirs["init_radius"])
    clusters = Clusters([])
    for batch in range(1, int(theirs["n_batches"]) + 1):
        prompts, labels = theirs[f"prompts_{batch}"], theirs[f"label_sums_{batch}"].tolist()
        keys = states(golden_model, prompts, place)
        first = clusters.edits
        points = [
            Point(key, batch - 1, {"prompt": str(prompt), "target": "", "ids": [label], "edit": first + at})
            for at, (key, prompt, label) in enumerate(zip(keys, prompts, labels, strict=True))
        ]
        clusters.add(points, [radius] * len(points), rule)
        assert np.allclose(torch.stack([one.centre for one in clusters.all]), theirs[f"centres_{batch}"], atol=1e-5)
        assert np.allclose([one.radius for one in clusters.all], theirs[f"radii_{batch}"], atol=1e-5)
        blocks = [sorted(point.block for point in one.points) for one in clusters.all]
        assert blocks == [sorted(row[row >= 0].tolist()) for row in theirs[f"blocks_{batch}"]]
        assert (clusters.conflicts, clusters.forgotten) == (theirs[f"conflicts_{batch}"], theirs[f"forgotten_{batch}"])
        clusters = again(golden_model, clusters)  # as a memory keeps them
    routes = memory_of(golden_model, clusters, place).routes(
        golden_model, ids_of(golden_model, theirs["query_prompts"])
    )
    blocks = clusters.tensors()["blocks"]
    assert [int(blocks[one.entry]) if one.hit else NONE for one in routes] == theirs["block"].tolist()
    assert np.allclose([one.score for one in routes], theirs["distance"], atol=1e-5)


def ids_of(model: Model, prompts: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(Fact(str(prompt), str(prompt)).align(model).input_ids) for prompt in prompts]


def states(model: Model, prompts: np.ndarray, place: tuple[str, int]) -> torch.Tensor:
    return prompt_states(model, ids_of(model, prompts), [place])[place]


def memory_of(model: Model, clusters: Clusters, place: tuple[str, int]) -> Memory:
    blocks = {"a": torch.zeros(3, 1, 2, model.d_model), "b": torch.zeros(3, 1, 2, model.d_mlp)}
    header = {"read": place[0], "layer": place[1], "layers": [5], "enters": "mlp_in", "leaves": "pre", "scale": 350.0}
    found = Memory("melo", "melo", model.weights_fingerprint(), {**clusters.tensors(), **blocks}, header)
    found.check(model)
    return found


def again(model: Model, clusters: Clusters) -> Clusters:
    found = Clusters.of(memory_of(model, clusters, ("pre", 4)))
    return Clusters(found.all, clusters.conflicts, clusters.forgotten)
