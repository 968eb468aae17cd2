"""Figures that the gallery page shows live: one trace of the embedded model, and what benchmarks keep.

``make.py`` draws the same as pictures. Nothing here takes longer than seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

import editing
import tracer
from editing.attack import AttackResult
from editing.tasks import ScaledLosses

MEASURED = Path(__file__).parents[1] / "benchmarks"
KINDS = ("hidden", "mlp", "attn")
WINDOW = 3  # of eight layers; the paper restores ten of 48
SPACE_NEEDLE = tracer.Fact("{} is in downtown", "The Space Needle")
GEMMA = "gemma-3-270m"
SEVERED = ("severed-mlp", "severed-attn")


def space_needle() -> Any:
    """Traces of a fact in the embedded model, of three kinds."""
    model = tracer.load().pinned()
    return tracer.plot_trace([tracer.causal_trace(model, SPACE_NEEDLE, kind=kind, window=WINDOW) for kind in KINDS])


def average_gemma() -> Any:
    """Averages over facts that Gemma knows, from what ``real_model.py`` keeps."""
    return tracer.plot_average([_average(kind) for kind in KINDS])


def severed_gemma() -> Any:
    """The same facts with the paths of a module severed."""
    return tracer.plot_severed([_average(name) for name in ("hidden", *SEVERED)])


def evaluation() -> Any:
    """Ten methods on 300 records, each edited alone."""
    return editing.plot_evaluation(editing.Evaluation.of(metrics=_swept("single")))


def retention() -> Any:
    """The same records one after another: what earlier edits keep."""
    after = editing.Evaluation.of(metrics=_swept("sequential"))
    return editing.plot_retention(after, "reliability (generated)", maps=False)


def forgetting() -> Any:
    """A relation taken away by a multiple of an edit, and what goes with it."""
    kept = pd.read_parquet(MEASURED / "task_arithmetic.parquet")
    return editing.plot_scaled_losses(ScaledLosses.of(kept.query("model == 'factworld' and method == 'forget'")))


def attack() -> Any:
    """Old answers that guesses bring back after edits and unlearning."""
    kept = pd.read_parquet(MEASURED / "attack.parquet").query("model == 'factworld'")
    shown = ("unedited", "rome", "memit", "lora", "grace", "rome, refusal", "npo", "simnpo")
    own = {name: kept.query("method == @name and looked_for == 'own'") for name in shown}
    own["rome, another fact's answer"] = kept.query("method == 'rome' and looked_for == 'swapped'")
    return editing.plot_attack({name: AttackResult.of(rows, 20) for name, rows in own.items()})


LIVE: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        make.__name__: make
        for make in (space_needle, average_gemma, severed_gemma, evaluation, retention, forgetting, attack)
    }
)
"""Each by the name of its picture."""


def _average(name: str) -> tracer.AverageTrace:
    return tracer.AverageTrace.load(MEASURED / "real" / f"{GEMMA}-{name}.npz")


def _swept(mode: str) -> pd.DataFrame:
    kept = pd.read_parquet(MEASURED / "factworld_sweep.parquet").astype({"value": float})
    return kept.query("control == '' and mode in ('', @mode)")
