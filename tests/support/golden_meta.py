"""What the published meta-learned editors gave on the golden model: their parameters, and rows of their batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from goldens import Arrays
from torch import Tensor

from editing.methods.meta.malmen import Malmen
from editing.methods.meta.mend import Mend
from editing.methods.meta.nets import Nets
from editing.methods.meta.places import Place, places_of
from editing.methods.meta.statistics import Statistics
from tracer.engine.batch import Row
from tracer.model import Model

SHORT = {"c_fc": "up", "c_proj": "down"}


def keys(given: Arrays) -> list[str]:
    """Keys of the places that a file's weights are."""
    parts = [str(name).split(".") for name in given["weights"]]
    return [f"{part[2]}.{SHORT[part[4]]}" for part in parts]


def by_place(given: Arrays, places: Sequence[Place], name: str) -> Tensor:
    """Numbers of every matrix, which the file has by shape and mode."""
    seen: dict[str, int] = {}
    found = []
    for place in places:
        mode = seen.setdefault(place.shape, 0)
        found.append(float(given[f"{place.shape}/{name}"][mode]))
        seen[place.shape] += 1
    return torch.tensor(found)


def mend(model: Model, given: Arrays) -> Mend:
    """The golden MEND editor."""
    places = places_of(model, keys(given))
    parameters = {"rate": torch.tensor(given["lr"])}
    statistics = {}
    for shape in dict.fromkeys(place.shape for place in places):
        for layer in range(int(given["n_hidden"]) + 1):
            own = {part: torch.tensor(given[f"{shape}/{part}.{layer}"]) for part in ("bias", "scale", "shift")}
            own |= {"A": torch.tensor(given[f"{shape}/v.{layer}"].T), "B": torch.tensor(given[f"{shape}/u.{layer}"].T)}
            parameters |= {f"{shape}/{part}.{layer}": tensor.contiguous() for part, tensor in own.items()}
        statistics[shape] = statistics_of(given, f"{shape}/")
    return Mend(Nets(places, parameters, statistics, int(given["n_hidden"]) + 1, "mend", 1e-7, 0.0))


def statistics_of(given: Arrays, prefix: str) -> Statistics:
    """Statistics of a MEND file, which has them apart for x and delta."""
    mean, squares = (
        torch.cat([torch.tensor(given[f"{prefix}{side}_{name}"]).double() for side in "uv"]) for name in ("mean", "s")
    )
    return Statistics(float(given[f"{prefix}k"][0]), mean, squares)


def malmen(model: Model, given: Arrays, block: int, moving: bool = False) -> Malmen:
    """The golden MALMEN editor."""
    places = places_of(model, keys(given))
    parameters = {"rate": by_place(given, places, "lr"), "log_ridge": by_place(given, places, "lamda")}
    statistics = {}
    for shape in dict.fromkeys(place.shape for place in places):
        for layer in range(int(given["n_blocks"])):
            for part in ("A", "B", "bias", "scale", "shift"):
                parameters[f"{shape}/{part}.{layer}"] = torch.tensor(given[f"{shape}/{part}.{layer}"])
        mean, squares = (torch.tensor(given[f"{shape}/{name}"]).double() for name in ("mean", "var"))
        statistics[shape] = Statistics(float(given[f"{shape}/n"][0]), mean, squares)
    epsilon = torch.finfo(torch.float32).eps
    return Malmen(Nets(places, parameters, statistics, int(given["n_blocks"]), "malmen", epsilon, 0.0), block, moving)


def row(ids: Any, mask: Any, labels: Any, shifted: bool) -> Row:
    """A line of a batch; its labels stand where they are predicted (`shifted`), or at the target's own positions."""
    real = [int(i) for i, here in zip(ids, mask, strict=True) if here]
    read = [place - (not shifted) for place, label in enumerate(labels) if label != -100]
    target = tuple(int(label) for label in labels if label != -100)
    return Row(tuple(real[: read[-1] + 1]), read[0], tuple(read), target)


def rows(given: Mapping[str, Any], prefix: str = "", shifted: bool = False) -> list[Row]:
    """The lines of a batch."""
    parts = (given[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "labels"))
    return [row(ids, mask, labels, shifted) for ids, mask, labels in zip(*parts, strict=True)]


def every_token(ids: Sequence[int]) -> Row:
    """A row whose distribution is to stay at every token."""
    return Row(tuple(int(i) for i in ids), 0, tuple(range(len(ids))))


def asking(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that ask for gradients."""
    return {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
