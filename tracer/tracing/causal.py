"""Causal tracing: which states, put back into a corrupted run, bring the answer back.

Follows Meng et al., "Locating and Editing Factual Associations in GPT" (2022), number for number: same noise, same
restored states, same windows, same score. The runs themselves are made by `tracer.tracing.grid` and
[`tracer.sweep`][].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import torch

from tracer.engine.layout import Stack
from tracer.engine.row_budget import check_max_rows
from tracer.errors import OutOfRange
from tracer.facts.prompt import source_length
from tracer.facts.readout import Readout

from .case import KINDS, Case, Setting, measured, window_layers
from .corruption import Corruption, GaussianNoise
from .grid import Grid

if TYPE_CHECKING:
    from tracer.facts.fact import Alignment, Fact
    from tracer.model import Model

    from .trace import CausalTrace

__all__ = ["KINDS", "causal_trace", "window_layers"]

Kind = Literal["hidden", "mlp", "attn", "cross"]
Sever = Literal["mlp", "attn", "cross"]
Tokens = Iterable[int] | Literal["subject_last"] | None


@overload
def causal_trace(
    model: Model,
    fact: Fact,
    *,
    kind: Kind = ...,
    window: int | None = ...,
    corruption: Corruption = ...,
    metric: str = ...,
    foil: str | None = ...,
    sever: Sever | None = ...,
    published_noise: bool = ...,
    layers: Iterable[int] | None = ...,
    tokens: Tokens = ...,
    stack: Stack | None = ...,
    max_rows: int | None = ...,
) -> CausalTrace: ...


@overload
def causal_trace(
    model: Model,
    fact: Fact,
    *,
    metric: list[str] | tuple[str, ...],
    kind: Kind = ...,
    window: int | None = ...,
    corruption: Corruption = ...,
    foil: str | None = ...,
    sever: Sever | None = ...,
    published_noise: bool = ...,
    layers: Iterable[int] | None = ...,
    tokens: Tokens = ...,
    stack: Stack | None = ...,
    max_rows: int | None = ...,
) -> list[CausalTrace]: ...


def causal_trace(
    model: Model,
    fact: Fact,
    *,
    kind: Kind = "hidden",
    window: int | None = None,
    corruption: Corruption = GaussianNoise(),  # noqa: B008 (frozen)
    metric: str | Sequence[str] = "prob",
    foil: str | None = None,
    sever: Sever | None = None,
    published_noise: bool = False,
    layers: Iterable[int] | None = None,
    tokens: Tokens = None,
    stack: Stack | None = None,
    max_rows: int | None = None,
) -> CausalTrace | list[CausalTrace]:
    """Restore clean states one site at a time in runs with a corrupted subject, and measure the answer.

    The model is left as it was found.

    Args:
        model: the model.
        fact: the fact.
        kind: what is restored at cell (token, layer). "hidden": the output of that block. "mlp", "attn": the
            contribution of the MLP (attention) in `window` blocks around that layer. Where both read the same residual
            stream (`model.parallel`) the kinds are the same three: block output, MLP output alone, attention output
            alone. "cross", in a decoder: that of its cross-attention.
        window: blocks restored together for all but "hidden": `layer - window // 2` up to, not including, `layer +
            (window + 1) // 2`, clipped at the model's ends; None: a third of the depth, at most 10 (published: 10).
        corruption: see [`tracer.GaussianNoise`][], [`tracer.UniformNoise`][], [`tracer.TokenReplacement`][]. Scores are
            means over its samples.
        metric: the measure of the answer, or several names for a list of traces from the same runs. "prob": the
            probability of the whole answer, which is `fact.target`, or without one the token that the clean run finds
            most probable. A target is traced whether or not it is the model's own answer; `note` tells. "log_prob": its
            logarithm. "logit_diff": the answer's logit less that of the `foil`, where the two part.
            "normalised_logit_diff": the same, on the scale on which the corrupted run is 0 and the clean run 1.
            "log_prob_diff": the log-probability of the whole answer less that of the whole foil, each in its own text
            (the bias trace of Xu et al. 2025, "BiasEdit"). "kl": the divergence KL(clean || restored) of the
            predictions at the answer, so that 0 is the clean run and effects are negative where restoring helps.
        foil: the wrong answer of a difference; None: what the corrupted run finds most probable instead.
        sever: with kind "hidden", keep what the MLPs ("mlp") or the attentions ("attn") of the restored token
            contribute as in the corrupted run, in every layer, so that the restored state acts without them (the
            paper's figure 3). "cross": those of cross-attention, for a restored state of the decoder at its own step,
            for one of the encoder at every step, which nothing from the source passes then.
        published_noise: the published severed trace takes the severed outputs from a run with other noise than the one
            they are put into; True does the same, to reproduce its numbers. Nothing else changes.
        layers: compute these columns only.
        tokens: compute these rows only ("subject_last": the subject's last token).
        stack: of an encoder-decoder model, whose states are restored: "encoder" (also None), rows are the source's
            tokens; "decoder", rows are its steps, from the start token to the last but one of the answer. The subject
            is corrupted in the encoder in both. Layers and tokens are counted through ([`tracer.Model.stacks`][]).
        max_rows: most rows in any forward; by default as many as free memory takes. No effect on
            numbers.

    Raises:
        TracerError: settings out of range, a prompt that cannot be aligned or is too long, a foil that begins like the
            answer, a replacement that does not fit, a logit difference that is the same in both runs and should be
            normalised, and a model whose output is not a number.
    """
    setting = Setting.checked(kind, window, metric, foil, sever, model.n_layers, model.stacks, stack)
    check_max_rows(max_rows)
    alignment = fact.align(model)
    columns = selection("layers", layers, setting.within)
    rows = token_selection(model, tokens, alignment, setting.stack)

    def run(alignment: Alignment, setting: Setting) -> tuple[Case, np.ndarray]:
        grid = Grid.run(model, fact, alignment, setting, corruption, published_noise, max_rows)
        return grid.case, grid.scores(rows, columns, max_rows)

    with torch.no_grad():
        case, scores = measured(run, alignment, setting)
    traces = case.traces(scores, rows, columns)
    return traces[0] if isinstance(metric, str) else traces


def token_selection(model: Model, tokens: Tokens, alignment: Alignment, stack: str | None = None) -> tuple[int, ...]:
    """The rows of a trace: tokens of the prompt, or those that a stack has states of."""
    chosen = [alignment.subject_range[1] - 1] if tokens == "subject_last" else tokens
    among = range(len(alignment.input_ids))
    if stack is not None:
        source = source_length(model, alignment.input_ids)
        ids = Readout.of(model, alignment).ids
        among = range(source) if stack == "encoder" else range(source, len(ids))
    return selection("tokens", chosen, among)


def selection(name: str, chosen: Iterable[int] | str | None, size: int | range) -> tuple[int, ...]:
    """Chosen indices as a tuple, all of them for None; in order, each once, and inside the range (from 0 to `size`)."""
    among = size if isinstance(size, range) else range(size)
    if chosen is None:
        return tuple(among)
    low, high = among[0], among[-1]
    if isinstance(chosen, str) or not isinstance(chosen, Iterable):
        raise OutOfRange(f"{name}={chosen!r}: expected numbers from {low} to {high}, such as {name}=[{low}]")
    found = tuple(int(index) if isinstance(index, int | np.integer) else -1 for index in chosen)
    if not found:
        raise OutOfRange(f"{name} is an empty selection; expected numbers from {low} to {high}, or None for all")
    if any(index not in among for index in found):
        raise OutOfRange(f"{name}={list(found)} is out of range; expected numbers from {low} to {high}")
    if len(set(found)) < len(found):
        raise OutOfRange(f"{name}={list(found)} names one twice; name each once")
    return found
