"""Load a model from a name, a folder, a file or nothing."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from tracer.errors import NotFinite
from tracer.inference import ordinary

from . import checkpoint
from .adapter import adapter_for
from .find import find_checkpoint
from .gguf import load_gguf
from .given import note_tokens_beyond
from .model import Model
from .saving import MEMORIES
from .site_map import SiteMap
from .tensors import named_tensors


@ordinary()
def load(
    name_or_path: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    device_map: str | dict | None = None,
    sites: SiteMap | None = None,
) -> Model:
    """Load a checkpoint in eval mode, with the memories that were saved with it.

    Args:
        name_or_path: hub name, local folder, `.gguf` file (or the first of several parts), the name of a model that
            an installed package brings ([`tracer.models`][] lists them), `None` for the embedded FactWorld
            model, or "factworld-t5" for the embedded encoder-decoder model. A complete copy in the local cache is
            used as it is; only safetensors and GGUF are read, and no code from a checkpoint is ever run. GGUF is
            dequantised.
        device: `"cuda"` if there is one, else `"cpu"`.
        dtype: a `torch.dtype`, its name, or `"auto"` (as stored). Default: float32 on the CPU and for
            GGUF, as stored elsewhere.
        revision: branch, tag or commit of a hub model.
        device_map: `"auto"` or a dict, as accelerate understands it, for a model too large for one device.
        sites: where the model's parts are, for an architecture of causal language models that TransformerLens has no
            adapter for; None: it has one.

    Raises:
        TracerError: unknown model, no network, missing or corrupt files, weights that are not finite, an architecture
            without a map, memories of other weights, a map with a path that is none. The message names the repair.

    Warns:
        TracerNote: a GGUF file whose model finds plain English as surprising as noise, or parts of which are not read;
            a tokenizer with tokens that the model has no row for; memories and a model of another number
            type than theirs.
    """
    place, name = find_checkpoint(name_or_path, revision)
    where = {"device": device, "dtype": dtype, "device_map": device_map}
    model = _from_folder(place, name, where, sites) if place.is_dir() else load_gguf(place, name, **where, sites=sites)
    _check_finite(model.hf, name)
    note_tokens_beyond(model.tokenizer, model.n_tokens, name, stacklevel=3)
    if place != Path(name).expanduser() and name not in (checkpoint.EMBEDDED, checkpoint.EMBEDDED_T5):
        # the name that was asked for, as from_pretrained(name) has it, not a place in the cache
        model.hf.name_or_path = model.hf.config._name_or_path = name
    if (place / MEMORIES).is_dir():  # their kinds are known to the package above
        import_module("editing.memories.folder").attach_those_in(model, place / MEMORIES)
    return model


def _from_folder(folder: Path, name: str, where: dict, sites: SiteMap | None) -> Model:
    checkpoint.check_files(folder, name)
    config = checkpoint.read_config(folder, name)
    if sites is not None:
        tokenizer = checkpoint.read_tokenizer(folder, name, config)
        hf = checkpoint.read_weights(folder, name, config, style="causal", blocks=sites.blocks, **where)
        return Model(hf, tokenizer, name, sites.on(hf, name))
    # before the weights: an unknown architecture should fail at once
    adapter, style = adapter_for(config, name)
    tokenizer = checkpoint.read_tokenizer(folder, name, config)
    blocks = adapter.translate_transformer_lens_path("blocks")
    hf = checkpoint.read_weights(folder, name, config, style=style, blocks=blocks, **where)
    return Model(hf, tokenizer, name, adapter, style)


def _check_finite(hf: nn.Module, name: str) -> None:
    for key, tensor in named_tensors(hf):
        if not isinstance(tensor, nn.Parameter) or not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = torch.aminmax(tensor.detach())  # needs no second copy of the tensor
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise NotFinite(
                f"weight {key!r} of {name!r} holds values that are not finite in {tensor.dtype} (NaN or infinity); "
                "fetch the checkpoint again, or load it with a wider dtype"
            )
