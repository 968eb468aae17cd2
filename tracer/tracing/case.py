"""A fact under a corruption: what is measured, between which two values, and the trace that becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tracer.checks import whole
from tracer.errors import FoilError, TraceSettingError
from tracer.facts.fact import bare_note, token_text
from tracer.facts.prompt import source_length
from tracer.facts.readout import Readout, answer_text

from .metrics import TRACE_METRICS, Metric, log_probs, normalised, parting
from .trace import CausalTrace

if TYPE_CHECKING:
    from tracer.facts.fact import Alignment, Fact
    from tracer.model import Model

KINDS = ("hidden", "mlp", "attn")
RESTORED = (*KINDS, "cross")  # the last in decoders that an encoder reads for
SEVERED = (None, "mlp", "attn", "cross")


@dataclass(frozen=True, eq=False)
class Setting:
    """Checked settings of a trace's restored sites and metrics; see [`tracer.causal_trace`][].

    Attributes:
        kind: the kind of site restored.
        window: layers restored together.
        metrics: the metrics' names.
        foil: the wrong answer of a logit difference.
        sever: the modules whose outputs stay corrupted.
        within: the layers that are traced: all, or those of one stack.
        stack: its name, "encoder" or "decoder"; None: the model has one.
    """

    kind: str
    window: int
    metrics: tuple[str, ...]
    foil: str | None
    sever: str | None
    within: range
    stack: str | None = None

    @classmethod
    def checked(
        cls,
        kind: str,
        window: int | None,
        metric: str | Sequence[str],
        foil: str | None,
        sever: str | None,
        n_layers: int,
        stacks: Mapping[str, range] | None = None,
        stack: str | None = None,
    ) -> Setting:
        """The settings, checked; a window of None is that of `default_window`, a stack of None the first of `stacks`.

        Raises:
            TracerError: one of them is out of range.
        """
        stacks = stacks or {}
        stack = next(iter(stacks), None) if stack is None else stack
        if stack is not None and stack not in stacks:
            known = " or ".join(map(repr, stacks)) or "None, as the model has a single stack"
            raise TraceSettingError(f"stack is {stack!r}; expected {known}")
        within = range(n_layers) if stack is None else stacks[stack]
        window = default_window(len(within)) if window is None else window
        names = (metric,) if isinstance(metric, str) else tuple(metric)
        for name in names:
            if name not in TRACE_METRICS:
                raise TraceSettingError(f"metric {name!r} is unknown; expected one of {', '.join(TRACE_METRICS)}")
        if not names or len(set(names)) < len(names):
            raise TraceSettingError(
                f"metric={list(names)}: expected one or more of {', '.join(TRACE_METRICS)}, each once"
            )
        if kind not in RESTORED:
            raise TraceSettingError(f"kind {kind!r} is unknown; expected one of {', '.join(RESTORED)}")
        window = whole("window", window, 1, kind=TraceSettingError)
        if foil is not None and not foil.strip():
            raise FoilError(f"the foil is empty ({foil!r}); name a wrong answer, or leave it out")
        if sever not in SEVERED:
            raise TraceSettingError(f"sever is {sever!r}; expected 'mlp', 'attn', 'cross' or None")
        if (kind == "cross" and stack != "decoder") or (sever == "cross" and not stacks):
            where = f"stack={stack!r}" if stacks else "a model with a single stack"
            raise TraceSettingError(
                f"cross-attention is in the decoder of an encoder-decoder model; got kind={kind!r}, sever={sever!r} "
                f"for {where}: choose another, or stack='decoder' of such a model"
            )
        if sever is not None and kind != "hidden":
            raise TraceSettingError(
                f"severed paths are traced by restoring hidden states, not {kind!r}; leave kind out"
            )
        return cls(kind, window, names, foil, sever, within, stack)

    def restored(self, layer: int) -> range:
        """The layers whose clean states cell (token, `layer`) puts back."""
        if self.kind == "hidden":
            return range(layer, layer + 1)
        return window_layers(layer, self.window, self.within.stop, self.within.start)


def default_window(n_layers: int) -> int:
    """Layers restored together where no number is given: a third of the depth, at most the ten of the paper."""
    return max(1, min(10, round(n_layers / 3)))


def window_layers(layer: int, window: int, n_layers: int, first: int = 0) -> range:
    """The layers restored together in a trace of MLP or attention outputs; clipped at the ends as published.

    `first` is the first layer of a stack, whose last is `n_layers - 1`.
    """
    return range(max(first, layer - window // 2), min(n_layers, layer - (-window // 2)))


@dataclass(frozen=True, eq=False)
class Case:
    """A fact that was run clean and corrupted.

    Attributes:
        model: the model.
        fact: the fact.
        alignment: the fact in the model's tokens.
        setting: the trace's settings.
        answer: ids of the answer.
        foil: ids of the foil; empty where no metric needs one.
        own: ids of the model's own answer.
        metrics: one per name in the setting.
        clean: [metrics].
        corrupted: [metrics], a mean over the corrupted run's rows.
        corruption: the plain settings of the corruption.
    """

    model: Model
    fact: Fact
    alignment: Alignment
    setting: Setting
    answer: tuple[int, ...]
    foil: tuple[int, ...]
    own: tuple[int, ...]
    metrics: tuple[Metric, ...]
    clean: np.ndarray
    corrupted: np.ndarray
    corruption: dict[str, Any]

    @classmethod
    def of(
        cls, model: Model, fact: Fact, alignment: Alignment, setting: Setting, both: Tensor, corruption: dict[str, Any]
    ) -> Case:
        """The case of an aligned fact.

        `both` are logits [1 + R, k, V] of the clean run and the corrupted ones where the answer is read.
        """
        own = tuple(both[0].argmax(-1).tolist())
        answer = tuple(Readout.of(model, alignment).answer(both[0]))
        foil: tuple[int, ...] = ()
        if any(TRACE_METRICS[name].needs_foil for name in setting.metrics):
            foil = _foil(model, fact, answer, setting.foil, both[1:])
        clean = log_probs(both[0])
        # a masked model sees masks in the place of either; another reads each token after those before it
        apart = model.causal and answer[:-1] != foil[:-1]
        metrics = tuple(
            Metric(
                name,
                answer,
                foil,
                clean if TRACE_METRICS[name].needs_reference else None,
                apart and TRACE_METRICS[name].less_foil,
            )
            for name in setting.metrics
        )
        case = cls(model, fact, alignment, setting, answer, foil, own, metrics, np.empty(0), np.empty(0), corruption)
        scores = case.measure(both).double().cpu().numpy()
        return replace(case, clean=scores[0], corrupted=scores[1:].mean(0))

    def measure(self, logits: Tensor) -> Tensor:
        """Every metric of every row: [n, k, V] to [n, metrics]."""
        return torch.stack([metric(logits) for metric in self.metrics], dim=-1)

    def note(self) -> str:
        """Remarks for the reader."""
        notes = []
        if self.model.style == "causal" and self.alignment.subject_range[1] == len(self.alignment.input_ids):
            notes.append("the subject ends the prompt: its last token is also the prompt's last")
        if self.own != self.answer:
            notes.append(f"the target is not what the model says, {answer_text(self.model, self.own)!r}")
        return "; ".join(filter(None, [*notes, bare_note(self.model, self.fact.text)]))

    def traces(
        self, scores: np.ndarray, positions: tuple[int, ...], layers: tuple[int, ...], method: str = "exact"
    ) -> list[CausalTrace]:
        """Make one trace per metric from `scores` [positions, layers, metrics]."""
        shared: dict[str, Any] = {
            "answer": answer_text(self.model, self.answer),
            "tokens": row_tokens(self.model, self.alignment, self.setting.stack, self.answer),
            "subject_range": self.alignment.subject_range,
            "kind": self.setting.kind,
            "window": self.setting.window,
            "layers": layers,
            "positions": positions,
            "prompt": self.fact.text,
            "subject": self.fact.subject,
            "model": self.model.name,
            "n_layers": self.model.n_layers,
            "fingerprint": self.model.fingerprint(),
            "corruption": self.corruption,
            "note": self.note(),
            "sever": self.setting.sever,
            "method": method,
            "stack": self.setting.stack,
            "within": (self.setting.within.start, self.setting.within.stop) if self.setting.stack else None,
        }
        found = []
        for index, metric in enumerate(self.metrics):
            values, clean, corrupted = scores[..., index], float(self.clean[index]), float(self.corrupted[index])
            known = TRACE_METRICS[metric.name]
            if known.normalised:
                values, clean, corrupted = normalised(values, clean, corrupted), 1.0, 0.0
            foil = answer_text(self.model, self.foil) if known.needs_foil else None
            found.append(CausalTrace(values, clean=clean, corrupted=corrupted, metric=metric.name, foil=foil, **shared))
        return found


def measured(
    run: Callable[[Alignment, Setting], tuple[Case, np.ndarray]], alignment: Alignment, setting: Setting
) -> tuple[Case, np.ndarray]:
    """A case with its scores; where a metric subtracts a foil that stands in another text, both texts are run.

    Args:
        run: gives the case and the scores [positions, layers, metrics] of an alignment.
        alignment: of the fact.
        setting: of the trace.
    """
    case, scores = run(alignment, setting)
    apart = np.array([metric.apart for metric in case.metrics], dtype=float)
    if not apart.any():
        return case, scores
    other, less = run(replace(alignment, target_ids=case.foil), replace(setting, metrics=("log_prob",)))
    clean, corrupted = (
        mine - apart * its for mine, its in ((case.clean, other.clean), (case.corrupted, other.corrupted))
    )
    return replace(case, clean=clean, corrupted=corrupted), scores - apart * less


def row_tokens(
    model: Model, alignment: Alignment, stack: str | None = None, answer: Sequence[int] = ()
) -> tuple[str, ...]:
    """Text of the tokens that a trace is about: the prompt's; a source's; or these and what a decoder is given."""
    if not model.stacks:
        return alignment.tokens
    if stack == "decoder":
        return (*alignment.tokens, *(token_text(model.tokenizer, token) for token in answer[:-1]))
    return alignment.tokens[: source_length(model, alignment.input_ids)]


def _foil(model: Model, fact: Fact, answer: tuple[int, ...], foil: str | None, corrupted: Tensor) -> tuple[int, ...]:
    if foil is None:  # the model's answer once the subject is corrupted
        p = corrupted[:, 0].float().softmax(-1).mean(0)
        p[answer[0]] = -1
        return (int(p.argmax()),)
    ids = replace(fact, target=foil).align(model).target_ids
    if not model.causal and len(ids) != len(answer):
        masks = f"foil {foil!r} takes {len(ids)} masks and the answer {len(answer)}"
        raise FoilError(f"{masks}; choose a foil of equal length")
    parting(answer, ids)
    return ids
