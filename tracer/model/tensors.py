"""All that a module holds: parameters and buffers, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import nn


def named_tensors(hf: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter and buffer once, by name; those accelerate has offloaded are brought in one module at a time."""
    seen: set[int] = set()
    tied = getattr(hf, "all_tied_weights_keys", None) or {}  # tied tensors count once
    for prefix, module in hf.named_modules():
        own = {**module._parameters, **module._buffers}
        names = []
        for name, tensor in own.items():
            full = f"{prefix}.{name}" if prefix else name
            if tensor is None or id(tensor) in seen or (tensor.is_meta and full in tied):
                continue
            seen.add(id(tensor))
            names.append((name, full))
        offloaded = any(tensor.is_meta for tensor in own.values() if tensor is not None)
        if offloaded:
            from accelerate.utils import align_module_device

        with align_module_device(module, torch.device("cpu")) if offloaded else nullcontext():
            for name, full in names:
                yield full, getattr(module, name)
