"""A small MLP beside those of some layers, for many facts together (Dong et al. 2022, "CaliNET", section 4.1).

What is added to the MLP's contribution is W_out act(W_in x), or W_out (act(W_in x) * W_up x) where it is gated, with x
what enters the MLP, at every token of every prompt. Its slots come in blocks, one for each edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


class CaliNET(Kind):
    """Slots, for each layer l: `in.l` [n, d_model], `out.l` [n, d_model] and, if gated, `up.l` [n, d_model].

    The header names the `layers`, the `activation`, and whether it is `gated`; `lines` tell each block's slots and
    facts.
    """

    def sites(self, memory: Memory) -> Sequence[tuple[str, int]]:
        """What enters the MLP, and what it adds to the residual stream."""
        return [(kind, layer) for layer in memory.header["layers"] for kind in ("mlp_in", "mlp")]

    def decide(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Decision | None]:
        """The same for every prompt: slots act as far as they are active, token by token."""
        return [Decision() if any(map(len, outputs(memory))) else None] * len(prompts)

    def routes(self, memory: Memory, model: Model, prompts: Sequence[Ids]) -> Sequence[Route]:
        """The block that adds most at a prompt's end (in a masked model anywhere); the score is the length of that.

        A block counts as hit above zero.
        """
        counts = [line["slots"] for line in as_lines(memory.tensors[LINES])]
        if not counts:
            return [Route(False)] * len(prompts)
        sites = [Site("mlp_in", layer, -1 if model.causal else None) for layer in memory.header["layers"]]
        found = []
        for prompt in prompts:
            states = capture(model, list(prompt), sites)
            sizes = torch.zeros(len(counts))
            for site in sites:
                x = states[site].flatten(0, -2)
                active = self._active(memory, x, site.layer).split(counts, -1)
                parts = zip(active, memory.tensor(f"out.{site.layer}", x).split(counts), strict=True)
                sizes += torch.stack([(one @ two).norm(dim=-1).amax() for one, two in parts]).square().float().cpu()
            best = sizes.sqrt().topk(min(2, len(sizes)))
            (entry, *others), (score, *behind) = best.indices.tolist(), best.values.tolist()
            runner_up = {"runner_up": others[0], "runner_up_score": behind[0]} if others else {}
            found.append(Route(score > 0, entry, score, 0.0, **runner_up))
        return found

    def hooks(self, memory: Memory, model: Model, frame: Frame) -> Sequence[Hook]:
        """Adds it at every token of every row."""
        return [self._hook(memory, layer) for layer in memory.header["layers"]]

    def entries(self, memory: Memory) -> list[dict[str, Any]]:
        """One line per block: its facts, slots and bytes."""
        tensors = [tensor for name, tensor in memory.tensors.items() if name != LINES]
        width = sum(tensor.shape[1] * tensor.element_size() for tensor in tensors)
        return [
            {
                "entry": entry,
                **{name: "; ".join(fact[name] for fact in line["facts"]) for name in ("prompt", "target", "subject")},
                "facts": len(line["facts"]),
                "slots": line["slots"],
                "bytes": width * line["slots"],
            }
            for entry, line in enumerate(as_lines(memory.tensors[LINES]))
        ]

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The same first matrix, with rows of the second one of the same lengths in random directions."""
        turned = super().control({name: rows[name] for name in rows if name.startswith("out.")}, generator)
        return {**rows, **turned}

    def neurons(self, memory: Memory) -> Mapping[int, Neurons]:
        """All of it, as neurons beside MLPs."""
        if memory.header["gated"]:
            raise MemoryMisfit(
                f"the memory {memory.name!r} is gated, which the neurons of an MLP without a gate are not, so that it "
                "cannot be made a part of a model's weights; save the model with it (save_pretrained)"
            )
        found = {}
        for layer in memory.header["layers"]:
            keys, values = (memory.tensors[f"{name}.{layer}"] for name in ("in", "out"))
            found[layer] = Neurons(memory.header["activation"], keys, torch.zeros(len(keys)), values)
        return found

    def check(self, memory: Memory, model: Model) -> None:
        """Check that its tensors fit the model and one another."""
        super().check(memory, model)
        layers, gated = memory.header["layers"], memory.header.get("gated", False)
        names = [f"{part}.{layer}" for layer in layers for part in ("in", "out", *(("up",) if gated else ()))]
        slots = sum(line.get("slots", 0) for line in as_lines(memory.tensors.get(LINES, torch.tensor([]))))
        for name in names:
            tensor = memory.tensors.get(name)
            found = "is missing" if tensor is None else f"is {list(tensor.shape)}"
            if tensor is None or tensor.shape != (slots, model.d_model):
                raise MemoryMisfit(
                    f"the tensor {name!r} of the memory {memory.name!r} {found}; expected [{slots}, {model.d_model}], "
                    f"its slots and the d_model of {model.name}. Make the memory on this model, or load the one it is "
                    "of"
                )
        activation(str(memory.header.get("activation")))

    def _hook(self, memory: Memory, layer: int) -> Hook:
        def add(x: Tensor, y: Tensor, _: Frame) -> Tensor:
            return y + self._active(memory, x, layer).to(y.dtype) @ memory.tensor(f"out.{layer}", y)

        return Hook(("mlp", layer), add, ("mlp_in", layer))

    def _active(self, memory: Memory, x: Tensor, layer: int | None) -> Tensor:
        """What the slots are multiplied with, [..., n]."""
        found = activation(memory.header["activation"])(x @ memory.tensor(f"in.{layer}", x).T)
        return found * (x @ memory.tensor(f"up.{layer}", x).T) if memory.header["gated"] else found


def outputs(memory: Memory) -> list[Tensor]:
    """The second matrices, by layer."""
    return [memory.tensors[f"out.{layer}"] for layer in memory.header["layers"]]
