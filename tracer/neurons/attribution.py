"""The result of an attribution to neurons: numbers, and everything needed to read them again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tracer.checks import whole
from tracer.errors import AttributionError, NotASavedResult, ResultArrayError
from tracer.files import npz as storage
from tracer.html_table import html_of

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "tracer.NeuronAttribution/1"
ARRAYS = ("scores", "activations", "zero")


@dataclass(frozen=True, eq=False, repr=False)
class NeuronAttribution:
    """Scores of every neuron for a fact. Made by [`tracer.attribute_neurons`][]. Arrays are read-only.

    Attributes:
        scores: [layers, d_mlp] float64. Integrated gradients: the part of the answer's probability that goes back to
            the neuron. Activation contrast: standard deviations above the contrast prompts.
        activations: [layers, d_mlp] float64, the neuron's value at the token (mean over positions, or over prompts).
        method: "integrated_gradients" or "activation_contrast".
        site: "post", after the non-linearity (the input of the down-projection), or "pre", before it.
        steps: points of the integral; 0 for a contrast.
        rule: quadrature rule of the integral; "" for a contrast.
        full: probability of the answer in the untouched run (mean over the prompts of a contrast).
        zero: [layers] the same with that layer's neurons at zero; nan for a contrast.
        answer: the answer measured, with its leading space.
        prompt: the fact's prompt (the first of a contrast).
        subject: the fact's subject (the first of a contrast).
        tokens: text of every token that was run: the prompt, and all but the last of a target of several tokens.
        positions: the tokens at which the neurons act.
        model: the model's name.
        n_layers: the model's layers.
        fingerprint: the hash of the model's weights.
        note: a remark for the reader, or "".
    """

    scores: np.ndarray
    activations: np.ndarray
    method: str
    site: str
    steps: int
    rule: str
    full: float
    zero: np.ndarray
    answer: str
    prompt: str
    subject: str
    tokens: tuple[str, ...]
    positions: tuple[int, ...]
    model: str
    n_layers: int
    fingerprint: str
    note: str = ""

    def __post_init__(self) -> None:
        shape = np.shape(self.scores)
        if len(shape) != 2 or shape[0] != self.n_layers:
            raise ResultArrayError(
                f"scores of neurons have the shape {shape}; expected [{self.n_layers} layers, d_mlp]"
            )
        for name, expected in (("scores", shape), ("activations", shape), ("zero", shape[:1])):
            array = np.array(getattr(self, name), dtype=np.float64)
            if array.shape != expected:
                raise ResultArrayError(
                    f"{name} have the shape {array.shape}; expected {expected}, to go with the scores"
                )
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def completeness(self) -> np.ndarray:
        """Error of the integral per layer, [layers]: the sum of the layer's scores less `full - zero`."""
        return self.scores.sum(1) - (self.full - self.zero)

    def top(self, n: int) -> list[tuple[int, int]]:
        """The `n` neurons with the highest scores as (layer, neuron), highest first; ties by layer, then neuron."""
        n = whole("n", n, kind=AttributionError, expected="how many neurons, a whole number of at least 0")
        return self._neurons(np.argsort(-self.scores, axis=None, kind="stable")[:n])

    def above(self, threshold: float) -> list[tuple[int, int]]:
        """Neurons with a score above `threshold` times the highest one, highest first (Dai et al., section 3.2).

        Of an activation contrast: above `threshold` standard deviations. Strictly above; ties by layer, then neuron.

        Raises:
            TracerError: a threshold outside 0 to 1, or of a contrast below 0.
        """
        check_threshold(threshold, self.method)
        order = np.argsort(-self.scores, axis=None, kind="stable")
        return self._neurons(order[self._over(threshold).ravel()[order]])

    def per_layer(self, threshold: float) -> np.ndarray:
        """Number of neurons of each layer [`above`][tracer.NeuronAttribution.above] the threshold, [layers] int."""
        check_threshold(threshold, self.method)
        return self._over(threshold).sum(1)

    def _over(self, threshold: float) -> np.ndarray:
        unit = 1.0 if self.method == "activation_contrast" else self.scores.max()
        return self.scores > threshold * unit

    def _neurons(self, flat: np.ndarray) -> list[tuple[int, int]]:
        layers, neurons = np.unravel_index(flat, self.scores.shape)
        return list(zip(layers.tolist(), neurons.tolist(), strict=True))

    def to_frame(self, n: int | None = None) -> pd.DataFrame:
        """One row per neuron, the highest score first: layer, neuron, score, activation; the first `n`, or all."""
        import pandas as pd

        index = np.array(self.top(self.scores.size if n is None else n), dtype=int).reshape(-1, 2)
        layers, neurons = index.T
        columns = {"score": self.scores[layers, neurons], "activation": self.activations[layers, neurons]}
        return pd.DataFrame({"layer": layers, "neuron": neurons, **columns})

    def __repr__(self) -> str:
        how = self.method.replace("_", " ") + (f", {self.steps} steps, {self.rule}" if self.steps else "")
        layers, width = self.scores.shape
        best = ", ".join(f"{layer}.{neuron} {self.scores[layer, neuron]:+.3g}" for layer, neuron in self.top(5))
        return (
            f"NeuronAttribution({self.prompt!r} → {self.answer!r}, p = {self.full:.4f}; {how}; "
            f"{layers} × {width} neurons, site {self.site!r}; highest: {best})"
        )

    def _repr_html_(self) -> str:
        return html_of(f"neurons of {self.prompt!r} → {self.answer!r}, the highest", self.to_frame(10), self.note)

    def save(self, path: str | Path) -> Path:
        """Write an npz file (arrays and a json header), whole or not at all, and return its path.

        Raises:
            TracerError: it cannot be written; nothing is left behind then.
        """
        header = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ARRAYS}
        return storage.write(path, FORMAT, {name: getattr(self, name) for name in ARRAYS}, header)

    @classmethod
    def load(cls, path: str | Path) -> NeuronAttribution:
        """Read what `save` wrote; nothing in the file is run.

        Raises:
            TracerError: any other file.
        """
        arrays, header = storage.read(path, FORMAT)
        try:
            for name in ("tokens", "positions"):
                header[name] = tuple(header[name])
            return cls(**arrays, **header)
        except (KeyError, TypeError) as error:
            raise NotASavedResult(
                f"{path} is not a saved NeuronAttribution ({error}); expected a file of its save"
            ) from error


def check_threshold(threshold: float, method: str) -> None:
    """Check that `threshold` is a share of the highest score, or a number of standard deviations.

    Raises:
        TracerError: it is not.
    """
    contrast = method == "activation_contrast"
    number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
    if not number or not 0 <= threshold <= (np.finfo(float).max if contrast else 1):
        expected = "standard deviations, at least 0" if contrast else "a share of the highest score, from 0 to 1"
        raise AttributionError(f"threshold is {threshold!r}; expected {expected}")
