"""Second moments of keys, C = E[k k^T]: directions that a model's text uses, and directions free to be written to.

Rank-one editing writes along C^-1 k* (Meng et al. 2022, section 3.1 and appendix A), batch editing solves with C + K
K^T (Meng et al. 2023, equation 14). The mean is not subtracted: these are moments about zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.errors import CovarianceOfOtherWeights, NotASavedResult, SingularCovariance
from tracer.files import tensors as tensorfile
from tracer.model import Model

from . import triangles as packed
from .solver import CPU, Solver, Solvers

if TYPE_CHECKING:
    import pandas

FORMAT = "Covariance/1"
DTYPES = {"float32": torch.float32, "float64": torch.float64}
SHIPPED = Path(__file__).parents[1] / "data" / "covariance" / "factworld.safetensors"


@dataclass(frozen=True, eq=False)
class Covariance:
    """Uncentred second moments of the keys of one model, per layer. Made by [`editing.estimate_covariance`][].

    Attributes:
        moments: by layer, `E[k k^T]`, `[d_mlp, d_mlp]`, on the CPU, in the dtype it was summed in. Read `matrix`.
        fingerprint: hash of the weights of the model.
        model: that model's name.
        corpus: hash of the token windows the keys were gathered on.
        text: description of the text, for the reader.
        window: most tokens that the model read at once.
        tokens: number of keys counted.
        doublings: by layer, (tokens, change): the relative Frobenius change ||C_n - C_n/2|| / ||C_n|| of the moment
            over n tokens since that over about half of them, for as many halvings as there were.
        note: a remark for the reader, or "".
    """

    moments: Mapping[int, Tensor] = field(repr=False)
    fingerprint: str
    model: str
    corpus: str
    text: str
    window: int
    tokens: int
    doublings: Mapping[int, tuple[tuple[int, float], ...]] = field(repr=False)
    note: str = ""
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    _solvers: Solvers = field(default_factory=Solvers, init=False, repr=False)

    def __repr__(self) -> str:
        layers, width = ", ".join(map(str, self.layers)), self.width
        return (
            f"Covariance of {self.model}, layers {layers}: {width} x {width} over {self.tokens:,} tokens of "
            f"{self.text} in windows of {self.window}, {str(self.dtype).removeprefix('torch.')}"
            + (f"\nnote: {self.note}" if self.note else "")
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers with a moment, in order."""
        return tuple(sorted(self.moments))

    @property
    def width(self) -> int:
        """Rows and columns of a moment, d_mlp."""
        return len(next(iter(self.moments.values())))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the keys' products were summed."""
        return next(iter(self.moments.values())).dtype

    def matrix(self, layer: int) -> Tensor:
        """`E[k k^T]` of a layer, `[d_mlp, d_mlp]`, a copy.

        Args:
            layer: its index.

        Raises:
            TracerError: no such layer.
        """
        return self._moment(layer).clone()

    def condition(self, layer: int) -> float:
        """Largest over smallest eigenvalue, in float64; infinite where the smallest is not positive.

        Takes O(d_mlp^3) once: 0.3 s at 1,024, most of an hour at 16,384. `solver` makes do with an estimate.

        Args:
            layer: its index.
        """
        if ("condition", layer) not in self._kept:
            values = torch.linalg.eigvalsh(self._moment(layer).double())
            least, most = values[0].item(), values[-1].item()
            self._kept["condition", layer] = most / least if least > 0 else float("inf")
        return self._kept["condition", layer]

    def spectrum(self, layer: int, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
        """Eigenvalues [d_mlp], ascending, and eigenvectors [d_mlp, d_mlp] of the moment, float64; computed once.

        Args:
            layer: its index.
            device: of the model; they are computed and lie at its `place`.
        """
        moment, place = self._moment(layer), self.place(device)
        if ("spectrum", layer, place) not in self._kept:
            self._kept["spectrum", layer, place] = tuple(torch.linalg.eigh(moment.to(place, torch.float64)))
        return self._kept["spectrum", layer, place]

    def change(self, layer: int) -> float:
        """||C - C_half|| / ||C|| (Frobenius), C_half being the moment over the first half of the tokens.

        NaN where there were too few tokens to tell.

        Args:
            layer: its index.
        """
        self._moment(layer)
        return self.doublings[layer][-1][1] if self.doublings.get(layer) else float("nan")

    def place(self, device: torch.device) -> torch.device:
        """Where to solve for a model on a device: there, if it has float64 and is measured to be faster than the CPU.

        Args:
            device: of the model.
        """
        return self._solvers.place(device, self.width)

    def solver(self, layer: int, damping: float = 0.0, device: torch.device = CPU) -> Solver:
        """Solver with C + damping x (mean of C's diagonal) x I, factored in float64; kept while there is room.

        Args:
            layer: its index.
            damping: share of the mean of the diagonal.
            device: of the model; the factor lies at its `place`.

        Raises:
            TracerError: no such layer; C is singular, or too ill-conditioned for the solution to mean anything.
        """
        if not 0 <= damping < float("inf"):
            raise SingularCovariance(f"damping is a fraction of the mean diagonal, at least 0; got {damping!r}")
        moment, place = self._moment(layer), self.place(device)
        key = layer, damping, place
        return self._solvers.get(key, lambda: Solver.of(moment, self.tokens, layer, damping, place))

    def check(self, model: Model, layers: Iterable[int], fingerprint: str | None = None) -> None:
        """Check that these are the moments of a model at some layers.

        Args:
            model: the model.
            layers: the layers needed.
            fingerprint: hash to expect instead of that of the model's present weights; for a model edited since its
                moments were taken, that of the weights before.

        Raises:
            TracerError: moments of other weights, or a layer missing; the message names the call that makes them.
        """
        layers = list(layers)
        repair = f"editing.estimate_covariance(model, layers={layers})"
        expected = model.fingerprint(self.fingerprint) if fingerprint is None else fingerprint
        if self.fingerprint != expected:
            raise CovarianceOfOtherWeights(
                f"the covariance was taken from other weights ({self.model}, {self.fingerprint[:12]}) than those of "
                f"{model.name} ({expected[:12]}); make one of this model with {repair}"
            )
        missing = [layer for layer in layers if layer not in self.moments]
        if missing:
            raise CovarianceOfOtherWeights(
                f"the covariance has layers {list(self.layers)} and lacks {missing}; make one with {repair}"
            )

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file of the upper triangles; return the path.

        Args:
            path: of the file.

        Raises:
            TracerError: it cannot be written; nothing is left behind then.
        """
        header = {
            "layers": list(self.layers),
            "fingerprint": self.fingerprint,
            "model": self.model,
            "corpus": self.corpus,
            "text": self.text,
            "window": self.window,
            "tokens": self.tokens,
            "doublings": {str(layer): self.doublings.get(layer, ()) for layer in self.layers},
            "note": self.note,
        }
        triangles = {f"layer{layer}": packed.pack(self.moments[layer]) for layer in self.layers}
        return tensorfile.write(path, FORMAT, triangles, header)

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None, layers: Iterable[int] | None = None) -> Covariance:
        """The covariance in a file of `save`.

        Args:
            path: of the file.
            model: refuse the moments of other weights than this model's; not checked without it.
            layers: to be read; None: all.

        Raises:
            TracerError: not such a file, or one cut short or damaged; a layer it lacks; with a model, one whose weights
                are not those it was taken from.
        """
        wanted = None if layers is None else list(layers)
        tensors, header = tensorfile.read(path, FORMAT, names=None if wanted is None else [f"layer{i}" for i in wanted])
        try:
            there = [int(layer) for layer in header.pop("layers")]
            lacking = [layer for layer in wanted or there if layer not in there]
            if lacking:
                raise CovarianceOfOtherWeights(f"{path} has layers {there} and lacks {lacking}; ask for those it has")
            moments = {i: packed.unpack(tensors[f"layer{i}"]) for i in there if f"layer{i}" in tensors}
            table = {int(i): tuple((int(n), float(c)) for n, c in rows) for i, rows in header["doublings"].items()}
            found = cls(**{**header, "moments": moments, "doublings": {i: table[i] for i in moments}})
            if not moments or len({len(moment) for moment in moments.values()}) > 1:
                raise ValueError("its moments do not fit together")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise NotASavedResult(
                f"{path} is not a saved Covariance ({error}); expected a file of Covariance.save"
            ) from error
        if model is not None:
            found.check(model, found.layers)
        return found

    def to_frame(self) -> pandas.DataFrame:
        """One row per layer: layer, tokens, d_mlp, change, condition, and mean_square, E[||k||^2].

        Takes the eigenvalues of every moment.
        """
        import pandas

        rows = [
            {
                "layer": layer,
                "tokens": self.tokens,
                "d_mlp": self.width,
                "change": self.change(layer),
                "condition": self.condition(layer),
                "mean_square": self._moment(layer).diagonal().double().sum().item(),
            }
            for layer in self.layers
        ]
        return pandas.DataFrame(rows)

    def _moment(self, layer: int) -> Tensor:
        if layer not in self.moments:
            raise CovarianceOfOtherWeights(
                f"the covariance has layers {list(self.layers)}, not {layer!r}; make one with "
                f"editing.estimate_covariance(model, layers=[{layer}])"
            )
        return self.moments[layer]
