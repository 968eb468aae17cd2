"""Kinds of memories for tests, one for each thing that a kind can do, and a method that writes the first of them.

``Toy`` adds a vector where a prompt is one it knows, ``Near`` where the model's own state is near a key, ``Patch``
reads at one site and adds at another for every token of every prompt, ``Preface`` puts ids in front of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from editing.memories import Decision, Kind, Memory, MemoryChange, Route
from editing.methods.context import EditContext
from editing.methods.method import Change, Group, Method
from tracer.engine import Frame, Hook, Site, capture
from tracer.engine.acts import Asked, Ids
from tracer.model import Model

TOYS = {name: f"toys.{name.capitalize()}" for name in ("toy", "near", "patch", "preface")}


class Toy(Kind):
    """Adds an entry's vector at a site, from the prompt's last token on."""

    widths: ClassVar = {"vectors": "d_model"}
    per_entry: ClassVar = ("vectors", "keys", "prompts")

    def entries(self, memory: Memory) -> list[dict[str, Any]]:
        radius = {"radius": memory.header["radius"]} if "radius" in memory.header else {}
        return [{"ids": prompt, **radius} for prompt in memory.header["prompts"]]

    def sites(self, memory: Memory) -> Sequence[tuple[str, int]]:
        return [(memory.header["site"], memory.header["layer"])]

    def routes(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        known = {tuple(prompt): Route(True, entry) for entry, prompt in enumerate(memory.header["prompts"])}
        return [known.get(prompt, Route(False)) for prompt in prompts]

    def hooks(self, memory: Memory, model: Model, frame: Frame) -> Sequence[Hook]:
        def act(_: Tensor, y: Tensor, frame: Frame) -> Tensor:
            rows, decided = frame.rows(len(y)), frame.decided[memory.name]
            hit = [place for place, row in enumerate(rows) if decided[row] is not None]
            index = torch.tensor(hit, device=y.device)
            vectors = memory.tensor("vectors", y)[[decided[rows[place]].entry for place in hit]].unsqueeze(1)
            after = ((frame.since(len(y), y.device) >= 0) & frame.real(len(y), y.device))[index].unsqueeze(-1)
            return y.index_copy(0, index, torch.where(after, y[index] + vectors, y[index]))

        return [Hook(self.sites(memory)[0], act)]


class Near(Toy):
    """The same where the bare model's state at the prompt's end is within a radius of a key."""

    widths: ClassVar = {"vectors": "d_model", "keys": "d_model"}

    def keys(self, memory: Memory) -> Tensor:
        return memory.tensors["keys"]

    def queries(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Tensor:
        site = Site("hidden", model.n_layers - 1, -1)
        return torch.cat([capture(model, list(prompt), [site])[site].float().reshape(1, -1) for prompt in prompts])

    def routes(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        found = []
        for query in self.queries(memory, model, prompts):
            distances = (memory.tensors["keys"] - query).norm(dim=1)
            order, radius = distances.argsort().tolist(), memory.header["radius"]
            near, other = order[0], order[1] if len(order) > 1 else -1
            scores = [float(distances[place]) if place >= 0 else float("nan") for place in (near, other)]
            found.append(Route(scores[0] <= radius, near, scores[0], radius, other, scores[1]))
        return found


class Patch(Kind):
    """A neuron beside an MLP: adds its value as far as what enters the MLP points along its key."""

    widths: ClassVar = {"keys": "d_model", "values": "d_model"}

    def sites(self, memory: Memory) -> Sequence[tuple[str, int]]:
        return [("mlp_in", memory.header["layer"]), ("mlp", memory.header["layer"])]

    def hooks(self, memory: Memory, model: Model, frame: Frame) -> Sequence[Hook]:
        def act(x: Tensor, y: Tensor, _: Frame) -> Tensor:
            return y + torch.relu(x @ memory.tensor("keys", x).T) @ memory.tensor("values", y)

        read, write = self.sites(memory)
        return [Hook(write, act, read)]


class Preface(Kind):
    """Puts ids in front of the prompts it knows; another model may answer."""

    rewrites = True
    answering: Model | None = None

    def decide(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Decision | None]:
        known = [tuple(prompt) for prompt in memory.header["prompts"]]
        return [Decision(known.index(prompt)) if prompt in known else None for prompt in prompts]

    def ask(self, memory: Memory, model: Model, prompt: Ids, decision: Any) -> Ids | Asked:
        ids = (*memory.header["front"], *prompt)
        return ids if self.answering is None else Asked(ids, self.answering)


def toy(model: Model, prompts: Sequence[Ids], vectors: Tensor, *, site: str = "hidden", layer: int = 1) -> Memory:
    """A ``Toy`` memory of this model, with an entry for each prompt."""
    header = {"site": site, "layer": layer, "prompts": [list(prompt) for prompt in prompts]}
    return Memory("toy", "toy", model.weights_fingerprint(), {"vectors": vectors}, header)


def vectors(model: Model, count: int = 1, seed: int = 0, size: float = 3.0) -> Tensor:
    """Normal vectors [count, d_model]."""
    return size * torch.randn(count, model.d_model, generator=torch.Generator().manual_seed(seed))


# --- a method --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ToySettings:
    """Length and layer of the vectors, and the seed of their directions."""

    size: float = 3.0
    layers: tuple[int, ...] = (1,)
    seed: int = 0


def plan(model: Model, groups: Sequence[Group], settings: ToySettings, context: EditContext) -> list[Change]:
    """A vector for each request's prompt; the same prompt's is overwritten."""
    before = next((memory for memory in model.memories if memory.name == "toy"), None)
    changes = []
    for group in groups:
        prompts = [tuple(prompt) for prompt in before.header["prompts"]] if isinstance(before, Memory) else []
        rows = list(before.tensors["vectors"]) if isinstance(before, Memory) else []
        for place, request in enumerate(group):
            ids = tuple(request.fact.align(model).input_ids)
            new = vectors(model, seed=settings.seed + place + len(request.target_new), size=settings.size)[0]
            if ids in prompts:
                rows[prompts.index(ids)] = new
            else:
                prompts, rows = [*prompts, ids], [*rows, new]
        after = toy(model, prompts, torch.stack(rows), layer=settings.layers[0])
        change = MemoryChange.between(before, after)  # type: ignore[arg-type]
        changes.append(Change({}, {"size": settings.size, "layers": list(settings.layers)}, memories=(change,)))
    return changes


METHOD = Method("toy", ToySettings, plan, layers="one", seeded=True, summary="a vector for each prompt")
