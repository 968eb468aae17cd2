"""Evidence of [`editing.localisation.choose.locate`][], layer by layer: traces, neurons, edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from editing.covariance.default import covariance_for
from editing.layers.from_result import effect_of
from editing.methods.compute import Known, compute_edits, method_named, settings_of
from editing.methods.method import Method
from editing.questions.gather import with_prompts
from editing.questions.measures import By, edit_scores
from editing.questions.probes import Probes
from editing.request import EditRequest, as_requests
from tracer.engine.answer import knows
from tracer.errors import AverageError, LocateError, OneOfSeveral, TracerError
from tracer.facts.fact import Fact
from tracer.neurons.attribution import NeuronAttribution
from tracer.neurons.selection import attribute_neurons
from tracer.progress import track
from tracer.tracing.case import default_window
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise

if TYPE_CHECKING:
    from tracer.model import Model

About = Fact | EditRequest | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Measurements for F facts.

    Attributes:
        arrays: [F, layers] by name.
        more: other fields of a `Located`.
    """

    arrays: dict[str, np.ndarray]
    more: dict[str, Any]


def by_trace(
    model: Model,
    given: Sequence[Any],
    layers: tuple[int, ...],
    *,
    window: int | None = None,
    corruption: Any = None,
    metric: str = "prob",
    max_rows: int | None = None,
) -> Evidence:
    """Effects of restoring MLP outputs at the subject's last token.

    Args:
        model: to trace.
        given: facts, requests or records.
        layers: to measure.
        window: number of layers restored together; None: `default_window`.
        corruption: as of [`tracer.causal_trace`][].
        metric: as of [`tracer.causal_trace`][].
        max_rows: most rows in a forward; None: by memory.
    """
    facts, unknown = _known(model, given)
    window = default_window(model.n_layers) if window is None else window
    corruption = GaussianNoise() if corruption is None else corruption
    if hasattr(corruption, "measured"):  # once for all
        corruption = corruption.measured(model)
    same: dict[str, Any] = {"kind": "mlp", "window": window, "metric": metric}
    more: dict[str, Any] = {"corruption": corruption, "layers": layers, "tokens": "subject_last", "max_rows": max_rows}
    traces = [causal_trace(model, fact, **same, **more) for fact in track(facts, "tracing facts")]
    own = traces[0].corruption  # fields that differ by fact, such as other subjects, are left out
    shared = {key: value for key, value in own.items() if all(t.corruption.get(key) == value for t in traces)}
    effect = np.stack([effect_of(trace, model.n_layers) for trace in traces])
    return Evidence(
        {"effect": effect},
        {
            **_about(facts, [trace.answer for trace in traces], unknown),
            "settings": {**same, "corruption": shared},
        },
    )


def by_neurons(
    model: Model,
    given: Sequence[Any],
    layers: tuple[int, ...],
    *,
    steps: int = 20,
    rule: Any = "gauss",
    site: Any = "post",
    threshold: float = 0.2,
    max_rows: int | None = None,
) -> Evidence:
    """Attributions to the neurons at the subject's last token.

    Args:
        model: to attribute in.
        given: facts, requests or records.
        layers: to measure.
        steps: as of [`tracer.attribute_neurons`][].
        rule: as of [`tracer.attribute_neurons`][].
        site: as of [`tracer.attribute_neurons`][].
        threshold: of the highest score, for the count.
        max_rows: most rows in a forward; None: by memory.
    """
    facts, unknown = _known(model, given)
    arrays = {name: np.full((len(facts), model.n_layers), np.nan) for name in ("mass", "count")}
    columns = list(layers)
    answers = []
    for row, fact in enumerate(track(facts, "attributing neurons")):
        found: NeuronAttribution = attribute_neurons(
            model, fact, steps, rule=rule, site=site, token="subject_last", max_rows=max_rows
        )
        arrays["mass"][row, columns] = found.scores.sum(1)[columns]
        arrays["count"][row, columns] = found.per_layer(threshold)[columns]
        answers.append(found.answer)
    settings = {"method": found.method, "steps": steps, "rule": rule, "site": site, "threshold": threshold}
    return Evidence(arrays, {**_about(facts, answers, unknown), "settings": settings})


