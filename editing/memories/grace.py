"""GRACE's codebook (Hartvigsen et al. 2023): keys with radii, and values that take the place of a site's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.engine.acts import Hook, Ids
from tracer.engine.prompt_states import prompt_states
from tracer.engine.sites import WIDE
from tracer.errors import MemoryMisfit

from .checks import check_about, check_choice, check_parts, check_width, others
from .kind import Kind
from .lines import packed, unpacked
from .placement import KEY_TOKENS, REPLACEMENTS, key_tokens, slots
from .route import Decision, Route

if TYPE_CHECKING:
    from tracer.engine.frame import Frame
    from tracer.model import Model

    from .memory import Memory


@dataclass(frozen=True)
class Hit(Decision):
    """An entry acts on a prompt.

    Attributes:
        back: where the key's token stands, counted from the prompt's last.
    """

    back: int = 0


class Grace(Kind):
    """Looks a state of the prompt up among keys; within the nearest one's radius its values replace another state.

    A memory has the tensors `keys` [n, width], `radii` [n], `counts` [n] (how many values an entry has), `values`
    [sum of counts, width] and `about` (json lines: prompts, subject, target, ids), and in its header `layer`, `read`
    and `write` (kinds of sites), `replacement` and `key_token`, as of [`editing.methods.grace.GRACESettings`][].
    """

    def sites(self, memory: Memory) -> Sequence[tuple[str, int]]:
        """The site of keys, and that which values replace."""
        header = memory.header
        return [(header["read"], header["layer"]), (header["write"], header["layer"])]

    def decide(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Hit | None]:
        """The nearest entry within its radius, and where the key's token stands."""
        tokens = key_tokens(model, prompts, memory.header["key_token"])
        return [
            Hit(route.entry, route.score, token - len(prompt) + 1) if route.hit else None
            for route, token, prompt in zip(memory.routes(model, prompts), tokens, prompts, strict=True)
        ]

    def routes(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        """The nearest entry and the next, by the distance of the bare model's state."""
        if not len(memory.tensors["keys"]) or not prompts:
            return [Route(False)] * len(prompts)
        states = self.queries(memory, model, prompts)
        return [route(state, memory.tensors["keys"], memory.tensors["radii"]) for state in states]

    def keys(self, memory: Memory) -> Tensor:
        """The keys, [n, width]."""
        return memory.tensors["keys"]

    def queries(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Tensor:
        """The states that are looked up, [prompts, width]."""
        read, tokens = self.sites(memory)[0], key_tokens(model, prompts, memory.header["key_token"])
        return prompt_states(model, prompts, [read], tokens)[read].float().cpu()

    def hooks(self, memory: Memory, model: Model, frame: Frame) -> Sequence[Hook]:
        """Values in the place of states, at the tokens that `replacement` says."""
        counts = memory.tensors["counts"].tolist()
        ends = memory.tensors["counts"].cumsum(0).tolist()

        def act(_: Tensor, y: Tensor, frame: Frame) -> Tensor | None:
            of, rows = frame.decided[memory.name], frame.rows(len(y))
            hits = [place for place, row in enumerate(rows) if of[row] is not None]
            found = [of[rows[place]] for place in hits]

            def column(numbers: list[int]) -> Tensor:
                return torch.tensor(numbers, device=y.device).unsqueeze(1)

            index = column(hits).squeeze(1)
            offsets = frame.since(len(y), y.device)[index] - column([hit.back for hit in found])
            slot, put = slots(memory.header["replacement"], offsets, column([counts[hit.entry] for hit in found]))
            put = put & frame.real(len(y), y.device)[index]
            if not bool(put.any()):
                return None
            first = column([ends[hit.entry] - counts[hit.entry] for hit in found])
            values = memory.tensor("values", y)[slot + first]
            return y.index_copy(0, index, torch.where(put.unsqueeze(-1), values, y[index]))

        return [Hook(self.sites(memory)[1], act)]

    def entries(self, memory: Memory) -> list[dict[str, Any]]:
        """Prompt, subject, target, radius and size of each entry."""
        tensors = memory.tensors
        about, counts = unpacked(tensors["about"]), tensors["counts"].tolist()
        width = tensors["keys"].shape[1] * 4 + 4
        return [
            {
                "prompt": line["prompts"][0],
                "subject": line["subject"],
                "target": line["target"],
                "prompts": len(line["prompts"]),
                "radius": float(tensors["radii"][entry]),
                "norm": float(tensors["keys"][entry].norm()),
                "values": counts[entry],
                "bytes": width + 4 * counts[entry] * tensors["values"].shape[1],
            }
            for entry, line in enumerate(about)
        ]

    def without(self, memory: Memory, entry: int) -> Memory:
        """The memory without an entry and its values."""
        keep = others(memory, entry, len(memory.tensors["keys"]))
        tensors = memory.tensors
        values, lines = tensors["values"].split(tensors["counts"].tolist()), unpacked(tensors["about"])
        kept = {name: tensors[name][keep] for name in ("keys", "radii", "counts")}
        kept["values"] = torch.cat([tensors["values"][:0], *(values[place] for place in keep)])
        return replace(memory, tensors={**kept, "about": packed([lines[place] for place in keep])})

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Values in random directions of the same lengths, at the same keys."""
        return {**rows, **super().control({"values": rows["values"]}, generator)}

    def check(self, memory: Memory, model: Model) -> None:
        """That the tensors belong together, and fit the model."""
        check_parts(memory, ("keys", "radii", "counts", "values", "about"), ("layer", "read", "write"))
        check_choice(memory, "replacement", REPLACEMENTS)
        check_choice(memory, "key_token", KEY_TOKENS)
        super().check(memory, model)
        for name, (kind, _) in zip(("keys", "values"), self.sites(memory), strict=True):
            check_width(memory, name, model, "d_mlp" if kind in WIDE else "d_model")
        counts = memory.tensors["counts"]
        lengths = {name: len(memory.tensors[name]) for name in ("keys", "radii", "counts")}
        claimed, values = int(counts.sum()), len(memory.tensors["values"])
        if len(set(lengths.values())) > 1 or bool((counts < 1).any()) or claimed != values:
            told = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise MemoryMisfit(
                f"the memory {memory.name!r} has {told}, which claim {claimed} values of {values}; expected as many of "
                "each, and every value claimed once. Make it again"
            )
        check_about(memory, len(counts))


def route(state: Tensor, keys: Tensor, radii: Tensor) -> Route:
    """The nearest key to a state, by exact differences (a matrix product would leave 1e-3 of nothing).

    Args:
        state: [width].
        keys: [n, width].
        radii: [n].
    """
    distances = (keys - state).norm(dim=1)
    entry = int(distances.argmin())  # the earlier one of two that are as near
    score, radius = float(distances[entry]), float(radii[entry])
    if len(keys) == 1:
        return Route(score <= radius, entry, score, radius)
    others = distances.clone()
    others[entry] = torch.inf
    second = int(others.argmin())
    return Route(score <= radius, entry, score, radius, second, float(others[second]))
