"""What the tests of covariances share: texts, also of several windows, and the comparison of two covariances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from checkpoints import SENTENCES

from editing.covariance.covariance import Covariance
from tracer.model import Model

Tiny = Callable[[str], Model]
TEXTS = [" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(4)] + ["", "Paris", "a b c"]
LONG = [" ".join(SENTENCES[:5] * 6)] * 3


def apart(a: torch.Tensor, b: Any) -> float:
    """Relative Frobenius distance."""
    b = torch.as_tensor(b).double()
    return float((a.double() - b).norm() / b.norm())


def same(a: Covariance, b: Covariance) -> bool:
    """Whether two covariances have the same bits."""
    return (
        a.layers == b.layers
        and all(torch.equal(a.matrix(layer), b.matrix(layer)) for layer in a.layers)
        and dict(a.doublings) == dict(b.doublings)
        and (a.tokens, a.corpus, a.fingerprint, a.window) == (b.tokens, b.corpus, b.fingerprint, b.window)
    )
