"""Adapters put together part by part, as Zhang et al. 2023 do ("Composing parameter-efficient modules").

The factors of two LoRA adapters are mixed before they are multiplied, so that their product has cross terms: it is not
the sum of the two changes, which [`editing.Edit.compose`][] gives.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from editing.edits.edit import Edit
from tracer.checks import finite
from tracer.errors import AdapterError, EditOfOtherWeights


def mixed_adapters(one: Edit, two: Edit, share: float = 0.5) -> Edit:
    """The edit whose factors are those of two, mixed: U = s U1 + (1 - s) U2, and V alike (Zhang et al. 2023, eq. 3).

    Args:
        one: an edit of low rank.
        two: another, of the same weights and ranks, computed on the same model.
        share: s, of the first.

    Raises:
        TracerError: edits of other weights or ranks, or without factors; a share that is not finite.
    """
    share = finite("share", share, kind=AdapterError, expected="a finite number")
    if one.fingerprint != two.fingerprint:
        raise EditOfOtherWeights(
            f"these adapters were trained on different weights ({one.model} {one.fingerprint[:12]} and {two.model} "
            f"{two.fingerprint[:12]}); train both on the same"
        )
    for edit in (one, two):
        if edit.deltas or edit.memories or not edit.factors:
            raise AdapterError(
                f"{edit.method} gave an edit that is no adapter: it changes whole weights, or memories; add edits up "
                "instead (a + b), or fine-tune with a rank"
            )
    if one.rank() != two.rank():
        raise AdapterError(
            "these adapters are of different weights or ranks, so that their factors cannot be mixed; add the edits up "
            "instead (a + b)"
        )
    factors = {
        name: tuple(share * a + (1 - share) * b for a, b in zip(pair, two.factors[name], strict=True))
        for name, pair in one.factors.items()
    }
    settings = {"parts": [dict(one.settings), dict(two.settings)], "share": share}
    orientation = {one.settings.get("orientation"), two.settings.get("orientation")}
    settings["orientation"] = orientation.pop() if len(orientation) == 1 else None
    requests = tuple(dict.fromkeys((*one.requests, *two.requests)))
    method = f"{one.method}|{two.method}"
    return replace(one, factors=factors, method=method, settings=settings, requests=requests, evidence={}, note="")


def mixed_scales(one: np.ndarray, two: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Scales of (IA)3, which multiply activations, of two adapters mixed: s l1 + (1 - s) l2.

    Args:
        one: scales of an adapter.
        two: of another.
        share: s, of the first.
    """
    return share * one + (1 - share) * two


def negated_scales(scales: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Scales of (IA)3 mirrored at 1, where they do nothing: 1 + s (1 - l) (Zhang et al. 2023, eq. 5).

    Args:
        scales: l.
        factor: s.
    """
    return 1 + factor * (1 - scales)
