"""Whether an edit ruins the model it is made on: text that it has nothing to do with, read before and after."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from tracer import TracerError
from tracer.model import EMBEDDED
from tracer.model.soundness import PASSAGE

from .drift import Drift
from .edit import Edit
from .request import EditWarning
from .weights import applied

if TYPE_CHECKING:
    from tracer import Model

Check = Literal["warn", "refuse"] | None
TOKENS = 128
WORSE = 1.2  # of perplexity. Edits that hold change it by a few hundredths; those that break a model, by nearly two
KNOWN = 0.25  # of the vocabulary: a perplexity above it is that of a model that knows no language to begin with


class HarmWarning(EditWarning):
    """An edit that ruins the model it is made on. The edit's ``note`` says it too."""


@dataclass(frozen=True)
class Harm:
    """What an edit does to unrelated text.

    Attributes:
        kl: mean over tokens of KL(before || after), in nats.
        before, after: perplexity of the text.
        words: size of the vocabulary, the perplexity of guessing.
    """

    kl: float
    before: float
    after: float
    words: int

    @property
    def ruined(self) -> bool:
        """Whether perplexity grew by more than a fifth, in a model that had any language to lose."""
        return self.before < KNOWN * self.words and not self.after <= WORSE * self.before  # also if it is nan

    def __str__(self) -> str:
        times = self.after / self.before
        return (
            f"perplexity of unrelated text goes from {self.before:.4g} to {self.after:.4g} (x {times:.3g}), "
            f"next-token distributions by {self.kl:.3g} nats"
        )


def check_harm(model: Model, edits: Sequence[Edit], check: Check) -> list[Edit]:
    """The edits with what each does to unrelated text in ``evidence`` ("perplexity" before and after, and "drift").

    The text is FactWorld's held-out text for the embedded model, a passage of plain English for others.

    Args:
        check: "warn" warns of an edit that ruins the model and says so in its ``note``, "refuse" raises; None measures
            nothing. A masked model has no perplexity and is not measured.

    Raises:
        TracerError: an edit that ruins the model, with "refuse".

    Warns:
        HarmWarning: an edit that ruins the model, with "warn".
    """
    if check is None or not model.causal:
        return list(edits)
    text = None if model.name == EMBEDDED else PASSAGE
    drift = Drift.recorded(model, text, tokens=TOKENS)
    before = drift.both(model).perplexity
    checked = []
    for edit in edits:
        with applied(model, edit.factors):
            after = drift.read(model)
        harm = Harm(after.kl, before, after.perplexity, drift.before.shape[-1])
        note = edit.note
        if harm.ruined:
            message = f"this edit harms the model: {harm}; {_repair(edit)}"
            if check == "refuse":
                raise TracerError(f"{message}, or check='warn' to have it all the same")
            warnings.warn(message, HarmWarning, stacklevel=4)
            note = "; ".join(filter(None, [note, f"it harms the model: {harm}"]))
        numbers = {"perplexity": torch.tensor([before, after.perplexity]), "drift": torch.tensor(after.kl)}
        checked.append(replace(edit, evidence={**(edit.evidence or {}), **numbers}, note=note))
    return checked


def _repair(edit: Edit) -> str:
    """Settings that make the method's edits smaller."""
    weaker = [f"a smaller {name}" for name in ("clamp", "v_lr", "lr", "norm_constraint") if name in edit.settings]
    return f"undo it, and try {' and '.join(weaker[:2]) or 'fewer requests'}, or other layers"
