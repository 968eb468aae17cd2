"""Memories that are neurons, made a part of a plain Hugging Face model: every layer's MLP is made wider.

A neuron that a memory puts beside an MLP is what a neuron of the MLP itself is, where that is two projections with the
same activation function between them. Configurations know one width for all layers, so that layers without neurons of a
memory get as many that are zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.engine.arriving import behind_norm
from tracer.engine.batch import logits_of
from tracer.errors import MemoryMisfit, TracerError
from tracer.files import new_folder
from tracer.model import load
from tracer.model.architecture import orientation
from tracer.model.checkpoint import quiet
from tracer.model.soundness import PASSAGE

from .activations import activation, measured
from .neurons import Neurons

if TYPE_CHECKING:
    from tracer.model import Model

WIDTHS = ("n_inner", "intermediate_size", "ffn_dim", "ffn_hidden_size", "d_inner", "inner_dim")
"""What configurations call the width of their MLPs."""
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 2e-2}
"""Of logits that are read again, in the largest of them."""


def bake(model: Model, folder: str | Path, overwrite: bool = False) -> Path:
    """Write a model whose memories are neurons as a plain Hugging Face folder with wider MLPs; return it.

    Transformers reads it without anything else and answers as the model with its memories does. The folder is read
    again, and its logits are compared, before it appears.

    Args:
        model: with memories of Transformer-Patcher, or of CaliNET without gates.
        folder: where to; made if need be.
        overwrite: replace what `folder` holds.

    Raises:
        TracerError: no memory, or one that is not neurons; an MLP with a gate, with another activation function,
            without the bias that is needed, or behind which a norm stands; a configuration that has no width to change;
            a folder that is not empty.
    """
    hf = _wider(model, _widened(model, neurons_of(model)))
    with new_folder(folder, overwrite) as temporary:
        with quiet(show_bars=False):
            hf.save_pretrained(temporary)
        model.tokenizer.save_pretrained(temporary)
        _compare(model, temporary)
    return Path(folder)


def neurons_of(model: Model) -> dict[int, Neurons]:
    """What the memories of a model put beside its MLPs, by layer, if the MLPs could have it themselves.

    Args:
        model: with memories.

    Raises:
        TracerError: as `bake` does.
    """
    if not model.memories:
        raise MemoryMisfit(f"{model.name} has no memory to make a part of its weights; save it with save_pretrained")
    by_layer: dict[int, list[Neurons]] = {}
    for memory in model.memories:
        kind = memory.acts  # type: ignore[attr-defined]
        neurons: Mapping[int, Neurons] = kind.neurons(memory)
        for layer, some in neurons.items():
            _check(model, memory.name, layer, some)
            by_layer.setdefault(layer, []).append(some)
    joined = {}
    for layer, parts in by_layer.items():
        keys, biases, values = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("keys", "biases", "values")
        )
        joined[layer] = Neurons(parts[0].activation, keys, biases, values)
    return joined


def _check(model: Model, name: str, layer: int, neurons: Neurons) -> None:
    own = _own(model, layer)
    if own is None:
        raise _refused(
            model,
            f"the MLP of layer {layer} has more between its projections than one activation function (a gate, as in "
            "Llama or Gemma, or parameters of its own)",
        )
    if behind_norm(model, layer):
        raise _refused(model, f"a norm stands behind the MLP of layer {layer}, and a memory adds behind that")
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    if not torch.allclose(activation(own)(x), activation(neurons.activation)(x), rtol=0, atol=1e-6):
        raise _refused(
            model,
            f"the memory {name!r} has {neurons.activation} for its activation function, and the MLP of layer {layer} "
            f"{own}",
        )
    if model.module("pre", layer).bias is None and bool(neurons.biases.any()):
        raise _refused(model, f"the MLP of layer {layer} has no bias, and the neurons of the memory {name!r} need one")


def _own(model: Model, layer: int) -> str | None:
    try:
        return measured(model, layer)
    except TracerError:
        return None


def _refused(model: Model, reason: str) -> MemoryMisfit:
    return MemoryMisfit(
        f"the memories of {model.name} cannot be made a part of its weights: {reason}. Save it with them beside its "
        "weights (save_pretrained)"
    )


def _widened(model: Model, by_layer: Mapping[int, Neurons]) -> dict[str, Tensor]:
    """The weights with wider MLPs."""
    more = max(len(neurons.keys) for neurons in by_layer.values())
    state = {name: tensor.detach().cpu() for name, tensor in model.hf.state_dict().items()}
    zero = torch.zeros(0, model.d_model)
    nothing = Neurons("", zero, torch.zeros(0), zero)
    for layer in range(model.n_layers):
        neurons = by_layer.get(layer, nothing)
        up, down = model.path("pre", layer), model.path("key", layer)
        values = neurons.values / model.multiplier("mlp")
        across = orientation(model.module("pre", layer), up) == "in_out"
        state[f"{up}.weight"] = _joined(state[f"{up}.weight"], neurons.keys, more, across)
        if f"{up}.bias" in state:
            state[f"{up}.bias"] = _joined(state[f"{up}.bias"], neurons.biases, more, False)
        across = orientation(model.module("key", layer), down) == "out_in"
        state[f"{down}.weight"] = _joined(state[f"{down}.weight"], values, more, across)
    return state


def _wider(model: Model, state: Mapping[str, Tensor]) -> Any:
    """A module of the model's class that has weights of another width; its configuration is tried out."""
    up = f"{model.path('pre', 0)}.weight"
    across = orientation(model.module("pre", 0), up) == "in_out"
    width = state[up].shape[1 if across else 0]
    for name in WIDTHS:
        config = deepcopy(model.hf.config)
        inner = config.get_text_config()
        if not hasattr(inner, name):
            continue
        setattr(inner, name, width)
        with torch.device("meta"):
            hf: Any = type(model.hf)(config)
        own = hf.state_dict()
        if all(tensor.shape == own[key].shape for key, tensor in state.items() if key in own):
            hf.load_state_dict(state, strict=False, assign=True)
            hf.tie_weights()
            return hf
    raise _refused(model, "no field of its configuration is the width of its MLPs alone")


def _joined(weight: Tensor, rows: Tensor, more: int, across: bool) -> Tensor:
    """A weight with rows (or columns, if `across`) added, and zeros up to so many more."""
    own = weight.T if across else weight
    added = own.new_zeros(more, *own.shape[1:])
    added[: len(rows)] = rows.to(added)
    found = torch.cat([own, added])
    return (found.T if across else found).contiguous()


def _compare(model: Model, folder: Path) -> None:
    plain = load(folder, device=model.device, dtype=model.dtype)
    text: Any = model.tokenizer(PASSAGE)["input_ids"]
    ids = torch.tensor([text[: min(64, model.n_ctx)]])
    with torch.no_grad():
        wanted, found = (logits_of(each, ids).float().cpu() for each in (model, plain))
    gap = float((found - wanted).abs().max() / wanted.abs().max())
    if not gap <= TOLERANCE.get(model.dtype, 1e-4):
        raise _refused(model, f"what was written answers otherwise (logits {gap:.1e} apart)")
