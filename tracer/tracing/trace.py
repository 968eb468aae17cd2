"""The result of a causal trace: numbers, and everything needed to read them again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import NotASavedResult, ResultArrayError
from tracer.files import npz as storage
from tracer.html_table import html_of

from .metrics import trace_metric

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "tracer.CausalTrace/1"


@dataclass(frozen=True, eq=False)
class CausalTrace:
    """Answers regained by restoring clean states in a corrupted run. Made by [`tracer.causal_trace`][].

    Attributes:
        scores: [positions, layers], the metric after restoring, mean over samples; read-only.
        clean: the metric of the clean run.
        corrupted: the metric of the corrupted run without restoring.
        answer: the answer traced, with its leading space.
        tokens: every token of the prompt, decoded (of an encoder-decoder model those of the source and, in a trace of
            the decoder, behind them what it is given). Row i of `scores` belongs to `tokens[positions[i]]`.
        subject_range: the subject's tokens, half open.
        kind: "hidden", "mlp", "attn" or "cross".
        window: how many layers were restored together ("mlp" and "attn"; a hidden state is restored alone).
        layers: layer of each column (the middle of its window).
        positions: token index of each row.
        metric: the measure of the scores, one of `TRACE_METRICS`; "kl" is 0 in the clean run, so that effects are
            negative where restoring helps.
        prompt: the fact's prompt.
        subject: the fact's subject.
        model: the model's name.
        n_layers: layers of the model.
        fingerprint: hash of the model's weights.
        corruption: its settings, with the noise level as measured, samples and seed.
        note: a remark for the reader, or "".
        sever: whose outputs were kept as in the corrupted run at the restored token: "mlp", "attn", "cross" or None.
        foil: the wrong answer of a difference.
        method: "exact", each site restored in a run; or an estimate from gradients, "attribution" or "integrated".
        stack: "encoder" or "decoder", whose sites were restored; None: the model has one stack.
        within: layers of that stack, half open; None likewise.
    """

    scores: np.ndarray
    clean: float
    corrupted: float
    answer: str
    tokens: tuple[str, ...]
    subject_range: tuple[int, int]
    kind: str
    window: int
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    metric: str
    prompt: str
    subject: str
    model: str
    n_layers: int
    fingerprint: str
    corruption: dict[str, Any]
    note: str = ""
    sever: str | None = None
    foil: str | None = None
    method: str = "exact"
    stack: str | None = None
    within: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        scores = np.array(self.scores)
        if scores.shape != (len(self.positions), len(self.layers)):
            raise ResultArrayError(
                f"scores of a trace have the shape {scores.shape}; expected one row per position and one column per "
                f"layer, ({len(self.positions)}, {len(self.layers)})"
            )
        scores.flags.writeable = False
        object.__setattr__(self, "scores", scores)

    @property
    def effect(self) -> np.ndarray:
        """The indirect effect, [positions, layers]: `scores - corrupted`."""
        return self.scores - self.corrupted

    @property
    def towards_clean(self) -> np.ndarray:
        """The effect towards the clean run, [positions, layers]: of a divergence, which is 0 there, `-effect`."""
        return self.effect * trace_metric(self.metric).sign

    def peak(self) -> tuple[int, int]:
        """Token index and layer of the highest score, for "kl" of the lowest; the first in reading order of several."""
        best = np.argmin(self.scores) if trace_metric(self.metric).better == "lower" else np.argmax(self.scores)
        row, column = np.unravel_index(int(best), self.scores.shape)
        return self.positions[int(row)], self.layers[int(column)]

    def to_frame(self) -> pd.DataFrame:
        """One row per site: token_index, token, in_subject, layer, score, effect."""
        import pandas as pd

        start, end = self.subject_range
        return pd.DataFrame(
            {
                "token_index": np.repeat(self.positions, len(self.layers)),
                "token": [self.tokens[t] for t in self.positions for _ in self.layers],
                "in_subject": [start <= t < end for t in self.positions for _ in self.layers],
                "layer": np.tile(self.layers, len(self.positions)),
                "score": self.scores.ravel(),
                "effect": self.effect.ravel(),
            }
        )

    def _repr_html_(self) -> str:
        frame = self.to_frame()
        best = frame.sort_values("score", ascending=trace_metric(self.metric).better == "lower", kind="stable").head(5)
        title = f"{self.kind} trace of {self.prompt!r} → {self.answer!r} in {self.model}"
        numbers = f"{self.metric}: clean {self.clean:.4g}, corrupted {self.corrupted:.4g}"
        return html_of(f"{title}; {numbers}; strongest sites", best, self.note)

    def save(self, path: str | Path) -> Path:
        """Write an npz file (the scores and a json header), whole or not at all, and return its path.

        Raises:
            TracerError: it cannot be written; nothing is left behind then.
        """
        header = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "scores"}
        return storage.write(path, FORMAT, {"scores": self.scores}, header)

    @classmethod
    def load(cls, path: str | Path) -> CausalTrace:
        """Read what `save` wrote; nothing in the file is run.

        Raises:
            TracerError: any other file.
        """
        arrays, header = storage.read(path, FORMAT)
        try:
            for name in ("tokens", "subject_range", "layers", "positions"):
                header[name] = tuple(header[name])
            header["within"] = tuple(header["within"]) if header.get("within") else None
            return cls(scores=arrays["scores"], **header)
        except (KeyError, TypeError) as error:
            raise NotASavedResult(
                f"{path} is not a saved CausalTrace ({error}); expected a file of its save"
            ) from error
