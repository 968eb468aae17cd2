"""Causal tracing over many facts, as in the paper's figure 2, and so that it can be interrupted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tracer.engine.row_budget import check_max_rows
from tracer.errors import AverageError, FoilError, OneOfSeveral, TracerError, TraceSettingError, WeightsChanged
from tracer.facts.fact import Fact
from tracer.progress import track
from tracer.statistics import check_bootstrap

from .average_trace import CLASSES, AverageTrace
from .case import Setting, row_tokens
from .causal import Kind, Sever, causal_trace, selection
from .corruption import Corruption, GaussianNoise
from .member import Case, traced
from .parallel import trace_missing
from .store import TraceStore
from .trace import CausalTrace

if TYPE_CHECKING:
    from tracer.model import Model

__all__ = ["CLASSES", "AverageTrace", "average_traces"]


def average_traces(
    model: Model,
    facts: Iterable[Fact],
    *,
    kind: Kind = "hidden",
    window: int | None = None,
    corruption: Corruption = GaussianNoise(),  # noqa: B008 (frozen)
    metric: str = "prob",
    foil: str | Sequence[str | None] | None = None,
    sever: Sever | None = None,
    published_noise: bool = False,
    layers: Iterable[int] | None = None,
    tokens: Literal["subject_last"] | None = None,
    max_rows: int | None = None,
    folder: str | Path | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    trace: Callable[..., CausalTrace] = causal_trace,
    workers: int = 1,
    cluster: str | None = None,
) -> AverageTrace:
    """Trace every fact the model knows and average by class of token.

    Of an encoder-decoder model the encoder is traced, whose tokens have these classes.

    Args:
        model: the model.
        facts: a fact with a target that is not the model's own greedy answer is left out and listed in `unknown`; one
            without a target is known. A fact given twice (same prompt, subject and target) is used once.
        kind: as for [`tracer.causal_trace`][].
        window: as for `causal_trace`.
        corruption: as for `causal_trace`. The noise level is measured once.
        metric: as for `causal_trace`, one name.
        foil: for logit differences, one wrong answer for all facts, or one for each.
        sever: as for `causal_trace`.
        published_noise: as for `causal_trace`.
        layers: as for `causal_trace`.
        tokens: "subject_last" traces the subject's last token only.
        max_rows: as for `causal_trace`.
        folder: keep each finished trace there at once. Called again with the same settings, after an interruption of
            any kind or with more facts, only what is missing is traced, and the result is the same to the bit. Several
            processes may use one folder: give each a part of the facts, and gather them by a last call with all. The
            intervals' settings and `max_rows` (on which last digits depend) may differ from call to call.
        confidence: probability that the intervals should cover (`tracer.statistics.bootstrap`).
        resamples: draws of the intervals' bootstrap.
        seed: seed of these draws.
        trace: the function that makes a fact's trace, with the arguments and the result of `causal_trace`. It is told
            apart from others by its name.
        workers: trace in so many processes of this machine, see [`tracer.runs.run`][]. Each loads the model by its
            name. The result is the same to the bit where the threads per worker are the same.
        cluster: trace on a Ray cluster, see [`tracer.runs.run`][].

    Returns:
        The average; see [`tracer.tracing.average_trace.AverageTrace`][] for its contents.

    Raises:
        TracerError: settings out of range; no facts, anything but facts, or facts that are all unknown to the model; a
            fact that cannot be traced (naming it); a folder that cannot be written, belongs to another run, or holds a
            foreign file; workers that cannot load the model as it is.
    """
    check_bootstrap(resamples, confidence, seed)
    check_max_rows(max_rows)
    cases = _cases(model, facts, foil)
    (setting, *_) = (
        Setting.checked(kind, window, _one(metric), case.foil, sever, model.n_layers, model.stacks) for case in cases
    )
    window = setting.window
    if tokens not in (None, "subject_last"):
        raise TraceSettingError(f"tokens is {tokens!r}; expected 'subject_last' or None: each fact has its own tokens")
    columns = selection("layers", layers, setting.within)
    if hasattr(corruption, "measured"):
        corruption = corruption.measured(model)  # type: ignore[attr-defined]
    settings: dict[str, Any] = {"kind": kind, "window": window, "corruption": corruption, "metric": metric}
    more = {"sever": sever, "published_noise": published_noise, "tokens": tokens, "max_rows": max_rows}
    settings |= {name: value for name, value in more.items() if value}  # a trace function may lack those left out
    if layers is not None:
        settings["layers"] = columns
    changing, model = model, model.pinned()
    traces, unknown = [], []
    with ExitStack() as held:
        shared = workers != 1 or cluster is not None
        if shared and folder is None:
            folder = held.enter_context(tempfile.TemporaryDirectory(prefix="tracer-traces-"))
        store = None
        if folder is not None:
            store = TraceStore.open(folder, model, settings | {"layers": columns}, foil, trace)
            model = model.pinned(store.settings["fingerprint"])  # a run goes on with the kind it began with
        if shared and store is not None:
            trace_missing(store, model, cases, settings, trace, workers, cluster)
        for case in track(cases, "tracing facts"):
            try:
                found = store.find(*case.kept()) if store else None
                if found is None:
                    found = traced(model, case, settings, trace)
                    if store:
                        store.keep(case.identity(), found)
            except TracerError as error:
                raise case.named(error) from error
            if isinstance(found, CausalTrace):
                traces.append(found)
            else:
                unknown.append(case.fact.text)
    if changing.fingerprint(model.fingerprint()) != model.fingerprint():
        raise WeightsChanged(f"the weights of {model.name} changed while facts were traced; trace them again")
    if not traces:
        some = ", ".join(repr(text) for text in unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise AverageError(
            f"the model knows none of the {len(unknown)} facts ({some}); give facts it knows, or leave out their "
            "targets to trace what it says itself"
        )
    return AverageTrace.of(traces, unknown, confidence=confidence, resamples=resamples, seed=seed)


def _cases(model: Model, facts: Iterable[Fact], foil: str | Sequence[str | None] | None) -> list[Case]:
    """The facts, each once, aligned before anything is run."""
    if isinstance(facts, str | Fact) or not isinstance(facts, Iterable):
        raise AverageError(f"facts is {facts!r}; expected several facts, such as a list of Fact")
    facts = list(facts)
    if not facts:
        raise AverageError("there are no facts to average over; expected at least one")
    foils: Sequence[str | None] = [foil] * len(facts) if foil is None or isinstance(foil, str) else list(foil)
    if len(foils) != len(facts):
        raise FoilError(f"there are {len(foils)} foils for {len(facts)} facts; expected one for each, or one for all")
    cases: dict[str, Case] = {}
    for index, (fact, wrong) in enumerate(zip(facts, foils, strict=True)):
        if not isinstance(fact, Fact):
            raise AverageError(f"entry {index} of facts is {fact!r}; expected a Fact(prompt, subject, target)")
        if not isinstance(wrong, str | None):
            raise FoilError(f"the foil of fact {index} is {wrong!r}; expected text or None")
        try:
            case = Case(index, fact, wrong, row_tokens(model, fact.align(model)))
        except TracerError as error:
            raise OneOfSeveral(f"fact {index}: {error}") from error
        cases.setdefault(json.dumps(case.identity()), case)
    return list(cases.values())


def _one(metric: Any) -> str:
    if not isinstance(metric, str):
        raise TraceSettingError(
            f"metric is {metric!r}; expected one name: averages of several metrics are several calls"
        )
    return metric
