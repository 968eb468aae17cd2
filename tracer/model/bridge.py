"""A TransformerLens bridge around a copy of a model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from tracer.errors import MemoryInTheWay, UnknownArchitecture

from .attached import Attachable
from .site_map import Placed


def bridge_of(hf: Any, tokenizer: Any, name: str, adapter: Any, memories: Sequence[Attachable]) -> Any:
    """A `TransformerBridge`; see [`tracer.Model.bridge`][].

    Args:
        hf: the module, which is copied.
        tokenizer: its tokenizer.
        name: of the model.
        adapter: its map of sites.
        memories: what is attached to it.

    Raises:
        TracerError: the model has memories; TransformerLens has no adapter for it.
    """
    if isinstance(adapter, Placed):
        raise UnknownArchitecture(
            f"{name} is a {type(hf).__name__} whose sites a SiteMap names, since TransformerLens has no "
            "adapter for it, and so no bridge; use tracer.hooks"
        )
    if memories:
        raise MemoryInTheWay(
            f"{name} has memories ({', '.join(memory.name for memory in memories)}), which a "
            "TransformerBridge cannot have; take them off first"
        )
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    return build_bridge_from_module(
        copy.deepcopy(hf),
        adapter.cfg.architecture,
        hf_config=hf.config,
        tokenizer=copy.deepcopy(tokenizer),
        model_name=name,
    )
