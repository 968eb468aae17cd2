"""A TransformerLens bridge around a copy of a model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from tracer.errors import MemoryInTheWay, UnknownArchitecture

from .site_map import Placed

if TYPE_CHECKING:
    from .model import Model


def bridge_of(model: Model, adapter: Any) -> Any:
    """A `TransformerBridge`; see [`tracer.Model.bridge`][].

    Args:
        model: that is copied.
        adapter: its map of sites.

    Raises:
        TracerError: the model has memories; TransformerLens has no adapter for it.
    """
    if isinstance(adapter, Placed):
        raise UnknownArchitecture(
            f"{model.name} is a {type(model.hf).__name__} whose sites a SiteMap names, since TransformerLens has no "
            "adapter for it, and so no bridge; use tracer.hooks"
        )
    if model.memories:
        raise MemoryInTheWay(
            f"{model.name} has memories ({', '.join(memory.name for memory in model.memories)}), which a "
            "TransformerBridge cannot have; take them off first"
        )
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    return build_bridge_from_module(
        copy.deepcopy(model.hf),
        adapter.cfg.architecture,
        hf_config=model.hf.config,
        tokenizer=copy.deepcopy(model.tokenizer),
        model_name=model.name,
    )
