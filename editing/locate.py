"""Which layers to write at: from a causal trace, from knowledge neurons, or from a sweep of edits.

Where a fact is recalled and where an edit of it works best need not be the same layers: in GPT-J the one tells next to
nothing about the other (Hase et al., "Does Localization Inform Editing?", 2023). So the evidence is kept apart, each
kind says which it is, and :func:`editing.plots.plot_locate` shows them side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tracer import AverageTrace, CausalTrace, Fact, NeuronAttribution, TracerError
from tracer.causal import selection

from .evidence import About, Evidence, by_neurons, by_sweep, by_trace, effect_of
from .located import MOST, SHARE, USING, Located, profile_of, suggest

if TYPE_CHECKING:
    from tracer import Model

LAST_SUBJECT = "last subject token"
OPTIONS = {
    "trace": ("window", "corruption", "metric", "max_rows"),
    "neurons": ("steps", "rule", "site", "threshold", "max_rows"),
}


def locate(
    model: Model,
    fact: About | Sequence[About],
    using: Literal["trace", "neurons", "sweep"] = "trace",
    *,
    layers: Sequence[int] | None = None,
    share: float | None = None,
    most: int = MOST,
    **options: Any,
) -> Located:
    """Which layers to write at to edit ``fact``, and the evidence layer by layer.

    fact: a :class:`tracer.Fact`, an :class:`EditRequest`, a record of CounterFact or FactWorld, or a list of these,
        whose mean counts. Of a request the fact as it is (``target_true``) is traced, or without one what the model
        says. Facts whose target the model does not say are left out of traces and neurons, and listed.
    using: "trace": restore the MLPs' outputs around each layer at the subject's last token
        (:func:`tracer.causal_trace`, kind "mlp"), and take the layer at the middle that brings most back. Options:
        ``window`` (None: 10 of 48 layers, as published for GPT-2 XL, in proportion, and odd, so that the layer is its
        middle: 1 of 8, 3 of 12, 5 of 24, 7 of 32), ``corruption``, ``metric``, ``max_rows``.
        "neurons": attribute the answer to the neurons at the subject's last token (:func:`tracer.attribute_neurons`,
        integrated gradients) and take the layer with most. Options: ``steps``, ``rule`` ("gauss"), ``site``,
        ``threshold`` (of the highest score, for the count), ``max_rows``.
        "sweep": edit at every layer and measure; takes requests or records. Options: ``method`` ("rome");
        ``paraphrases`` and ``neighbours``, prompts with their subjects (of several requests one list each; records
        bring theirs along, and those of FactWorld's own facts are known); ``by``, "preferred" or "greedy" (see
        :func:`editing.scores.edit_scores`; None: preferred, unless an answer to compare with is neither given nor
        to be had from the model); ``max_rows``, ``known`` and hyper-parameters of the method. What there are no
        prompts for is not measured (nan).
    layers: measure these only.
    share, most: the window is the range of layers around the best that have at least this share of its value (None:
        0.8, of a sweep 0.95), and at most this many; see :func:`editing.located.suggest`.

    The model is left as it was found. Raises TracerError for options that ``using`` does not take, no facts, facts of
    which the model knows none, and as the functions named do.
    """
    if using not in USING:
        raise TracerError(f"using is {using!r}; expected one of {', '.join(map(repr, USING))}")
    unfit = [name for name in options if using in OPTIONS and name not in OPTIONS[using]]
    if unfit:
        known = ", ".join(OPTIONS[using])
        raise TracerError(f"locate with using={using!r} takes no {unfit[0]!r}; its options are {known}")
    columns = selection("layers", layers, model.n_layers)
    items: list[Any] = list(fact) if isinstance(fact, list | tuple) else [fact]
    if not items:
        raise TracerError("there is no fact to locate; give a Fact, an EditRequest, a record, or a list of these")
    changing, model = model, model.pinned()
    measure = {"trace": by_trace, "neurons": by_neurons, "sweep": by_sweep}[using]
    found: Evidence = measure(model, items, columns, **options)
    if changing.fingerprint() != model.fingerprint():
        raise TracerError(f"the weights of {model.name} changed while layers were measured; locate again")
    identity = {"model": model.name, "n_layers": model.n_layers, "fingerprint": model.fingerprint()}
    return Located.of(using, found.arrays, share=share, most=most, **found.more, **identity)


def layers_from(given: Any, *, single: bool, model: Model) -> tuple[int, ...]:
    """The layers that a result speaks for: the best alone (``single``), or the range around it.

    given: a :class:`Located`; a :class:`tracer.CausalTrace` or :class:`tracer.AverageTrace` of kind "mlp" or "hidden"
        (their effect at the subject's last token counts); a :class:`tracer.NeuronAttribution` at that token (the
        scores summed per layer count); or a list of traces or of attributions of several facts, whose mean counts.

    Raises TracerError for anything else, a result of another model or of other weights, and one that does not cover
    the subject's last token or in which no layer has an effect.
    """
    if isinstance(given, Located):
        _check_model(given, model)
        return given.layers[:1] if single else given.window
    several: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    kinds = {type(each) for each in several}
    if len(kinds) != 1 or not issubclass(next(iter(kinds)), CausalTrace | AverageTrace | NeuronAttribution):
        named = ", ".join(sorted(each.__name__ for each in kinds)) or "nothing"
        raise TracerError(
            f"locate got {named}; expected a Located, a CausalTrace, an AverageTrace or a NeuronAttribution, or a list "
            "of traces or of attributions"
        )
    profiles = []
    for each in several:
        _check_model(each, model)
        profiles.append(_mass(each, model) if isinstance(each, NeuronAttribution) else _effect(each, model))
    profile = profile_of("trace", {"effect": np.stack(profiles)})
    if not np.nanmax(profile) > 0:
        raise TracerError("no layer of the result has an effect above zero, so that none is better; name the layers")
    layers, window = suggest(profile, SHARE["trace"])
    return layers[:1] if single else window


def _effect(given: CausalTrace | AverageTrace, model: Model) -> np.ndarray:
    """[layers]: the effect at the subject's last token, towards the clean run."""
    if given.kind not in ("mlp", "hidden") or given.sever is not None:
        what = f"of kind {given.kind!r}" + (f" with {given.sever} severed" if given.sever else "")
        raise TracerError(
            f"a trace {what} does not say which MLP to write to; trace kind='mlp' or 'hidden' without severed paths"
        )
    if isinstance(given, CausalTrace):
        if given.subject_range[1] - 1 not in given.positions:
            raise TracerError(
                f"the trace of {given.prompt!r} lacks the subject's last token; trace all tokens, or 'subject_last'"
            )
        return effect_of(given, model.n_layers)
    profile = np.full(model.n_layers, np.nan)
    effect = given.effect[given.classes.index(LAST_SUBJECT)]
    if np.isnan(effect).all():
        raise TracerError("the average lacks the subjects' last tokens; trace all tokens, or 'subject_last'")
    profile[list(given.layers)] = effect * (-1 if given.metric == "kl" else 1)
    return profile


def _mass(given: NeuronAttribution, model: Model) -> np.ndarray:
    """[layers]: the attribution at the subject's last token, summed over neurons."""
    if given.method != "integrated_gradients":
        raise TracerError(
            f"scores by {given.method} do not add up over neurons; attribute with method='integrated_gradients'"
        )
    last = Fact(given.prompt, given.subject).align(model).subject_range[1] - 1
    if given.positions != (last,):
        raise TracerError(
            f"the neurons of {given.prompt!r} act at tokens {list(given.positions)}, and an edit writes at the "
            f"subject's last, {last}; attribute with token='subject_last'"
        )
    return given.scores.sum(1)


def _check_model(given: Any, model: Model) -> None:
    if given.fingerprint != model.fingerprint():
        raise TracerError(
            f"the {type(given).__name__} is of other weights ({given.model}, {given.fingerprint[:12]}) than "
            f"{model.name} has now ({model.fingerprint()[:12]}); make it again on this model, or name the layers"
        )
