"""MELO's vector database (Yu et al. 2024): clusters of keys, and blocks of LoRA that act where a prompt is in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.engine.acts import Hook, Ids
from tracer.engine.prompt_states import prompt_states
from tracer.engine.sites import WIDE
from tracer.errors import MemoryMisfit

from .checks import check_about, check_parts, check_width, others
from .kind import Kind
from .lines import packed, unpacked
from .route import Route

if TYPE_CHECKING:
    from tracer.engine.frame import Frame
    from tracer.model import Model

    from .memory import Memory

TENSORS = ("points", "clusters", "blocks", "centres", "radii", "a", "b", "about")
HEADER = ("layer", "read", "layers", "enters", "leaves", "scale")


class Melo(Kind):
    """Looks a state of the prompt up among clusters; within the nearest one's radius a block of LoRA acts.

    It is that of the cluster's point nearest to the prompt, and acts at every token. Entries are points. A memory has
    the tensors `points` [n, width], `clusters` [n] and `blocks` [n] (which cluster and which block each is of; -1: none
    acts), `centres` [clusters, width], `radii` [clusters], `a` [blocks, layers, rank, width at the entrance], `b`
    [blocks, layers, rank, width at the exit] and `about` (json lines: prompt, subject, target, ids), and in its header
    `layer` and `read` (the site of keys), `layers`, `enters` and `leaves` (the sites between which LoRA acts) and
    `scale`.
    """

    def sites(self, memory: Memory) -> Sequence[tuple[str, int]]:
        """The site of keys, then those that LoRA reads and writes, layer by layer."""
        header = memory.header
        pairs = [(header[name], layer) for layer in header["layers"] for name in ("enters", "leaves")]
        return [(header["read"], header["layer"]), *pairs]

    def routes(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        """The nearest point of the nearest cluster, with that cluster's distance and radius, and those of the next."""
        if not len(memory.tensors["points"]) or not prompts:
            return [Route(False)] * len(prompts)
        return [nearest(state, memory.tensors) for state in self.queries(memory, model, prompts)]

    def keys(self, memory: Memory) -> Tensor:
        """The centre of each point's cluster, [n, width]."""
        return memory.tensors["centres"][memory.tensors["clusters"]]

    def queries(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Tensor:
        """The states that are looked up, [prompts, width]."""
        read = self.sites(memory)[0]
        return prompt_states(model, prompts, [read])[read].float().cpu()

    def hooks(self, memory: Memory, model: Model, frame: Frame) -> Sequence[Hook]:
        """Y + scale (x A^T) B of each row's block, at every token."""
        blocks, scale = memory.tensors["blocks"].tolist(), memory.header["scale"]

        def act(place: int, x: Tensor, y: Tensor, frame: Frame) -> Tensor:
            of, rows = frame.decided[memory.name], frame.rows(len(y))
            hits = [at for at, row in enumerate(rows) if of[row] is not None]
            index = torch.tensor(hits, device=y.device)
            own = torch.tensor([blocks[of[rows[at]].entry] for at in hits], device=y.device)
            a, b = memory.tensor("a", x)[own, place], memory.tensor("b", y)[own, place]
            return y.index_copy(0, index, y[index] + adapted(x[index.to(x.device)], a, b, scale))

        def hook(place: int) -> Hook:
            enters, leaves = self.sites(memory)[1 + 2 * place : 3 + 2 * place]
            return Hook(leaves, lambda x, y, frame: act(place, x, y, frame), enters)

        return [hook(place) for place in range(len(memory.header["layers"]))]

    def entries(self, memory: Memory) -> list[dict[str, Any]]:
        """Prompt, subject, target, cluster, block and radius of each point."""
        tensors = memory.tensors
        clusters, blocks = tensors["clusters"].tolist(), tensors["blocks"].tolist()
        shares = [max(1, blocks.count(block)) for block in blocks]
        size = (tensors["a"][:1].nbytes + tensors["b"][:1].nbytes) if len(tensors["a"]) else 0
        return [
            {
                "prompt": line["prompt"],
                "subject": line["subject"],
                "target": line["target"],
                "cluster": clusters[entry],
                "block": blocks[entry],
                "radius": float(tensors["radii"][clusters[entry]]),
                "norm": float(tensors["points"][entry].norm()),
                "bytes": 4 * tensors["points"].shape[1] + size // shares[entry],
            }
            for entry, line in enumerate(unpacked(tensors["about"]))
        ]

    def without(self, memory: Memory, entry: int) -> Memory:
        """The memory without a point, and without its cluster if that has no other; centres and blocks stay."""
        keep = others(memory, entry, len(memory.tensors["points"]))
        tensors, lines = memory.tensors, unpacked(memory.tensors["about"])
        kept = {name: tensors[name][keep] for name in ("points", "clusters", "blocks")}
        left, kept["clusters"] = kept["clusters"].unique(return_inverse=True)
        kept |= {name: tensors[name][left] for name in ("centres", "radii")}
        return replace(memory, tensors={**tensors, **kept, "about": packed([lines[place] for place in keep])})

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Blocks in random directions of the same lengths, at the same keys."""
        return {**rows, **super().control({name: rows[name] for name in ("a", "b")}, generator)}

    def check(self, memory: Memory, model: Model) -> None:
        """That the tensors belong together, and fit the model."""
        check_parts(memory, TENSORS, HEADER)
        super().check(memory, model)
        tensors, header = memory.tensors, memory.header
        for name, kind in (("points", "read"), ("centres", "read"), ("a", "enters"), ("b", "leaves")):
            dims = 2 if kind == "read" else 4
            check_width(memory, name, model, "d_mlp" if header[kind] in WIDE else "d_model", dims)
        points, clusters, blocks = len(tensors["points"]), len(tensors["centres"]), len(tensors["a"])
        fits = len(tensors["clusters"]) == len(tensors["blocks"]) == points and len(tensors["radii"]) == clusters
        fits = (
            fits and tensors["a"].shape[:3] == tensors["b"].shape[:3] and tensors["a"].shape[1] == len(header["layers"])
        )
        inside = bool(((tensors["clusters"] >= 0) & (tensors["clusters"] < clusters)).all())
        inside = inside and bool(((tensors["blocks"] >= -1) & (tensors["blocks"] < blocks)).all())
        if not fits or not inside:
            raise MemoryMisfit(
                f"the memory {memory.name!r} has {points} points of {clusters} clusters and {blocks} blocks, which do "
                "not belong together: a number is out of range, or a tensor has another length. Make it again"
            )
        check_about(memory, points)


def nearest(state: Tensor, tensors: Mapping[str, Tensor]) -> Route:
    """How a state comes to its cluster, and to the point of it whose block acts.

    Args:
        state: [width].
        tensors: of the memory.
    """
    distances = (tensors["centres"] - state).norm(dim=1)
    order = distances.argsort(stable=True)[:2].tolist()
    away = (tensors["points"] - state).norm(dim=1)

    def point(cluster: int) -> int:
        return int(torch.where(tensors["clusters"] == cluster, away, torch.inf).argmin())

    first, score, radius = order[0], float(distances[order[0]]), float(tensors["radii"][order[0]])
    entry = point(first)
    hit = score <= radius and int(tensors["blocks"][entry]) >= 0
    if len(order) == 1:
        return Route(hit, entry, score, radius)
    return Route(hit, entry, score, radius, point(order[1]), float(distances[order[1]]))


def adapted(x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Scale (x A^T) B, [rows, tokens, width].

    Args:
        x: [rows, tokens, width at the entrance].
        a: A of each row, [rows, rank, width at the entrance], or one for all [rank, width].
        b: B likewise.
        scale: factor.
    """
    return scale * ((x @ a.mT).to(b) @ b)
