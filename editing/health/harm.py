"""Check whether an edit ruins the model: perplexity of unrelated text, before and after."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from editing.edits.edit import TIMED, Edit
from editing.request import EditWarning
from tracer.errors import KnownAlready

from .drift import Drift, Drifted

if TYPE_CHECKING:
    from tracer.model import Model

Check = Literal["warn", "refuse"] | None
TOKENS = 128


class HarmWarning(EditWarning):
    """An edit that ruins the model it is made on. The edit's `note` says it too."""


def check_harm(
    model: Model, edits: Sequence[Edit], check: Check, recorded: Callable[[], Drift] | None = None
) -> list[Edit]:
    """The edits with the effect of each on unrelated text in `evidence` ("perplexity" before and after, and "drift").

    The text is FactWorld's held-out text for the embedded model, a passage of plain English for others.

    Args:
        model: as it was before the edits.
        edits: each on its own.
        check: "warn" warns of an edit that ruins the model and says so in its `note`, "refuse" raises; None measures
            nothing. A masked or encoder-decoder model has no perplexity of running text and is not measured.
        recorded: gives the distributions before the edits; None: they are recorded now.

    Raises:
        TracerError: an edit that ruins the model, with "refuse".

    Warns:
        HarmWarning: an edit that ruins the model, with "warn".
    """
    if check is None or model.style != "causal":
        return list(edits)
    began = time.monotonic()
    drift = Drift.recorded(model, tokens=TOKENS) if recorded is None else recorded()
    before = time.monotonic() - began
    checked = []
    for edit in edits:
        began = time.monotonic()
        with edit.applied(model):
            after = drift.read(model)
        note = edit.note
        if after.ruined:
            message = f"this edit harms the model: {_told(after)}; {_repair(edit)}"
            if check == "refuse":
                raise KnownAlready(f"{message}, or check='warn' to have it all the same")
            warnings.warn(message, HarmWarning, stacklevel=4)
            note = "; ".join(filter(None, [note, f"it harms the model: {_told(after)}"]))
        numbers = {
            "perplexity": torch.tensor([after.before, after.perplexity]),
            "drift": torch.tensor(after.kl),
            f"{TIMED}check": torch.tensor(before / len(edits) + time.monotonic() - began),
        }
        checked.append(replace(edit, evidence={**(edit.evidence or {}), **numbers}, note=note))
    return checked


def _told(now: Drifted) -> str:
    times = now.perplexity / now.before
    return (
        f"perplexity of unrelated text goes from {now.before:.4g} to {now.perplexity:.4g} (x {times:.3g}), "
        f"next-token distributions by {now.kl:.3g} nats"
    )


def _repair(edit: Edit) -> str:
    """Settings that make the method's edits smaller."""
    weaker = [f"a smaller {name}" for name in ("clamp", "v_lr", "lr", "norm_constraint") if name in edit.settings]
    return f"undo it, and try {' and '.join(weaker[:2]) or 'fewer requests'}, or other layers"
