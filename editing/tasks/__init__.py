"""Task arithmetic: fine-tuning as an edit, multiples and sums of edits, and what they do to several tasks at once."""

from .adapters import mixed_adapters, mixed_scales, negated_scales
from .cosines import cosines, inner
from .finetune import finetune
from .scaling import ScaledLosses, scaled_losses
from .settings import FinetuneSettings

__all__ = [
    "FinetuneSettings",
    "ScaledLosses",
    "cosines",
    "finetune",
    "inner",
    "mixed_adapters",
    "mixed_scales",
    "negated_scales",
    "scaled_losses",
]
