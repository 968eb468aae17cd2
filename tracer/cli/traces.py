"""`tracer trace`: one fact, traced exactly or estimated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracer.errors import CommandOptionError, ReplacementError

from . import files, printing
from .command import (
    KINDS,
    METRICS,
    MODULES,
    Device,
    Formats,
    Kind,
    ModelName,
    Out,
    Prompt,
    Sever,
    Subject,
    Target,
    Window,
    apart,
    choices,
    command,
)

if TYPE_CHECKING:
    from tracer.facts.fact import Fact
    from tracer.model import Model
    from tracer.tracing.corruption import Corruption
    from tracer.tracing.trace import CausalTrace

AUTO = "auto"


@command
def trace(
    prompt: Prompt,
    subject: Subject,
    target: Target = None,
    model: ModelName = None,
    kind: Kind = "all",
    window: Window = None,
    metric: Annotated[
        str,
        typer.Option(help=f"Some of {METRICS}, with commas: from the same runs."),
    ] = "prob",
    foil: Annotated[
        str | None, typer.Option(help="Wrong answer of a difference; without it what the corrupted run says.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Noise samples to average over; without it 10.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; without it 1.")] = None,
    sigma: Annotated[
        float | None, typer.Option(help="Noise, in standard deviations of subject embeddings; without it 3.")
    ] = None,
    level: Annotated[float | None, typer.Option(help="Noise in absolute terms, instead of --sigma.")] = None,
    uniform: Annotated[bool, typer.Option("--uniform", help="Uniform noise instead of Gaussian.")] = False,
    other: Annotated[
        list[str] | None,
        typer.Option("--replace", help="Another subject instead of noise, or auto to find one; may be repeated."),
    ] = None,
    sever: Sever = None,
    estimate: Annotated[
        int | None,
        typer.Option(min=0, help="Estimate from gradients: at the corrupted run (0), or integrated over N steps."),
    ] = None,
    device: Device = None,
    out: Out = None,
    formats: Formats = "html",
) -> Any:
    """Corrupt the subject, restore one state at a time, and show where the answer comes back.

    tracer trace "The Space Needle is in downtown" -s "The Space Needle" --out figures

    tracer trace "{} plays the" -s "Miles Davis" --kind mlp --window 3 --samples 20 --metric prob,kl --json
    """
    from tracer.facts.fact import Fact
    from tracer.model import load
    from tracer.plots.export import writable_folder
    from tracer.tracing.case import Setting
    from tracer.tracing.metrics import NAMES, TRACE_METRICS

    kinds = choices("kind", kind, KINDS, everything="all")
    metrics = choices("metric", metric, NAMES)
    modules = [] if sever is None else choices("sever", sever, MODULES)
    suffixes = files.formats(formats)
    fact = Fact(prompt, subject, target)
    corruption = _corruption(samples, seed, sigma, level, uniform, other or [])
    Setting.checked("hidden", window, metrics, foil, None, n_layers=1)
    if foil is not None and not any(TRACE_METRICS[name].needs_foil for name in metrics):
        raise CommandOptionError("--foil is for differences; leave it out, or add --metric logit_diff")
    if estimate is not None and modules:
        raise CommandOptionError(
            "--sever and --estimate do not go together, since gradients sever no paths; leave one out"
        )
    # before the work, not after it
    with writable_folder(out) if out else nullcontext():
        loaded = load(model, device=device)
        settings = {
            "window": window,
            "metric": metrics,
            "foil": foil,
            "corruption": _resolved(corruption, loaded, fact, samples),
        }
        traces = _traces(loaded, fact, kinds, estimate, settings)
        severed = _severed(loaded, fact, modules, [t for t in traces if t.kind == "hidden"], settings)
        _print(traces)
        _print_severed(severed)
        written = files.placed(out, lambda folder: _write_all(traces, severed, folder, suffixes)) if out else []
        return {"traces": traces, "severed": severed, "wrote": printing.wrote(written)}


def _corruption(
    samples: int | None,
    seed: int | None,
    sigma: float | None,
    level: float | None,
    uniform: bool,
    names: list[str],
) -> Corruption:
    """The corruption that the options ask for."""
    from tracer.tracing.corruption import GaussianNoise, TokenReplacement, UniformNoise

    if names:
        noise = {"--seed": seed, "--sigma": sigma, "--level": level, "--uniform": uniform}
        apart(noise, "is about noise, and --replace takes its place; leave one of them out")
        if AUTO in names:
            if len(names) > 1:
                raise ReplacementError("--replace auto stands alone; give it once, or name the other subjects")
            return TokenReplacement(samples=1 if samples is None else samples)
        apart({"--samples": samples}, "is for noise and --replace auto; each subject named is one sample")
        return TokenReplacement(list(dict.fromkeys(names)))
    if level is not None:
        apart({"--sigma": sigma}, "and --level both say how strong the noise is; leave one of them out")
    return (UniformNoise if uniform else GaussianNoise)(
        sigma=3.0 if sigma is None else sigma,
        level=level,
        samples=10 if samples is None else samples,
        seed=1 if seed is None else seed,
    )


def _resolved(corruption: Any, model: Model, fact: Fact, samples: int | None) -> Corruption:
    """The same corruption; subjects to be found are looked for once and not again for every kind."""
    from tracer.tracing.corruption import TokenReplacement

    if not isinstance(corruption, TokenReplacement) or corruption.subject is not None:
        return corruption
    names = TokenReplacement.suggest(model, fact, corruption.samples)
    if not names:
        raise ReplacementError(f"no subject known here fits in the place of {fact.subject!r}; name one: --replace NAME")
    return TokenReplacement(names)


def _traces(
    model: Model, fact: Fact, kinds: Sequence[str], estimate: int | None, settings: dict[str, Any]
) -> list[CausalTrace]:
    """One per metric and kind, those of a metric together."""
    from tracer.tracing.attribution_patching import attribution_trace
    from tracer.tracing.causal import causal_trace

    found = []
    for kind in kinds:
        if estimate is None:
            found.append(causal_trace(model, fact, kind=kind, **settings))  # type: ignore[arg-type]
        else:
            found.append(attribution_trace(model, fact, kind=kind, steps=estimate or None, **settings))  # type: ignore[arg-type]
    return [trace for same_metric in zip(*found, strict=True) for trace in same_metric]


def _severed(
    model: Model, fact: Fact, modules: Sequence[str], ordinary: Sequence[CausalTrace], settings: dict[str, Any]
) -> list[list[CausalTrace]]:
    """Per metric the ordinary trace of hidden states and the severed ones, of the last subject token at least."""
    from tracer.tracing.causal import causal_trace

    if not modules:
        return []
    whole = list(ordinary) or causal_trace(model, fact, tokens="subject_last", **settings)
    parts = [causal_trace(model, fact, sever=module, tokens="subject_last", **settings) for module in modules]  # type: ignore[arg-type]
    return [list(traces) for traces in zip(whole, *parts, strict=True)]


def _name(trace: CausalTrace, traces: Sequence[CausalTrace], *parts: str) -> str:
    """A file's name: subject, parts, and the metric where there are several."""
    several = len({each.metric for each in traces}) > 1
    return "_".join([files.slug(trace.subject), *parts, *([trace.metric] if several else [])])


