"""WISE: a side copy of one projection, which a prompt is routed to or not (Wang et al. 2024).

What the copy adds to the projection W is kept, W' - W. By the rule "keys" it is of low rank and an entry for each edit:
x gives R^T L x, with L dual to the keys that were written, so that each of them is answered by its own row of R. By the
published rule it is whole, an entry for each shard of edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tracer.engine.acts import Hook, Ids
from tracer.engine.batch import Row, states_at_lookups
from tracer.engine.hooks import Site, capture
from tracer.errors import MemoryMisfit

from .kind import Kind
from .lines import packed, unpacked
from .route import Route

if TYPE_CHECKING:
    from tracer.engine.frame import Frame
    from tracer.model import Model

    from .memory import Memory

KEYS, PUBLISHED = "keys", "published"
SITES = {"down": ("key", "value"), "up": ("mlp_in", "pre")}
"""What a projection reads and writes, by its name."""


class Wise(Kind):
    """Adds what a side copy of a projection adds, for prompts that are routed there.

    Tensors by the rule "keys": "routes" [n, d_in], "left" [rows, d_in], "right" [rows, d_out] and "owners" [rows], the
    entry of each row. By the published rule: "delta" [shards, d_in, d_out] and "distances" [shards], the least distance
    in scope that was seen while editing. The header: `rule`, `layer`, `site` ("down" or "up"), `threshold`.
    """

    widths: ClassVar[Mapping[str, str]] = {}

    def sites(self, memory: Memory) -> Sequence[tuple[str, int]]:
        """The sites that the projection reads and writes."""
        return [(kind, memory.header["layer"]) for kind in SITES[memory.header["site"]]]

    def routes(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        """The entry whose copy changes a prompt most, once per prompt.

        The score is, by the rule "keys", the answer of an edit's own key to what the projection reads at the prompt's
        last token, 1 at its own prompt; as published, the mean over the prompt's tokens of the distance between what
        the projection gives and what the copy gives, both behind the activation.
        """
        published = memory.header["rule"] == PUBLISHED
        count = len(memory.tensors["delta" if published else "routes"])
        if not count:
            return [Route(False)] * len(prompts)
        found = []
        for prompt in prompts:
            if published:
                scores = distances(model, memory, prompt)
                limits = memory.tensors["distances"].double() * float(memory.header["threshold"])
            else:
                state = self._state(memory, model, [prompt])
                scores = (memory.tensors["routes"].float() * state).sum(1).double()
                limits = torch.full((count,), float(memory.header["threshold"]), dtype=torch.float64)
            order = (scores - limits).argsort(descending=True, stable=True)[:2].tolist()
            best = order[0]
            next_one = (order[1], float(scores[order[1]])) if count > 1 else (-1, float("nan"))
            hit = bool(scores[best] >= limits[best])
            found.append(Route(hit, best, float(scores[best]), float(limits[best]), *next_one))
        return found

    def keys(self, memory: Memory) -> Tensor | None:
        """By the rule "keys" what is compared with the projection's input; as published there are none."""
        return memory.tensors.get("routes")

    def queries(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Tensor | None:
        """What the projection reads at each prompt's last token, by the rule "keys"."""
        return None if memory.header["rule"] == PUBLISHED else self._state(memory, model, prompts)

    def _state(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Tensor:
        site = self.sites(memory)[0]
        rows = [Row(prompt, len(prompt) - 1, (len(prompt) - 1,)) for prompt in prompts]
        return states_at_lookups(model, rows, [site], max_rows=1)[site].float().cpu()

    def without(self, memory: Memory, entry: int) -> Memory:
        """A memory without one of its edits; the copies that were published hold many, and none can be taken out."""
        lines = unpacked(memory.tensors["entries"])
        if memory.header["rule"] == PUBLISHED or not 0 <= entry < len(lines):
            return super().without(memory, entry)
        tensors = memory.tensors
        owners, keep = tensors["owners"], [place for place in range(len(lines)) if place != entry]
        rows = owners != entry
        found = {name: tensors[name][rows] for name in ("left", "right")}
        found |= {"routes": tensors["routes"][keep], "owners": (owners - (owners > entry).long())[rows]}
        found["entries"] = packed([lines[place] for place in keep])
        return replace(memory, tensors=found)

    def hooks(self, memory: Memory, model: Model, frame: Frame) -> Sequence[Hook]:
        """Adds the copy's share: by the rule "keys" from each prompt's last token on, as published at every token."""
        published = memory.header["rule"] == PUBLISHED

        def act(x: Tensor, y: Tensor, frame: Frame) -> Tensor:
            decided, rows = frame.decided[memory.name], frame.rows(len(y))
            hit = [(place, decided[row].entry) for place, row in enumerate(rows) if decided[row] is not None]
            places = torch.tensor([place for place, _ in hit], device=y.device)
            added = torch.stack([_added(memory, x[place], entry) for place, entry in hit])
            at = frame.real(len(y), y.device)
            if not published:
                at = at & (frame.since(len(y), y.device) >= 0)
            some = torch.where(at[places].unsqueeze(-1), y[places] + added.to(y.dtype), y[places])
            return y.index_copy(0, places, some)

        read, write = self.sites(memory)
        return [Hook(write, act, read)]

    def entries(self, memory: Memory) -> list[dict[str, Any]]:
        """Prompt, target and subject of each edit (as published: of each shard all of them), threshold and bytes."""
        lines, tensors = unpacked(memory.tensors["entries"]), memory.tensors
        if memory.header["rule"] == PUBLISHED:
            size = tensors["delta"][0].nbytes if len(tensors["delta"]) else 0
            limits = (tensors["distances"] * memory.header["threshold"]).tolist()
            return [{**line, "threshold": limit, "bytes": size} for line, limit in zip(lines, limits, strict=True)]
        row = 4 * (tensors["left"].shape[1] + tensors["right"].shape[1])
        counts = torch.bincount(tensors["owners"], minlength=len(lines)).tolist()
        own = 4 * tensors["routes"].shape[1]
        more = [{"threshold": memory.header["threshold"], "bytes": own + count * row} for count in counts]
        return [{**line, **each} for line, each in zip(lines, more, strict=True)]

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The same entries with what they add in random directions of the same lengths; what decides stays."""
        acting = {name: rows[name] for name in ("right", "delta") if name in rows}
        return {**rows, **super().control(acting, generator)}

    def check(self, memory: Memory, model: Model) -> None:
        """As of any kind; also that its matrices are as wide as the projection, and each row has an entry.

        Raises:
            TracerError: they are not.
        """
        repair = f"make it on this model ({model.name}) again, or load the model it is of"
        header, tensors = memory.header, memory.tensors
        needed = ("delta", "distances") if header.get("rule") == PUBLISHED else ("routes", "left", "right", "owners")
        lacking = [name for name in (*needed, "entries") if name not in tensors]
        if lacking or header.get("site") not in SITES:
            raise MemoryMisfit(f"the memory {memory.name!r} lacks {lacking or 'its site'}; {repair}")
        super().check(memory, model)
        width_in, width_out = widths(model, header["site"])
        if header["rule"] == PUBLISHED:
            shapes = {"delta": (len(tensors["distances"]), width_in, width_out)}
        else:
            count = len(tensors["owners"])
            shapes = {"left": (count, width_in), "right": (count, width_out)}
            shapes["routes"] = (len(tensors["routes"]), width_in)
        for name, expected in shapes.items():
            if tuple(tensors[name].shape) != expected:
                raise MemoryMisfit(
                    f"the tensor {name!r} of the memory {memory.name!r} is {list(tensors[name].shape)}; expected "
                    f"{list(expected)} for {model.name}; {repair}"
                )
        count = len(tensors["delta" if header["rule"] == PUBLISHED else "routes"])
        beyond = [int(entry) for entry in tensors.get("owners", torch.zeros(0)).tolist() if not 0 <= entry < count]
        if beyond or len(unpacked(tensors["entries"])) != count:
            raise MemoryMisfit(
                f"the memory {memory.name!r} has {count} entries, and its rows and lines are of others "
                f"({beyond[:1] or len(unpacked(tensors['entries']))}): an index would be out of range; {repair}"
            )


def widths(model: Model, site: str) -> tuple[int, int]:
    """Widths of what a projection reads and writes."""
    return (model.d_mlp, model.d_model) if site == "down" else (model.d_model, model.d_mlp)


def activation(model: Model) -> Any:
    """The activation function of a model's MLPs, by its configuration."""
    from transformers.activations import ACT2FN

    config: Any = model.hf.config.get_text_config()
    names = ("activation_function", "hidden_act", "hidden_activation", "afn")
    return ACT2FN[next(getattr(config, name) for name in names if getattr(config, name, None))]


def apart(act: Any, output: Tensor, changed: Tensor) -> Tensor:
    """Distances between what two projections give behind the activation, [..., tokens]."""
    return (act(output) - act(changed)).norm(dim=-1)


def distances(model: Model, memory: Memory, prompt: Ids) -> Tensor:
    """The distance of each shard's copy on a prompt, [shards] float64: the mean over its tokens."""
    read, write = (Site(kind, layer) for kind, layer in memory.acts.sites(memory))
    with torch.no_grad():
        states = capture(model, list(prompt), [read, write])
        x, y, act = states[read][0], states[write][0], activation(model)
        deltas = memory.tensor("delta", x)
        return torch.stack([apart(act, y, y + x @ delta).mean() for delta in deltas]).double().cpu()


def _added(memory: Memory, x: Tensor, entry: int) -> Tensor:
    """What an entry adds to the projection of x [tokens, d_in], [tokens, d_out]."""
    if memory.header["rule"] == PUBLISHED:
        return x @ memory.tensor("delta", x)[entry]
    own = memory.tensors["owners"] == entry
    left, right = (memory.tensor(name, x)[own.to(x.device)] for name in ("left", "right"))
    return (x @ left.T) @ right
