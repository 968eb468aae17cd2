"""The layers that a result suggests to write at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import UnsuitableResult
from tracer.facts.fact import Fact
from tracer.neurons.attribution import NeuronAttribution
from tracer.tracing.average_trace import AverageTrace
from tracer.tracing.metrics import trace_metric
from tracer.tracing.trace import CausalTrace

from .located import SHARE, Located, profile_of, suggest

if TYPE_CHECKING:
    from tracer.model import Model

LAST_SUBJECT = "last subject token"


def layers_from(given: Any, *, single: bool, model: Model) -> tuple[int, ...]:
    """The layers a result suggests: the best alone, or the range around it.

    Args:
        given: an [`editing.Located`][]; a [`tracer.tracing.trace.CausalTrace`][] or
            [`tracer.tracing.average_trace.AverageTrace`][] of kind "mlp" or "hidden" (their effect at the subject's
            last token counts); a [`tracer.NeuronAttribution`][] at that token (the scores summed per layer count); or a
            list of traces or of attributions of several facts, whose mean counts.
        single: the best layer alone.
        model: to be edited.

    Raises:
        TracerError: anything else, a result of another model or of other weights, and one that does not cover the
            subject's last token or in which no layer has an effect.
    """
    if isinstance(given, Located):
        _check_model(given, model)
        return given.layers[:1] if single else given.window
    several: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    kinds = {type(each) for each in several}
    if len(kinds) != 1 or not issubclass(next(iter(kinds)), CausalTrace | AverageTrace | NeuronAttribution):
        named = ", ".join(sorted(each.__name__ for each in kinds)) or "nothing"
        raise UnsuitableResult(
            f"locate got {named}; expected a Located, a CausalTrace, an AverageTrace or a NeuronAttribution, or a list "
            "of traces or of attributions"
        )
    profiles = []
    for each in several:
        _check_model(each, model)
        profiles.append(_mass(each, model) if isinstance(each, NeuronAttribution) else _effect(each, model))
    profile = profile_of("trace", {"effect": np.stack(profiles)})
    if not np.nanmax(profile) > 0:
        raise UnsuitableResult(
            "no layer of the result has an effect above zero, so that none is better; name the layers"
        )
    layers, window = suggest(profile, SHARE["trace"])
    return layers[:1] if single else window


def _effect(given: CausalTrace | AverageTrace, model: Model) -> np.ndarray:
    """[layers]: the effect at the subject's last token, towards the clean run."""
    if given.kind not in ("mlp", "hidden") or given.sever is not None:
        what = f"of kind {given.kind!r}" + (f" with {given.sever} severed" if given.sever else "")
        raise UnsuitableResult(
            f"a trace {what} does not say which MLP to write to; trace kind='mlp' or 'hidden' without severed paths"
        )
    if isinstance(given, CausalTrace):
        if given.subject_range[1] - 1 not in given.positions:
            raise UnsuitableResult(
                f"the trace of {given.prompt!r} lacks the subject's last token; trace all tokens, or 'subject_last'"
            )
        return effect_of(given, model.n_layers)
    profile = np.full(model.n_layers, np.nan)
    effect = given.effect[given.classes.index(LAST_SUBJECT)]
    if np.isnan(effect).all():
        raise UnsuitableResult("the average lacks the subjects' last tokens; trace all tokens, or 'subject_last'")
    profile[list(given.layers)] = effect * trace_metric(given.metric).sign
    return profile


def _mass(given: NeuronAttribution, model: Model) -> np.ndarray:
    """[layers]: the attribution at the subject's last token, summed over neurons."""
    if given.method != "integrated_gradients":
        raise UnsuitableResult(
            f"scores by {given.method} do not add up over neurons; attribute with method='integrated_gradients'"
        )
    last = Fact(given.prompt, given.subject).align(model).subject_range[1] - 1
    if given.positions != (last,):
        raise UnsuitableResult(
            f"the neurons of {given.prompt!r} act at tokens {list(given.positions)}, and an edit writes at the "
            f"subject's last, {last}; attribute with token='subject_last'"
        )
    return given.scores.sum(1)


def _check_model(given: Any, model: Model) -> None:
    if given.fingerprint != (found := model.fingerprint(given.fingerprint)):
        raise UnsuitableResult(
            f"the {type(given).__name__} is of other weights ({given.model}, {given.fingerprint[:12]}) than "
            f"{model.name} has now ({found[:12]}); make it again on this model, or name the layers"
        )


def effect_of(trace: CausalTrace, n_layers: int) -> np.ndarray:
    """[n_layers]: a trace's effect at the subject's last token towards the clean run, nan where not traced."""
    row = trace.positions.index(trace.subject_range[1] - 1)
    profile = np.full(n_layers, np.nan)
    profile[list(trace.layers)] = trace.towards_clean[row]
    return profile