def by_sweep(
    model: Model,
    given: Sequence[Any],
    layers: tuple[int, ...],
    *,
    method: str = "rome",
    by: By | None = None,
    paraphrases: Any = None,
    neighbours: Any = None,
    questions: Sequence[Probes] | None = None,
    max_rows: int | None = None,
    known: Known = "refuse",
    **hparams: Any,
) -> Evidence:
    """Scores of edits made at each layer alone.

    Args:
        model: to edit.
        given: requests or records.
        layers: to measure.
        method: its name.
        by: as of `editing.edit_scores`.
        paraphrases: prompts with their subjects.
        neighbours: prompts with their subjects.
        questions: about each request, in place of `paraphrases`, `neighbours` and those of records.
        max_rows: most rows in a forward; None: by memory.
        known: as of [`editing.compute_edit`][].
        hparams: of the method.
    """
    found = method_named(method)
    if found.layers == "none" or "layers" in hparams:
        raise LocateError(
            f"a sweep gives {found.name} its layers"
            + (", and it takes none; choose another method" if found.layers == "none" else "; name them in layers=")
        )
    if questions is None:
        requests, probes = with_prompts(model, given, paraphrases, neighbours)
    else:
        requests, probes = list(as_requests(given)), list(questions)
        if len(requests) != len(probes):
            raise LocateError(f"there are {len(requests)} requests and questions about {len(probes)}; give one each")
    if by is None:
        open_ = any(question.true is None for probe in probes for question in probe.questions)
        by = "greedy" if open_ else "preferred"
    unedited = edit_scores(model, probes, by, max_rows=max_rows)
    hparams = {**_covariance(model, found, hparams, layers), **hparams}
    groups = [[request] for request in requests]
    arrays = {name: np.full((len(probes), model.n_layers), np.nan) for name in unedited}
    settings: Mapping[str, Any] = {}
    for layer in track(layers, "editing at each layer"):
        edits = compute_edits(model, groups, method, known=known, check=None, layers=(layer,), **hparams)
        for row, (edit, probe) in enumerate(zip(edits, probes, strict=True)):
            settings = edit.settings
            with edit.applied(model):
                for name, value in edit_scores(model, [probe], by, max_rows=max_rows).items():
                    arrays[name][row, layer] = value[0]
    plain = {name: value for name, value in settings.items() if name != "layers"}
    return Evidence(
        arrays,
        {
            **_about([request.fact for request in requests], [request.fact.target for request in requests], []),
            "settings": {"method": found.name, "by": by, "hparams": plain},
            "unedited": unedited,
        },
    )


def by_change(
    model: Model,
    given: Sequence[Any],
    layers: tuple[int, ...],
    *,
    max_rows: int | None = None,
    known: Known = "refuse",
    **hparams: Any,
) -> Evidence:
    """How much ROME has to change each layer's weight, and where it works: what WILKE chooses by.

    Args:
        model: to edit.
        given: requests or records.
        layers: to measure.
        max_rows: most rows in a forward; None: by memory.
        known: as of [`editing.compute_edit`][].
        hparams: of the method "wilke".
    """
    requests = list(as_requests(given))
    groups = [[request] for request in requests]
    more: dict[str, Any] = {"known": known, "check": None, "max_rows": max_rows}
    edits = compute_edits(model, groups, "wilke", layers=layers, **more, **hparams)
    arrays = {name: np.full((len(requests), model.n_layers), np.nan) for name in ("ease", "change")}
    for row, edit in enumerate(edits):
        assert edit.evidence is not None
        change, works = (edit.evidence[name][0].double().numpy() for name in ("change", "works"))
        arrays["change"][row, list(layers)] = change
        easy = (works > 0) & (change > 0)
        arrays["ease"][row, list(layers)] = np.divide(1.0, change, out=np.zeros(len(change)), where=easy)
    plain = {name: value for name, value in edit.settings.items() if name != "layers"}
    about = _about([request.fact for request in requests], [request.fact.target for request in requests], [])
    return Evidence(arrays, {**about, "settings": {"method": "rome", "hparams": plain}})


def _covariance(model: Model, method: Method, hparams: dict[str, Any], layers: tuple[int, ...]) -> dict[str, Any]:
    """Covariances of all layers from one pass over the text, where the method needs them and they are not given."""
    settings = settings_of(method, hparams)
    if "covariance" not in method.needs or not settings.weighs_old_keys or hparams.get("covariance") is not None:
        return {}
    return {"covariance": covariance_for(model, layers, hparams.get("origin"))}


def _known(model: Model, given: Sequence[Any]) -> tuple[list[Fact], list[str]]:
    """Facts as they are that the model knows, and the prompts of those that it does not."""
    facts = [_as_it_is(place, item) for place, item in enumerate(given)]
    says = [knows(model, fact) for fact in facts]
    known = [fact for fact, said in zip(facts, says, strict=True) if said]
    unknown = [fact.text for fact, said in zip(facts, says, strict=True) if not said]
    if not known:
        some = ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
        raise AverageError(
            f"the model knows none of the facts ({some}); give facts it knows, or leave out the true targets to take "
            "what it says itself"
        )
    return known, unknown


def _as_it_is(place: int, item: Any) -> Fact:
    """A fact before any edit: of a request its true target, or without a target."""
    if isinstance(item, Fact):
        return item
    try:
        request = EditRequest.of(item)
    except TracerError as error:
        raise OneOfSeveral(f"fact {place}: {error}") from error
    return request.about(request.target_true)


def _about(facts: Sequence[Fact], answers: Sequence[str | None], unknown: Sequence[str]) -> dict[str, Any]:
    return {
        "prompts": tuple(fact.text for fact in facts),
        "subjects": tuple(fact.subject for fact in facts),
        "answers": tuple(answers),
        "unknown": tuple(unknown),
    }
