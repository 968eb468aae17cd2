"""Rotary positions that a GGUF file scales, turned back into a configuration: transformers leaves them out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import TracerNote

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Llama 3.1 and later: bounds of the wavelengths that are left alone and that are divided whole, and their context
LOW, HIGH, CONTEXT = 1.0, 4.0, 8192
FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Scaling:
    """A GGUF file's scaling of rotary positions.

    Attributes:
        kind: `"linear"` (positions divided by `factor`), `"yarn"`, or `"factors"`.
        factor: of the context's growth.
        context: tokens of the context before it grew; None where the file does not tell.
        factors: for `"factors"`, what each inverse frequency is divided by, one per pair of dimensions.
        unread: further scaling in the file, which is left out.
    """

    kind: str
    factor: float = 1.0
    context: int | None = None
    factors: tuple[float, ...] = ()
    unread: str = ""

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Scaling | None:
        """The scaling by a file's `rope_` tensors or settings; None without any."""
        factors = tensors.get(FACTORS)
        if factors is not None and not np.allclose(factors, 1.0):
            return cls("factors", float(np.max(factors)), factors=tuple(map(float, np.ravel(factors))))
        if others := sorted(set(tensors) - {FACTORS}):  # Phi-3's factors for long and for short prompts
            return cls("none", unread=", ".join(others))
        kind, factor = settings.get("rope.scaling.type"), float(settings.get("rope.scaling.factor", 1.0))
        if kind in (None, "none") and factor == 1.0:
            return None
        kind = kind or "linear"  # a factor alone, in older files
        if kind not in ("linear", "yarn"):
            return cls("none", unread=f"scaling of type {kind}")
        return cls(kind, factor, settings.get("rope.scaling.original_context_length"))

    def into(self, config: PretrainedConfig, name: str) -> None:
        """Write the scaling into a configuration.

        A file holds factors where the configuration holds the rule that made them. The rule of Llama 3.1 and later is
        tried; where it does not give the file's factors to a thousandth, they are left out. Layers of sliding attention
        are never scaled.

        Warns:
            TracerNote: the scaling is not applied.
        """
        rope: Any = config.rope_parameters
        layered = "full_attention" in rope
        one = rope["full_attention"] if layered else rope
        given, unread = self._rule(float(one["rope_theta"])), self.unread
        if given is None:
            unread = unread or f"{FACTORS}, of no known rule"
        elif layered:
            config.rope_parameters = {**rope, "full_attention": {**one, **given}}
        else:
            config.rope_parameters = {**rope, **given}
        if unread:
            warnings.warn(
                f"{name!r} scales its rotary positions ({unread}), which is left out: answers, above all to long "
                "prompts, will differ from the original model's; its safetensors have the scaling",
                TracerNote,
                stacklevel=5,
            )

    def _rule(self, theta: float) -> dict[str, Any] | None:
        context = {} if self.context is None else {"original_max_position_embeddings": int(self.context)}
        if self.kind in ("linear", "yarn"):
            return {"rope_type": self.kind, "factor": self.factor, **context}
        made = llama3_factors(theta, len(self.factors), self.factor) if self.kind == "factors" else None
        if made is not None and np.allclose(made, self.factors, rtol=1e-3):
            rule = {"rope_type": "llama3", "factor": self.factor, "low_freq_factor": LOW, "high_freq_factor": HIGH}
            return rule | {"original_max_position_embeddings": CONTEXT}
        return None


def llama3_factors(theta: float, pairs: int, factor: float) -> np.ndarray:
    """Divisors of the inverse frequencies by Llama 3.1's rule, `[pairs]`."""
    wavelength = 2 * math.pi * theta ** (np.arange(pairs) / pairs)
    smooth = np.clip((CONTEXT / wavelength - LOW) / (HIGH - LOW), 0, 1)  # 0: divided whole, 1: left alone
    return 1 / ((1 - smooth) / factor + smooth)
