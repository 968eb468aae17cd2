"""Neurons beside one layer's MLP, a few for each fact (Huang et al. 2023, "Transformer-Patcher", section 4).

What is added to the MLP's contribution is sum_i act(k_i . x + b_i) v_i, with x what enters the MLP, at every token of
every prompt. Behind a norm or a multiplier of the MLP's output it is added where that arrives in the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tracer.engine.acts import Hook, Ids
from tracer.engine.hooks import capture
from tracer.engine.sites import Site
from tracer.errors import MemoryMisfit

from .activations import activation
from .kind import Kind
from .lines import LINES, as_lines
from .neurons import Neurons
from .route import Decision, Route

if TYPE_CHECKING:
    from tracer.engine.frame import Frame
    from tracer.model import Model

    from .memory import Memory


class TPatcher(Kind):
    """Patches: `keys` [n, d_model], `biases` [n], `values` [n, d_model]; `lines` tell the fact each one is of.

    The header names the `layer` and the `activation`.
    """

    widths: ClassVar = {"keys": "d_model", "values": "d_model"}

    def sites(self, memory: Memory) -> Sequence[tuple[str, int]]:
        """What enters the MLP, and what it adds to the residual stream."""
        layer = memory.header["layer"]
        return [("mlp_in", layer), ("mlp", layer)]

    def decide(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Decision | None]:
        """The same for every prompt: neurons act as far as they are active, token by token."""
        return [Decision() if len(memory.tensors["keys"]) else None] * len(prompts)

    def routes(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        """The patches most active at a prompt's end (in a masked model anywhere); the score is k . x + b.

        A patch counts as hit above zero, where its activation function lets something through.
        """
        if not len(memory.tensors["keys"]):
            return [Route(False)] * len(prompts)
        site = Site("mlp_in", memory.header["layer"], -1 if model.causal else None)
        found = []
        for prompt in prompts:
            x = capture(model, list(prompt), [site])[site].flatten(0, -2)
            scores = self._pre(memory, x).float().amax(0)
            best = scores.topk(min(2, len(scores)))
            (entry, *others), (score, *behind) = best.indices.tolist(), best.values.tolist()
            runner_up = {"runner_up": others[0], "runner_up_score": behind[0]} if others else {}
            found.append(Route(score > 0, entry, score, 0.0, **runner_up))
        return found

    def hooks(self, memory: Memory, model: Model, frame: Frame) -> Sequence[Hook]:
        """Adds it at every token of every row."""
        read, write = self.sites(memory)
        act = activation(memory.header["activation"])

        def add(x: Tensor, y: Tensor, _: Frame) -> Tensor:
            return y + act(self._pre(memory, x)).to(y.dtype) @ memory.tensor("values", y)

        return [Hook(write, add, read)]

    def entries(self, memory: Memory) -> list[dict[str, Any]]:
        """One line per patch: the fact, the token it is to bring about, lengths and bytes."""
        keys, values = memory.tensors["keys"], memory.tensors["values"]
        size = (keys.shape[1] + values.shape[1]) * keys.element_size() + memory.tensors["biases"].element_size()
        facts = as_lines(memory.tensors[LINES])
        patches = [(fact, token) for fact in facts for token in fact["tokens"]]
        return [
            {
                "entry": entry,
                **{name: fact[name] for name in ("prompt", "target", "subject")},
                "token": token,
                "threshold": 0.0,
                "bias": float(memory.tensors["biases"][entry]),
                "key norm": float(keys[entry].norm()),
                "value norm": float(values[entry].norm()),
                "bytes": size,
            }
            for entry, (fact, token) in enumerate(patches)
        ]

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The same keys, which decide how far a patch acts, with values of the same lengths in random directions."""
        turned = super().control({"values": rows["values"]}, generator) if "values" in rows else {}
        return {**rows, **turned}

    def neurons(self, memory: Memory) -> Mapping[int, Neurons]:
        """All of it, as neurons beside MLPs."""
        parts = (memory.tensors[name] for name in ("keys", "biases", "values"))
        return {memory.header["layer"]: Neurons(memory.header["activation"], *parts)}

    def check(self, memory: Memory, model: Model) -> None:
        """Check that its tensors fit the model and one another."""
        super().check(memory, model)
        counts = {name: len(memory.tensors.get(name, ())) for name in ("keys", "biases", "values")}
        patches = sum(len(fact.get("tokens", ())) for fact in as_lines(memory.tensors.get(LINES, torch.tensor([]))))
        if len({*counts.values(), patches}) > 1:
            raise MemoryMisfit(
                f"the memory {memory.name!r} has {', '.join(f'{n} {name}' for name, n in counts.items())} and lines of "
                f"{patches} patches; expected as many of each. Take a copy of it as it was made"
            )
        activation(str(memory.header.get("activation")))

    def _pre(self, memory: Memory, x: Tensor) -> Tensor:
        return x @ memory.tensor("keys", x).T + memory.tensor("biases", x)
