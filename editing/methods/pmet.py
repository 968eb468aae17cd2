"""PMET: MEMIT with the value found inside the MLP, while attention is free to help (Li et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from editing.methods.value.settings import NEEDS, resolve
from editing.methods.value.spread import default_layers, spread

from .context import EditContext
from .memit import MEMITSettings, least_squares
from .method import Change, Group, Method

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True)
class PMETSettings(MEMITSettings):
    """Hyper-parameters of PMET; see [`editing.methods.value.settings.ValueSettings`][].

    Attributes:
        nll_factor: factor of the target's NLL; a tenth of that once the target is the most probable.
        kl_stop: the search ends if the target is the most probable and KL is at most this.
    """

    nll_factor: float = 1.0
    kl_stop: float = 0.01


def plan(model: Model, groups: Sequence[Group], given: PMETSettings, context: EditContext) -> list[Change]:
    """One change per group.

    Deltas of the attention's and of the MLP's output are optimised together; only the MLP's is written, and its
    residual is divided by the square root of the layers left.
    """
    settings = resolve(model, given, default_layers(model), context)
    weight, closed_form = least_squares(model, settings)
    return spread(
        model,
        groups,
        settings,
        closed_form,
        measured={"mom2_weight": weight},
        share=math.sqrt,
        places=("attn", "mlp"),
        nll_factor=given.nll_factor,
        ease=0.1,
        kl_stop=given.kl_stop,
    )


PMET = Method(
    "pmet", PMETSettings, plan, needs=NEEDS, seeded=True, summary="MEMIT with values inside the MLP (Li et al. 2024)"
)
