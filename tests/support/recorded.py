"""What passes through the modules of a model in one forward, by plain hooks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tracer.model import Model

LAYER_SITES = ("hidden", "attn", "mlp", "key")
PROMPT = "The Space Needle is in"


def prompt_ids(model: Model) -> torch.Tensor:
    return torch.tensor([model.tokenizer(PROMPT)["input_ids"]])


def record(modules: dict[str, nn.Module], model: nn.Module, ids: torch.Tensor) -> dict[str, tuple]:
    """(first input, output) of each module in one forward, by plain hooks; outputs as tensors, cloned."""
    seen: dict[str, tuple] = {}

    def hook_for(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            first = args[0] if args else kwargs.get("hidden_states")
            out = output[0] if isinstance(output, tuple) else output
            # cloned: Falcon adds to its MLP's output in place
            seen[name] = (first.clone(), out.clone())  # type: ignore[union-attr]

        return hook

    handles = [m.register_forward_hook(hook_for(name), with_kwargs=True) for name, m in modules.items()]
    try:
        with torch.no_grad():
            model(ids)
    finally:
        for handle in handles:
            handle.remove()
    return seen
