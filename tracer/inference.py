"""Work inside torch.inference_mode, whose tensors never take part in gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def ordinary() -> Iterator[None]:
    """Tensors made inside can take part in gradients and be written to, also for a caller in torch.inference_mode.

    It decorates what makes such tensors.
    """
    with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
        yield