def _write_all(
    traces: Sequence[CausalTrace], severed: Sequence[Sequence[CausalTrace]], folder: Path, suffixes: Sequence[str]
) -> list[Path]:
    return [*_write(traces, folder, suffixes), *_write_severed(severed, folder, suffixes)]


def _write(traces: Sequence[CausalTrace], folder: Path, suffixes: Sequence[str]) -> list[Path]:
    from tracer.plots import plot_trace

    name = files.slug(traces[0].subject)
    singles = {_name(trace, traces, trace.kind): trace for trace in traces}
    return files.write(folder, name, suffixes, traces, singles, {name: lambda: plot_trace(traces)})


def _write_severed(groups: Sequence[Sequence[CausalTrace]], folder: Path, suffixes: Sequence[str]) -> list[Path]:
    from tracer.plots import plot_severed

    if not groups:
        return []
    traces = [trace for group in groups for trace in group]
    singles = {_name(t, traces, "severed", t.sever or "none"): t for t in traces}
    figures = {_name(group[0], traces, "severed"): lambda group=group: plot_severed(group) for group in groups}
    return files.write(folder, f"{files.slug(traces[0].subject)}_severed", suffixes, traces, singles, figures)


def _print(traces: Sequence[CausalTrace]) -> None:
    first = traces[0]
    printing.say(f"{first.prompt} → {first.answer.strip()}", style="bold")
    metrics = dict.fromkeys(trace.metric for trace in traces)
    for metric in metrics:
        some = [trace for trace in traces if trace.metric == metric]
        title = f"{_measure(some[0])}: " if len(metrics) > 1 else ""
        runs = f"clean {some[0].clean:.4f}   corrupted {some[0].corrupted:.4f}"
        printing.say(f"{title}{runs}   ({_settings(first)})")
        if metric == first.metric:
            printing.notes([first.note])
        _print_table(some)


def _print_table(traces: Sequence[CausalTrace]) -> None:
    """The strongest sites of traces with the same metric."""
    from tracer.plots import strongest_sites

    filled = printing.table("restored", "site", "token", *printing.right("layer", _measure(traces[0]), "effect"))
    for each in traces:
        restored = each.kind if each.kind == "hidden" else f"{each.kind}, {each.window} layers"
        for place, (token, layer) in zip(("peak", "best at subject"), strongest_sites(each), strict=False):
            score = float(each.scores[each.positions.index(token), each.layers.index(layer)])
            star = "*" if each.subject_range[0] <= token < each.subject_range[1] else ""
            label = printing.literal(f"{each.tokens[token].strip() or repr(each.tokens[token])}{star}")
            effect = f"{score - each.corrupted:+.4f}"
            filled.add_row(restored if place == "peak" else "", place, label, str(layer), f"{score:.4f}", effect)
    printing.show(filled)


def _print_severed(groups: Sequence[Sequence[CausalTrace]]) -> None:
    from tracer.tracing.metrics import trace_metric

    for group in groups:
        first = group[0]
        if len(groups) > 1:
            printing.say(f"{_measure(first)}:")
        token = first.subject_range[1] - 1
        rows = {trace.sever: [trace.effect[trace.positions.index(token)]] * 3 for trace in group}
        printing.severed(rows, first.layers, falling=trace_metric(first.metric).better == "lower")


def _measure(trace: CausalTrace) -> str:
    """The measure of the scores, in words."""
    import html

    from tracer.plots.labels import measure

    return html.unescape(measure(trace))


def _settings(trace: CausalTrace) -> str:
    """The corruption and the method in words."""
    from tracer.plots.labels import estimate

    settings = trace.corruption
    if "subjects" in settings:
        text = f"subject replaced by {', '.join(settings['subjects'])}"
    else:
        noise = "uniform noise up to" if settings["name"] == "UniformNoise" else "noise"
        text = f"{noise} {settings['level']:.4g}, {settings['samples']} samples, seed {settings['seed']}"
    return text if trace.method == "exact" else f"{text}; {estimate(trace.method)}"
