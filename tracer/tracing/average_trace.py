"""The result of averaging traces over facts: effects by class of token, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import AverageError, NotASavedResult, ResultArrayError
from tracer.files import npz as storage
from tracer.html_table import html_of
from tracer.statistics import bootstrap, check_bootstrap, cluster_sums, clustered_mean, ratio
from tracer.text import printable

from .trace import CausalTrace

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "tracer.AverageTrace/1"
CLASSES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
SUBJECT = 3  # the first classes are the subject's
ARRAYS = ("effect", "low", "high", "scores", "tokens")
# fields in which pooled traces have to agree
SAME = ("fingerprint", "n_layers", "kind", "window", "metric", "sever", "method", "layers")


@dataclass(frozen=True, eq=False)
class AverageTrace:
    """Causal traces of many facts, pooled by class of token (L layers). Made by [`tracer.average_traces`][].

    Tokens before the subject have no class. A subject of one token counts as first and as last subject token; a single
    token after the subject as first subsequent and as last token; where the subject ends the prompt, its last token
    counts as last subject token and as last token. "last token" is the prompt's last position, which in a masked model
    is the special token at its end, not the mask. A class without any token is nan.

    Attributes:
        effect: [6, L], the mean indirect effect over the facts and tokens of a class: the score after restoring less
            the corrupted score of the same fact.
        low: [6, L], lower end of its interval: a bootstrap over subjects, see `tracer.statistics.bootstrap`.
        high: [6, L], upper end of its interval.
        scores: [6, L], the mean score after restoring.
        tokens: [6], how many tokens each class has.
        clean: mean over facts of the clean run's metric.
        corrupted: mean over facts of the corrupted run's metric.
        total_effect: mean of `clean - corrupted`.
        total_low: lower end of its interval.
        total_high: upper end of its interval.
        facts: how many facts were traced.
        subjects: how many different subjects they have.
        unknown: prompts that were left out because the model does not answer their target.
        layers: layer of each column.
        n_layers: layers of the model.
        kind: as in [`CausalTrace`][tracer.tracing.trace.CausalTrace].
        window: as in `CausalTrace`.
        metric: as in `CausalTrace`.
        sever: as in `CausalTrace`.
        method: as in `CausalTrace`.
        model: the model's name.
        fingerprint: hash of the model's weights.
        corruption: its settings, as far as they are the same for every fact.
        confidence: probability that the intervals should cover.
        resamples: draws of the intervals' bootstrap.
        seed: seed of these draws.
        classes: names of the six rows.
    """

    effect: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scores: np.ndarray
    tokens: np.ndarray
    clean: float
    corrupted: float
    total_effect: float
    total_low: float
    total_high: float
    facts: int
    subjects: int
    unknown: tuple[str, ...]
    layers: tuple[int, ...]
    n_layers: int
    kind: str
    window: int
    metric: str
    sever: str | None
    method: str
    model: str
    fingerprint: str
    corruption: dict[str, Any]
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    classes: tuple[str, ...] = CLASSES

    def __post_init__(self) -> None:
        for name in ARRAYS:
            array = np.array(getattr(self, name))
            expected = (len(self.classes),) if name == "tokens" else (len(self.classes), len(self.layers))
            if array.shape != expected:
                raise ResultArrayError(f"{name} of an average has the shape {array.shape}; expected {expected}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def of(
        cls,
        traces: Iterable[CausalTrace],
        unknown: Iterable[str] = (),
        *,
        confidence: float = 0.95,
        resamples: int = 2000,
        seed: int = 0,
    ) -> AverageTrace:
        """The average of traces of one model, made with the same settings; each counts as often as it is given.

        The clusters of the intervals are the traces with the same subject. A trace of some positions only counts where
        it has rows.

        Args:
            traces: the traces.
            unknown: prompts that were left out.
            confidence: as for `tracer.statistics.bootstrap`.
            resamples: as for `tracer.statistics.bootstrap`.
            seed: as for `tracer.statistics.bootstrap`.

        Raises:
            TracerError: an empty list, anything but traces, or traces that differ in model or settings.
        """
        check_bootstrap(resamples, confidence, seed)
        traces = list(traces)
        corruption = _agreed(traces)
        subjects = [trace.subject for trace in traces]
        members = [token_classes(len(t.tokens), t.subject_range, t.positions) for t in traces]
        counts = cluster_sums(np.stack([rows.sum(1) for rows in members]), subjects)  # [subjects, 6]
        effects = cluster_sums(_pooled([trace.effect for trace in traces], members), subjects)  # [subjects, 6, L]
        scores = _pooled([trace.scores for trace in traces], members).sum(0)  # [6, L]
        draw: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
        low, high = bootstrap(effects, counts, **draw)
        total = clustered_mean([trace.clean - trace.corrupted for trace in traces], subjects, **draw)
        tokens = counts.sum(0)
        first = traces[0]
        return cls(
            effect=ratio(effects.sum(0), tokens[:, None]),
            low=low,
            high=high,
            scores=ratio(scores, tokens[:, None]),
            tokens=tokens.astype(int),
            clean=float(np.mean([trace.clean for trace in traces])),
            corrupted=float(np.mean([trace.corrupted for trace in traces])),
            total_effect=float(total[0]),
            total_low=float(total[1]),
            total_high=float(total[2]),
            facts=len(traces),
            subjects=len(set(subjects)),
            unknown=tuple(unknown),
            model=first.model,
            corruption=corruption,
            **{name: getattr(first, name) for name in SAME},
            **draw,
        )

    def published(self) -> np.ndarray:
        """Average indirect effect as in the ROME authors' notebook, [6, L]: `max(0, mean score - corrupted)`.

        It subtracts one number, the mean corrupted score of all facts, where `effect` subtracts from each score that of
        its own fact. The two differ in the classes that some facts have more tokens of than others (middle subject and
        further tokens, and any that some facts lack), by how much those facts' corrupted scores are off the mean; and
        negative effects, which `effect` keeps, are 0 here.
        """
        return np.clip(self.scores - self.corrupted, 0, None)

    def peak(self) -> tuple[str, int]:
        """The class and layer of the strongest effect, in the direction of the total effect; the first if several are.

        Raises:
            TracerError: no class has a token.
        """
        if np.isnan(self.effect).all():
            raise AverageError("the average has no tokens from the subject on; trace other tokens")
        return self._strongest(self.effect)

    def _strongest(self, effect: np.ndarray) -> tuple[str, int]:
        direction = -1 if self.total_effect < 0 else 1  # of a divergence, which restoring makes smaller
        row, column = np.unravel_index(int(np.nanargmax(direction * effect)), effect.shape)
        return self.classes[int(row)], self.layers[int(column)]

    def to_frame(self) -> pd.DataFrame:
        """One row per class and layer: token_class, layer, effect, low, high, score, tokens."""
        import pandas as pd

        columns = len(self.layers)
        return pd.DataFrame(
            {
                "token_class": np.repeat(np.array(self.classes, dtype=object), columns),
                "layer": np.tile(self.layers, len(self.classes)),
                "effect": self.effect.ravel(),
                "low": self.low.ravel(),
                "high": self.high.ravel(),
                "score": self.scores.ravel(),
                "tokens": np.repeat(self.tokens, columns),
            }
        )

    def __str__(self) -> str:
        left_out = f", left out as unknown to the model: {len(self.unknown)}" if self.unknown else ""
        severed = f", {self.sever} severed" if self.sever else ""
        window = "" if self.kind == "hidden" else f", window {self.window}"
        inner = f"[{self.total_low:.4g}, {self.total_high:.4g}]"
        lines = [
            f"average trace; facts: {self.facts}, subjects: {self.subjects}{left_out}",
            f"{self.kind}{window}{severed}, {self.metric}, {self.method}; model {printable(self.model)}",
            f"total effect {self.total_effect:.4g} {inner} ({100 * self.confidence:.4g} % confidence)",
        ]
        # the state of the last token in the last layer is the clean run itself: the subject's tell more
        for what, effect in (("strongest", self.effect), ("strongest of the subject", self.effect[:SUBJECT])):
            if not np.isnan(effect).all():
                name, layer = self._strongest(effect)
                at = self.classes.index(name), self.layers.index(layer)
                ends = f"[{self.low[at]:.4g}, {self.high[at]:.4g}]"
                lines.append(f"{what}: {name}, layer {layer}, {self.effect[at]:.4g} {ends}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        down = self.total_effect < 0
        best = self.to_frame().dropna(subset=["effect"]).sort_values("effect", ascending=down, kind="stable").head(5)
        return html_of(f"average {self.kind} trace of {self.facts} facts in {self.model}; strongest", best, str(self))

    def save(self, path: str | Path) -> Path:
        """Write an npz file (the arrays and a json header), whole or not at all, and return its path.

        Raises:
            TracerError: it cannot be written; nothing is left behind then.
        """
        header = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ARRAYS}
        return storage.write(path, FORMAT, {name: getattr(self, name) for name in ARRAYS}, header)

    @classmethod
    def load(cls, path: str | Path) -> AverageTrace:
        """Read what `save` wrote; nothing in the file is run.

        Raises:
            TracerError: any other file.
        """
        arrays, header = storage.read(path, FORMAT)
        try:
            for name in ("unknown", "layers", "classes"):
                header[name] = tuple(header[name])
            return cls(**{name: arrays[name] for name in ARRAYS}, **header)
        except (KeyError, TypeError) as error:
            raise NotASavedResult(
                f"{path} is not a saved AverageTrace ({error}); expected a file of its save"
            ) from error


def token_classes(length: int, subject_range: tuple[int, int], positions: Sequence[int]) -> np.ndarray:
    """Classes of each of P `positions` in a prompt of `length` tokens: bool [6, P], in the order of `CLASSES`."""
    start, end = subject_range
    token = np.asarray(positions)
    last = length - 1
    return np.stack(
        [
            token == start,
            (start < token) & (token < end - 1),
            token == end - 1,
            token == end,
            (end < token) & (token < last),
            token == last,
        ]
    )


def _pooled(values: list[np.ndarray], members: list[np.ndarray]) -> np.ndarray:
    """Each fact's rows summed by class, [facts, 6, L]."""
    return np.array(
        [[table[rows].sum(0, dtype=float) for rows in classes] for table, classes in zip(values, members, strict=True)]
    )


def _agreed(traces: list[CausalTrace]) -> dict[str, Any]:
    """The corruption of traces that can be pooled, without what is each fact's own."""
    if not traces:
        raise AverageError("there are no traces to average; expected at least one")
    for index, trace in enumerate(traces):
        if not isinstance(trace, CausalTrace):
            raise AverageError(f"entry {index} of the traces is a {type(trace).__name__}; expected a CausalTrace")
    first = traces[0]
    # other subjects, and how many of them fit, are found for each fact anew
    own = {"subjects", "samples"} if "subjects" in first.corruption else set()
    for index, trace in enumerate(traces):
        pairs = {name: (getattr(first, name), getattr(trace, name)) for name in SAME}
        for name in sorted({**first.corruption, **trace.corruption}.keys() - own):
            pairs[f"corruption's {name}"] = (first.corruption.get(name), trace.corruption.get(name))
        for name, (one, other) in pairs.items():
            if one != other:
                raise AverageError(
                    f"traces 0 and {index} differ in {name}: {one!r} and {other!r}; average traces of one model with "
                    "the same settings"
                )
    return {k: v for k, v in first.corruption.items() if all(trace.corruption.get(k) == v for trace in traces)}
