"""Causal tracing: which states, put back into a corrupted run, bring the answer back.

Follows Meng et al., "Locating and Editing Factual Associations in GPT" (2022), number for number: same noise, same
restored states, same windows, same score. The runs themselves are made by :mod:`tracer.sweep`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from . import metrics
from .corruption import GaussianNoise
from .errors import TracerError
from .hooks import Replace, Site, as_ids
from .result import CausalTrace
from .sweep import Base, check_max_rows, record, sweep
from .tokens import token_text

if TYPE_CHECKING:
    from .model import Model
    from .tokens import Alignment, Fact

KINDS = ("hidden", "mlp", "attn")


def causal_trace(
    model: Model,
    fact: Fact,
    *,
    kind: Literal["hidden", "mlp", "attn"] = "hidden",
    window: int = 10,
    corruption: GaussianNoise = GaussianNoise(),  # noqa: B008 (frozen)
    metric: str = "prob",
    layers: Iterable[int] | None = None,
    tokens: Iterable[int] | Literal["subject_last"] | None = None,
    max_rows: int | None = None,
) -> CausalTrace:
    """Restore clean states one site at a time in runs with a corrupted subject, and measure the answer.

    kind: what is restored at cell (token, layer). "hidden": the output of that block. "mlp", "attn": what the MLP
        (attention) contributes in ``window`` blocks around that layer, ``layer - window // 2`` up to, not including,
        ``layer + (window + 1) // 2``, clipped at the model's ends. Where both read the same residual stream
        (``model.parallel``) the kinds are the same three: block output, MLP output alone, attention output alone.
    corruption: see :class:`GaussianNoise`. Scores are means over its samples.
    metric: "prob", the probability of the whole answer: ``fact.target``, or without one the token that the clean run
        finds most probable. A target is traced whether or not it is what the model says; ``note`` says so.
    layers, tokens: compute these columns and rows only (``tokens="subject_last"``: the subject's last token).
    max_rows: most rows in any forward; by default as many as fit ``tracer.sweep.BUDGET_BYTES``. No effect on numbers.

    The model is left as it was found. Raises TracerError for settings out of range, a prompt that cannot be aligned or
    is too long, and a model whose output is not a number.
    """
    _check(kind, window, metric)
    check_max_rows(max_rows)
    alignment = fact.align(model)
    prompt = len(alignment.input_ids)
    columns = _selection("layers", layers, model.n_layers)
    rows = _selection("tokens", [alignment.subject_range[1] - 1] if tokens == "subject_last" else tokens, prompt)
    with torch.no_grad():
        grid = _Grid.run(model, alignment, kind, window, corruption, max_rows)
        scores = grid.scores(rows, columns, max_rows)
    return CausalTrace(
        scores=scores,
        clean=grid.clean_score,
        corrupted=grid.corrupted_score,
        answer=_text(model, grid.answer),
        tokens=alignment.tokens,
        subject_range=alignment.subject_range,
        kind=kind,
        window=window,
        layers=columns,
        positions=rows,
        metric=metric,
        prompt=fact.text,
        subject=fact.subject,
        model=model.name,
        n_layers=model.n_layers,
        fingerprint=model.fingerprint(),
        corruption=grid.settings,
        note=grid.note(),
    )


def window_layers(layer: int, window: int, n_layers: int) -> range:
    """The layers restored together in a trace of MLP or attention outputs; clipped at the ends as published."""
    return range(max(0, layer - window // 2), min(n_layers, layer - (-window // 2)))


@dataclass(frozen=True, eq=False)
class _Grid:
    """The clean and the corrupted run of one fact, and how a cell's score is had from them."""

    model: Model
    alignment: Alignment
    kind: str
    window: int
    clean: Base
    corrupted: Base
    answer: list[int]
    settings: dict[str, Any]

    @classmethod
    def run(
        cls, model: Model, alignment: Alignment, kind: str, window: int, corruption: GaussianNoise, max_rows: int | None
    ) -> _Grid:
        target = list(alignment.target_ids)
        # each token of the answer after those before it (they are no part of the grid), or each at its own mask
        ids = [*alignment.input_ids, *(target[:-1] if model.causal else ())]
        read = range(alignment.answer_position, alignment.answer_position + max(1, len(target)))
        rows = corruption.corrupt(model, as_ids(model, ids)[0], alignment.subject_range)
        both = record(model, rows.ids, rows.interventions, read=read, kinds=(kind,), max_rows=max_rows)
        clean, corrupted = both.rows(slice(0, 1)), both.rows(slice(1, None))
        answer = target or clean.logits[0].argmax(-1).tolist()
        return cls(model, alignment, kind, window, clean, corrupted, answer, rows.settings)

    def measure(self, logits: Tensor) -> Tensor:
        # some rows at a time: all their log-probabilities together take longer to get memory for than to compute
        return torch.cat([metrics.prob(metrics.log_probs(some), self.answer) for some in logits.split(16)])

    @cached_property
    def clean_score(self) -> float:
        return float(self.measure(self.clean.logits)[0])

    @cached_property
    def corrupted_score(self) -> float:
        return float(self.measure(self.corrupted.logits).double().mean())

    def restored(self, layer: int) -> range:
        """The layers whose clean states cell (token, ``layer``) puts back."""
        if self.kind == "hidden":
            return range(layer, layer + 1)
        return window_layers(layer, self.window, self.model.n_layers)

    def known(self, token: int, layer: int) -> float | None:
        """The score of a cell where it follows without a run."""
        if self.model.causal and token < self.alignment.subject_range[0]:
            return self.corrupted_score  # before the subject nothing was corrupted
        if self.restored(layer)[0] == self.model.n_layers - 1:
            if token not in self.clean.read:
                return self.corrupted_score  # no later block carries it to where the answer is read
            if self.kind == "hidden" and len(self.clean.read) == 1:
                return self.clean_score  # all that the unembedding sees
        return None

    def scores(self, tokens: tuple[int, ...], layers: tuple[int, ...], max_rows: int | None) -> np.ndarray:
        scores = np.array([[self.known(t, layer) for layer in layers] for t in tokens], dtype=float)  # None: nan
        cells = [(row, column) for row, column in np.ndindex(*scores.shape) if np.isnan(scores[row, column])]
        after = self.after_first()
        first = self.alignment.subject_range[0]
        for base, inside in ((self.corrupted, False), (after, True)):
            some = [cell for cell in cells if (after is not None and tokens[cell[0]] == first) is inside]
            if base is None or not some:
                continue
            branches = self.branches([(tokens[row], layers[column]) for row, column in some], base)
            title = f"restoring {self.kind}"
            found = sweep(self.model, base, branches, self.measure, max_rows=max_rows, description=title)
            for cell, value in zip(some, found.double().mean(-1).tolist(), strict=True):
                scores[cell] = value
        return scores

    def branches(self, cells: list[tuple[int, int]], base: Base) -> list[list[Replace]]:
        """The interventions of each cell. Cells share their objects, so that runs are shared as long as they agree."""
        items: dict[tuple[int, int], Replace] = {}
        for token, layer in cells:
            for number in self.restored(layer):
                if base is self.corrupted:
                    where, value = token, self.clean.states[self.kind, number][0, token]
                else:  # the restored token is done: join at the next one as it is
                    where, value = token + 1, base.entering[number + 1][:, token + 1]
                items.setdefault((number, token), Replace(Site(self.kind, number, where), value))
        return [[items[number, token] for number in self.restored(layer)] for token, layer in cells]

    def after_first(self) -> Base | None:
        """The corrupted run, but with the subject's first token and those before it as in the clean run.

        Once its hidden state is restored, the first corrupted token is clean for good: it sees only tokens that were
        never corrupted. So its row of the grid needs only the tokens after it.
        """
        first = self.alignment.subject_range[0]
        before, prefix = self.clean.prefix, self.corrupted.prefix
        if self.kind != "hidden" or before is None or prefix is None or first + 1 == len(self.alignment.input_ids):
            return None
        rows = len(self.corrupted.ids)
        return replace(
            self.corrupted, prefix=tuple((k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in before)
        )

    def note(self) -> str:
        notes = []
        if self.model.causal and self.alignment.subject_range[1] == len(self.alignment.input_ids):
            notes.append("the subject ends the prompt: its last token is also the prompt's last")
        own = self.clean.logits[0].argmax(-1).tolist()
        if own != self.answer:
            notes.append(f"the target is not what the model says, {_text(self.model, own)!r}")
        return "; ".join(notes)


def _text(model: Model, ids: list[int]) -> str:
    """Text of an answer, with the leading space that some tokenizers drop."""
    text = str(model.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    first = token_text(model.tokenizer, ids[0])
    return f" {text}" if first.startswith(" ") and not text.startswith(" ") else text


def _check(kind: str, window: int, metric: str) -> None:
    if kind not in KINDS:
        raise TracerError(f"kind {kind!r} is unknown; expected one of {', '.join(KINDS)}")
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise TracerError(f"window is {window!r}; expected a whole number of at least 1")
    if metric != "prob":
        raise TracerError(f"metric {metric!r} is unknown; expected 'prob'")


def _selection(name: str, chosen: Iterable[int] | str | None, size: int) -> tuple[int, ...]:
    """Chosen indices as a tuple, all of them for None; in order, each once, and inside the range."""
    if chosen is None:
        return tuple(range(size))
    if isinstance(chosen, str) or not isinstance(chosen, Iterable):
        raise TracerError(f"{name}={chosen!r}: expected numbers from 0 to {size - 1}, such as {name}=[0]")
    found = tuple(int(index) if isinstance(index, int | np.integer) else -1 for index in chosen)
    if not found:
        raise TracerError(f"{name} is an empty selection; expected numbers from 0 to {size - 1}, or None for all")
    if any(not 0 <= index < size for index in found):
        raise TracerError(f"{name}={list(found)} is out of range; expected numbers from 0 to {size - 1}")
    if len(set(found)) < len(found):
        raise TracerError(f"{name}={list(found)} names one twice; name each once")
    return found
