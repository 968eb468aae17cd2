"""Attribution patching: a causal trace's whole grid estimated from gradients, in two forwards and one backward.

To first order, restoring a state changes the metric by the gradient there times the change of the state (Nanda 2023;
Syed, Rager & Conmy 2023). One backward pass has the gradients at every site, so the estimate costs the same for any
number of cells. It is a screen: where the metric saturates between the corrupted and the clean run, as a probability
does, the gradient at the corrupted run tells little of the whole way. The integrated form takes the mean gradient over
runs whose embeddings lie between the two (Hanna et al. 2024, "EAP-IG").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tracer.checks import whole
from tracer.engine.batch import logits_of
from tracer.engine.branches import rows_of
from tracer.engine.frame import Frame, attach, evaluating
from tracer.engine.hooks import as_ids, frozen, intervene, keep_logits
from tracer.engine.memories import read_at
from tracer.engine.row_budget import check_max_rows, default_rows
from tracer.engine.sweep import check_numbers
from tracer.errors import TraceSettingError
from tracer.facts.readout import Readout
from tracer.inference import ordinary
from tracer.progress import track

from .case import Case, Setting, measured
from .causal import Kind, Stack, Tokens, selection, token_selection
from .corruption import Corrupted, Corruption, GaussianNoise

if TYPE_CHECKING:
    from tracer.facts.fact import Alignment, Fact
    from tracer.model import Model

    from .trace import CausalTrace


@ordinary()
def attribution_trace(
    model: Model,
    fact: Fact,
    *,
    kind: Kind = "hidden",
    window: int | None = None,
    corruption: Corruption = GaussianNoise(),  # noqa: B008 (frozen)
    metric: str | Sequence[str] = "prob",
    foil: str | None = None,
    sever: str | None = None,
    steps: int | None = None,
    layers: Iterable[int] | None = None,
    tokens: Tokens = None,
    stack: Stack | None = None,
    max_rows: int | None = None,
) -> CausalTrace | list[CausalTrace]:
    """Estimate the trace that [`tracer.causal_trace`][] would measure.

    Cell (t, l) is the corrupted score plus the mean over samples of `(clean state - corrupted state) . gradient`,
    summed over the layers of a window; what an earlier layer of the window does through a later one, which the exact
    trace cuts by restoring both, is counted here. `method` of the result is "attribution" or "integrated".

    The model is left as it was found, and its parameters get no gradients.

    Args:
        model: the model.
        fact: the fact.
        kind: as for `causal_trace`.
        window: as for `causal_trace`.
        corruption: as for `causal_trace`.
        metric: as for `causal_trace`.
        foil: as for `causal_trace`.
        sever: None only; paths cannot be severed here.
        steps: None for the gradient at the corrupted run alone. A number m for its mean over m runs with embeddings
            between corrupted and clean (at the middles of m equal parts of the way): m more forwards and backwards.
        layers: as for `causal_trace`.
        tokens: as for `causal_trace`.
        stack: as for `causal_trace`.
        max_rows: as for `causal_trace`.

    Raises:
        TracerError: as `causal_trace`, and for `steps` below 1 or severed paths.
    """
    if sever is not None:
        raise TraceSettingError(f"sever is {sever!r}, but gradients do not sever paths; use causal_trace")
    if steps is not None:
        expected = "a whole number of at least 1, or None"
        steps = whole("steps", steps, 1, kind=TraceSettingError, expected=expected)
    setting = Setting.checked(kind, window, metric, foil, None, model.n_layers, model.stacks, stack)
    check_max_rows(max_rows)
    alignment = fact.align(model)
    columns = selection("layers", layers, setting.within)
    rows = token_selection(model, tokens, alignment, setting.stack)

    def run(alignment: Alignment, setting: Setting) -> tuple[Case, np.ndarray]:
        readout = Readout.of(model, alignment)
        ids = as_ids(model, readout.ids)[0]
        wrong = corruption.corrupt(model, ids, alignment.subject_range, fact)
        limit = max_rows or default_rows(model, len(readout.ids), len(readout.read))
        with evaluating(model), frozen(model):
            runs = _Runs(model, wrong, readout.read, setting, max(1, limit - 1))  # the clean row runs along
            with torch.no_grad():
                case = Case.of(model, fact, alignment, setting, runs.logits(), wrong.settings)
            effect = runs.effects(case, steps)  # [metrics, T, n_layers]
        windows = [setting.restored(layer) for layer in columns]
        summed = np.stack([effect[:, rows][..., list(some)].sum(-1) for some in windows], axis=-1)
        return case, case.corrupted + np.moveaxis(summed, 0, -1)

    case, scores = measured(run, alignment, setting)
    traces = case.traces(scores, rows, columns, "attribution" if steps is None else "integrated")
    return traces[0] if isinstance(metric, str) else traces


class _Runs:
    """Forwards of the clean row together with some of the corrupted ones, some of them with gradients."""

    def __init__(self, model: Model, wrong: Corrupted, read: tuple[int, ...], setting: Setting, limit: int) -> None:
        self.model, self.wrong, self.read, self.setting = model, wrong, read, setting
        self.samples = len(wrong.ids) - 1
        self.parts = [slice(1 + i, 1 + min(i + limit, self.samples)) for i in range(0, self.samples, limit)]

    def logits(self) -> Tensor:
        """[1 + samples, k, V] of the clean row and the corrupted ones."""
        found = [self.forward(part, None, {}) for part in self.parts]
        return torch.cat([found[0][:1], *(logits[1:] for logits in found)])

    def effects(self, case: Case, steps: int | None) -> np.ndarray:
        """[metrics, tokens, layers]: mean over samples of gradient times change."""
        n_layers, tokens = self.model.n_layers, self.wrong.ids.shape[1]
        total = torch.zeros(len(case.metrics), tokens, n_layers, dtype=torch.float64)
        ways = [0.0] if steps is None else [(step + 0.5) / steps for step in range(steps)]
        work = [(part, way) for part in self.parts for way in ways]
        changes: list[Tensor] = []
        for part, way in track(work, "following gradients"):
            states: dict[int, Tensor] = {}
            if steps is not None and way == ways[0]:
                with torch.no_grad():
                    self.forward(part, None, states)
                changes = self.changes(states)
            with torch.enable_grad():
                measured = case.measure(self.forward(part, way, states)[1:]).sum(0)
                changes = self.changes(states) if steps is None else changes
                ordered = [states[layer] for layer in self.setting.within]
                for index, value in enumerate(measured):
                    more = index + 1 < len(measured)
                    gradients = torch.autograd.grad(value, ordered, retain_graph=more, allow_unused=True)
                    for layer, gradient, change in zip(self.setting.within, gradients, changes, strict=True):
                        if gradient is not None:  # None: nothing that is read depends on it
                            product = (gradient[1:].double() * change).sum((0, 2)).cpu()
                            total[index, :, layer] += product / (self.samples * len(ways))
        return total.numpy()

    @staticmethod
    def changes(states: dict[int, Tensor]) -> list[Tensor]:
        """Per layer, clean less corrupted state [rows, tokens, d]."""
        found = [states[layer].detach().double() for layer in sorted(states)]
        return [state[:1] - state[1:] for state in found]

    def forward(self, part: slice, way: float | None, states: dict[int, Tensor]) -> Tensor:
        """Logits [1 + rows, k, V] of the clean row and `part`; the site's states, on the way to the logits.

        `way` is how far the corrupted rows' embeddings have come to the clean ones, which gradients start from.
        """
        model, rows = self.model, [0, *range(part.start, part.stop)]
        ids, whole = self.wrong.ids[rows], len(self.wrong.ids)
        items = [replace(item, value=rows_of(item, whole, rows)) for item in self.wrong.interventions]
        told = read_at(model, ids, self.read)
        frame = told or Frame(ids.shape[1])

        def between(state: Tensor) -> Tensor | None:
            if way is None:
                return None
            moved = torch.cat([state[:1], state[1:] + way * (state[:1] - state[1:])])
            return moved.detach().requires_grad_()

        def keep(layer: int) -> Any:
            def edit(state: Tensor) -> Tensor:
                states[layer] = state.clone()
                return states[layer].clone()  # some models change their inputs in place

            return edit

        with ExitStack() as stack:
            stack.enter_context(intervene(model, items))
            stack.callback(attach(model, "embed", None, between, frame).remove)
            for layer in self.setting.within:
                stack.callback(attach(model, self.setting.kind, layer, keep(layer), frame).remove)
            stack.callback(keep_logits(model, self.read).remove)
            return check_numbers(model, logits_of(model, ids, frame=told))
