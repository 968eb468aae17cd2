"""Choice of layers to write at: from a causal trace, knowledge neurons, changes, or a sweep of edits.

The layers that recall a fact and those at which an edit of it works best need not be the same: in GPT-J the one says
next to nothing about the other (Hase et al., "Does Localization Inform Editing?", 2023). So the evidence is kept apart,
each kind says which it is, and [`editing.plot_locate`][] shows them side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from editing.layers.located import MOST, USING, Located
from tracer.errors import LocateError, WeightsChanged
from tracer.tracing.causal import selection

from .evidence import About, Evidence, by_change, by_neurons, by_sweep, by_trace

if TYPE_CHECKING:
    from tracer.model import Model

OPTIONS = {
    "trace": ("window", "corruption", "metric", "max_rows"),
    "neurons": ("steps", "rule", "site", "threshold", "max_rows"),
}


def locate(
    model: Model,
    fact: About | Sequence[About],
    using: Literal["trace", "neurons", "change", "sweep"] = "trace",
    *,
    layers: Sequence[int] | None = None,
    share: float | None = None,
    most: int = MOST,
    **options: Any,
) -> Located:
    """Locate the layers at which to edit a fact, with the evidence layer by layer.

    The model is left as it was found.

    Args:
        model: to be edited.
        fact: a [`tracer.Fact`][], an [`editing.EditRequest`][], a record of CounterFact or FactWorld, or a list of
            these, whose mean counts. Of a request the fact as it is (`target_true`) is traced, or without one the
            model's answer. Facts whose target the model does not say are left out of traces and neurons, and listed.
        using: "trace": restore the MLPs' outputs around each layer at the subject's last token
            ([`tracer.causal_trace`][], kind "mlp"), and take the layer at the middle that brings most back. Options:
            `window` (None: as for [`tracer.causal_trace`][]), `corruption`, `metric`, `max_rows`. "neurons": attribute
            the answer to the neurons at the subject's last token ([`tracer.attribute_neurons`][], integrated gradients)
            and take the layer with most. Options: `steps`, `rule` ("gauss"), `site`, `threshold` (of the highest score,
            for the count), `max_rows`. "change": let ROME write at every layer, and take the one whose weight has to
            change least of those at which the edit works (the rule of the method "wilke"); takes requests or records.
            Options: `max_rows`, `known` and hyper-parameters of "wilke". "sweep": edit at every layer and measure;
            takes requests or records. Options: `method` ("rome"); `paraphrases` and `neighbours`, prompts with their
            subjects (of several requests one list each; records bring theirs along, and those of FactWorld's own facts
            are known) or `questions`, an [`editing.Probes`][] for each request; `by`, "preferred" or "greedy" (see
            `editing.edit_scores`; None: preferred, unless an answer to compare with is neither given nor available from
            the model); `max_rows`, `known` and hyper-parameters of the method. Measures without prompts are not
            measured (nan).
        layers: measure these only.
        share: the window is the range of layers around the best that have at least this share of its value (None: 0.8,
            of a sweep 0.95); see [`editing.layers.located.suggest`][].
        most: layers of the window at most.
        options: of the chosen kind of evidence, see `using`.

    Raises:
        TracerError: options that `using` does not take, no facts, no fact that the model knows, and as the functions
            named do.
    """
    if using not in USING:
        raise LocateError(f"using is {using!r}; expected one of {', '.join(map(repr, USING))}")
    unfit = [name for name in options if using in OPTIONS and name not in OPTIONS[using]]
    if unfit:
        known = ", ".join(OPTIONS[using])
        raise LocateError(f"locate with using={using!r} takes no {unfit[0]!r}; its options are {known}")
    columns = selection("layers", layers, model.n_layers)
    items: list[Any] = list(fact) if isinstance(fact, list | tuple) else [fact]
    if not items:
        raise LocateError("there is no fact to locate; give a Fact, an EditRequest, a record, or a list of these")
    changing, model = model, model.pinned()
    measure = {"trace": by_trace, "neurons": by_neurons, "change": by_change, "sweep": by_sweep}[using]
    found: Evidence = measure(model, items, columns, **options)
    if changing.fingerprint() != model.fingerprint():
        raise WeightsChanged(f"the weights of {model.name} changed while layers were measured; locate again")
    identity = {"model": model.name, "n_layers": model.n_layers, "fingerprint": model.fingerprint()}
    return Located.of(using, found.arrays, share=share, most=most, **found.more, **identity)
