"""MELO's clusters while edits are added to them: the published rule, and ours (see `MELOSettings`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.lines import packed, unpacked

if TYPE_CHECKING:
    from editing.memories.memory import Memory

SAME = 1e-6  # of a key's norm: two keys as near are one
GAP = 1e-5  # by which the radii of a split differ from half of the distance, as published
NO_BLOCK = -1


@dataclass(frozen=True)
class ClusterRule:
    """How a new edit and the clusters that are there get along.

    Attributes:
        compare: when two targets are the same one: "ids", when their ids are; "sum", when the sums of these are, as
            published.
        overwrite: whether a point of the same prompt gives way. (Published: False.)
        expand: what becomes of a cluster of the same target within reach: "none", the edit gets one of its own; "mean",
            it joins: the centre is the mean of the points, the radius the distance of the farthest, at least that of a
            new cluster. (Published: "mean".)
        split: what becomes of one of another target: "none", nothing, the nearer centre decides; "half", the radii are
            half of the distance, and points outside are left out. (Published: "half".)
    """

    compare: str
    overwrite: bool
    expand: str
    split: str


@dataclass(frozen=True, eq=False)
class Point:
    """The key of an edit.

    Attributes:
        key: [width].
        block: which block of LoRA acts.
        about: its prompt, subject, target, and the target's ids.
    """

    key: Tensor
    block: int
    about: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Cluster:
    """Points that have a target in common.

    Attributes:
        points: of it, the first one its first edit.
        ids: of the target.
        centre: [width].
        radius: of what it acts on.
    """

    points: tuple[Point, ...]
    ids: tuple[int, ...]
    centre: Tensor
    radius: float


@dataclass(eq=False)
class Clusters:
    """The clusters of a memory.

    Attributes:
        all: of them.
        conflicts: splits.
        forgotten: prompts that splits left out.
        notes: what the reader should know.
    """

    all: list[Cluster]
    conflicts: int = 0
    forgotten: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, memory: Memory | None) -> Clusters:
        """The clusters of a memory of the kind "melo"."""
        if memory is None:
            return cls([])
        tensors, found = memory.tensors, []
        lines, blocks, owners = (unpacked(tensors["about"]), tensors["blocks"].tolist(), tensors["clusters"].tolist())
        points = [Point(*parts) for parts in zip(tensors["points"], blocks, lines, strict=True)]
        for number, (centre, radius) in enumerate(zip(tensors["centres"], tensors["radii"].tolist(), strict=True)):
            own = tuple(point for point, owner in zip(points, owners, strict=True) if owner == number)
            found.append(Cluster(own, tuple(own[0].about["ids"]), centre, radius))
        return cls(found)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a memory with these clusters; blocks are not among them."""
        pairs = [(number, point) for number, cluster in enumerate(self.all) for point in cluster.points]
        pairs.sort(key=lambda pair: pair[1].about["edit"])  # as they were made, so that a change holds the new ones
        return {
            "points": torch.stack([point.key for _, point in pairs]),
            "clusters": torch.tensor([number for number, _ in pairs]),
            "blocks": torch.tensor([point.block for _, point in pairs]),
            "centres": torch.stack([cluster.centre for cluster in self.all]),
            "radii": torch.tensor([cluster.radius for cluster in self.all]),
            "about": packed([point.about for _, point in pairs]),
        }

    @property
    def edits(self) -> int:
        """Number of the next edit."""
        return 1 + max((point.about["edit"] for cluster in self.all for point in cluster.points), default=-1)

    def add(self, points: Sequence[Point], radii: Sequence[float], rule: ClusterRule) -> None:
        """Add the points of one block; as published, each is compared with the clusters that were there before.

        Args:
            points: of the block.
            radii: of new clusters, for each.
            rule: how they and the others get along.
        """
        before = len(self.all)
        distances = [[float((cluster.centre - point.key).norm()) for cluster in self.all] for point in points]
        for point, radius, each in zip(points, radii, distances, strict=True):
            own = Cluster((point,), tuple(point.about["ids"]), point.key, radius)
            place = min(range(before), key=lambda i: each[i]) if before else -1
            if place < 0 or each[place] > self.all[place].radius + radius:
                self.all.append(own)
                continue
            near = self.all[place]
            same = near.ids == own.ids if rule.compare == "ids" else sum(near.ids) == sum(own.ids)
            if same and rule.expand == "mean":
                self.all[place] = _joined(near, point, radius)
            else:
                self.all.append(own)
                if not same and rule.split == "half":
                    self._split(place, each[place])

    def _split(self, place: int, distance: float) -> None:
        near, half = self.all[place], distance / 2
        away = [float((point.key - near.centre).norm()) for point in near.points]
        kept = tuple(point for point, far in zip(near.points, away, strict=True) if far <= half - GAP)
        lost = [point for point, far in zip(near.points, away, strict=True) if far > half - GAP]
        if not kept:  # the centre stays, and no block acts
            kept = (replace(near.points[0], key=near.centre, block=NO_BLOCK),)
        self.all[place] = replace(near, points=kept, radius=half - GAP)
        self.all[-1] = replace(self.all[-1], radius=half + GAP)
        self.conflicts += 1
        self.forgotten += len(lost)
        if lost:
            told = ", ".join(repr(point.about["prompt"]) for point in lost)
            self.notes += (f"no longer answered as edited, since a split leaves them out: {told}",)

    def give_way(self, keys: Sequence[Tensor], about: Sequence[Mapping[str, Any]]) -> None:
        """Take out the points of prompts that are edited again, and clusters that have no other.

        Args:
            keys: of the prompts.
            about: as of `Point`.
        """
        for key, line in zip(keys, about, strict=True):
            size = SAME * float(key.norm())
            for place, cluster in enumerate(self.all):
                old = [
                    point
                    for point in cluster.points
                    if point.about["prompt"] == line["prompt"] or float((point.key - key).norm()) <= size
                ]
                self.notes += tuple(
                    f"{point.about['prompt']!r} had the target {point.about['target'].strip()!r} before"
                    for point in old
                    if list(point.about["ids"]) != list(line["ids"])
                )
                if old:
                    self.all[place] = replace(cluster, points=tuple(one for one in cluster.points if one not in old))
        self.all = [cluster for cluster in self.all if cluster.points]


def _joined(cluster: Cluster, point: Point, radius: float) -> Cluster:
    points = (*cluster.points, point)
    keys = torch.stack([one.key for one in points])
    centre = keys.mean(0)
    return replace(cluster, points=points, centre=centre, radius=max(float((keys - centre).norm(dim=1).max()), radius))
