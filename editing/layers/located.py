"""The result of locating: evidence per layer, and the layers it suggests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from editing.questions.measures import SCORED
from editing.questions.metrics import harmonic
from tracer import checks
from tracer.errors import LocateError, NotASavedResult, ResultArrayError
from tracer.files import npz as storage
from tracer.html_table import html_of
from tracer.statistics import clustered_mean, rank_correlation
from tracer.text import printable

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "editing.Located/1"
# and the evidence each is judged by
USING: dict[str, tuple[str, ...]] = {"trace": ("effect",), "neurons": ("mass", "count"), "change": ("ease", "change")}
USING["sweep"] = tuple(SCORED.values())
ARRAYS = ("evidence", "unedited")
TUPLES = ("layers", "window", "prompts", "subjects", "answers", "unknown")
# Of the best layer's value, which a layer of the window has at least. Success falls off late and then steeply: a layer
# at 80 % of the best score is one where every fifth prompt goes wrong.
SHARE = {"trace": 0.8, "neurons": 0.8, "change": 0.8, "sweep": 0.95}
MOST = 6  # layers of a window: as many as MEMIT writes at in GPT-J, where it is most


@dataclass(frozen=True, eq=False)
class Located:
    """Layers to write at, and the evidence, for F facts and L layers.

    Made by [`editing.localisation.choose.locate`][].

    Attributes:
        using: "trace", "neurons", "change" or "sweep".
        layers: the layers suggested, the best first; methods that write at one layer take the first.
        window: the same layers in order, a range without gaps; for methods that write at several.
        evidence: [F, L] by name, nan where nothing was measured; read-only. "trace": "effect", the indirect effect of
            restoring the MLPs around the layer at the subject's last token (in the direction of the clean run).
            "neurons": "mass", the attribution of the layer's neurons summed, which is the part of the answer's
            probability that is lost without them; "count", the number above the threshold. "change": "change", the norm
            of ROME's change over that of the weight; "ease", one over it where the edit works, and 0 elsewhere.
            "sweep": "reliability", "generalisation", "locality" after an edit at the layer, and "reliability margin",
            ... as `editing.edit_scores` defines them.
        prompts: of each fact.
        subjects: of each fact.
        answers: of each fact: the traced answer, or the new target of an edit.
        settings: options of the run, json values; `share` and `most` are those of `suggest`.
        model: the model's name.
        n_layers: L.
        fingerprint: hash of the model's weights.
        unedited: [F] by name, the measures of a sweep before any edit; empty otherwise.
        unknown: prompts that were left out because the model does not say their target.
        note: a remark for the reader, or "".
    """

    using: str
    layers: tuple[int, ...]
    window: tuple[int, ...]
    evidence: Mapping[str, np.ndarray]
    prompts: tuple[str, ...]
    subjects: tuple[str, ...]
    answers: tuple[str, ...]
    settings: dict[str, Any]
    model: str
    n_layers: int
    fingerprint: str
    unedited: Mapping[str, np.ndarray] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if self.using not in USING:
            raise LocateError(f"using is {self.using!r}; expected one of {', '.join(USING)}")
        missing = [name for name in USING[self.using] if name not in self.evidence]
        if missing:
            raise ResultArrayError(f"evidence of a {self.using} lacks {missing[0]!r}; make it with editing.locate")
        if not self.layers or sorted(self.layers) != list(self.window):
            raise ResultArrayError(
                f"layers {self.layers} and window {self.window} are not the same layers; give the same"
            )
        shape = len(self.prompts), self.n_layers
        for name, size in (("evidence", shape), ("unedited", shape[:1])):
            arrays = {key: np.array(value, dtype=np.float64) for key, value in getattr(self, name).items()}
            for key, array in arrays.items():
                if array.shape != size:
                    raise ResultArrayError(f"{name} {key!r} has the shape {array.shape}; expected {size}")
                array.flags.writeable = False
            object.__setattr__(self, name, arrays)

    @classmethod
    def of(
        cls,
        using: str,
        evidence: Mapping[str, np.ndarray],
        *,
        share: float | None = None,
        most: int = MOST,
        **more: Any,
    ) -> Located:
        """A result from evidence alone: the layers are those that `suggest` names.

        Args:
            using: as of the result.
            evidence: [F, L] by name.
            share: of `suggest`; None: 0.95 of a sweep and 0.8 of other evidence.
            most: of `suggest`.
            more: the other fields.
        """
        share = SHARE[using] if share is None else share
        profile = profile_of(using, evidence)
        layers, window = suggest(profile, share, most, margin_of(using, evidence))
        settings = {**more.pop("settings", {}), "share": share, "most": most}
        best = profile[layers[0]]
        if best <= 0 and not more.get("note"):
            more["note"] = f"no layer is above zero (the best has {best:.3g}), so that the layer named says little"
        return cls(using, layers, window, evidence, settings=settings, **more)

    @property
    def profile(self) -> np.ndarray:
        """Basis of the suggestion, [L], the higher the better, nan where nothing was measured.

        The mean over facts of "effect", "mass" or "ease"; of a sweep the harmonic mean of the mean reliability,
        generalisation and locality (CounterFact's S), of those that were measured.
        """
        return profile_of(self.using, self.evidence)

    def mean(
        self, name: str, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, low and high over facts of a kind of evidence, each [L]; the interval is a bootstrap over subjects.

        Args:
            name: of the evidence.
            confidence: of the interval.
            resamples: draws of the bootstrap.
            seed: of the draws.
        """
        draw: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
        return clustered_mean(self.evidence[name], self.subjects, **draw)

    def rank_correlation(self, other: Located) -> float:
        """Spearman's rank correlation of the two profiles over layers; nan if one is flat.

        Args:
            other: to compare with.

        Raises:
            TracerError: evidence about different models.
        """
        check_one_model([self, other])
        return rank_correlation(self.profile, other.profile)

    def to_frame(self) -> pd.DataFrame:
        """One row per layer: layer, rank (1: best; 0: not suggested), profile, then each evidence's mean, low, high."""
        import pandas as pd

        rank = {layer: place + 1 for place, layer in enumerate(self.layers)}
        columns: dict[str, Any] = {
            "layer": np.arange(self.n_layers),
            "rank": [rank.get(layer, 0) for layer in range(self.n_layers)],
            "profile": self.profile,
        }
        for name in self.evidence:
            columns[name], columns[f"{name} low"], columns[f"{name} high"] = self.mean(name)
        return pd.DataFrame(columns)

    def _repr_html_(self) -> str:
        return html_of(str(self).splitlines()[0], self.to_frame(), self.note)

    def __str__(self) -> str:
        facts = f"{len(self.prompts)} {'fact' if len(self.prompts) == 1 else 'facts'}"
        left_out = f", left out as unknown to the model: {len(self.unknown)}" if self.unknown else ""
        how = {"trace": "MLP trace", "neurons": "neurons", "change": "least change"}
        how["sweep"] = f"sweep of {self.settings.get('method')} edits"
        at = ", ".join(f"{name} {self.mean(name)[0][self.layers[0]]:.4g}" for name in USING[self.using])
        lines = [
            f"layer {self.layers[0]}, window {self.window[0]} to {self.window[-1]}, by {how[self.using]}; {facts}"
            f"{left_out}; model {printable(self.model)}",
            f"at layer {self.layers[0]}: {at}",
        ]
        return "\n".join([*lines, *filter(None, [self.note])])

    def save(self, path: str | Path) -> Path:
        """Write an npz file (arrays and a json header), whole or not at all, and return its path.

        Args:
            path: of the file.

        Raises:
            TracerError: it cannot be written; nothing is left behind then.
        """
        header = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ARRAYS}
        arrays = {f"{name}/{key}": array for name in ARRAYS for key, array in getattr(self, name).items()}
        return storage.write(path, FORMAT, arrays, header)

    @classmethod
    def load(cls, path: str | Path) -> Located:
        """Read a file of `save`; nothing in the file is run.

        Args:
            path: of the file.

        Raises:
            TracerError: any other file.
        """
        found, header = storage.read(path, FORMAT)
        try:
            for name in TUPLES:
                header[name] = tuple(header[name])
            for name in ARRAYS:
                header[name] = {key.split("/", 1)[1]: found[key] for key in found if key.startswith(f"{name}/")}
            return cls(**header)
        except (KeyError, TypeError) as error:
            raise NotASavedResult(f"{path} is not a saved Located ({error}); expected a file of its save") from error


def profile_of(using: str, evidence: Mapping[str, np.ndarray]) -> np.ndarray:
    """Profile [L] of evidence: see `Located.profile`."""
    means = [_mean(evidence[name]) for name in USING[using]]
    if using != "sweep":
        return means[0]
    measured = [each for each in means if not np.isnan(each).all()]
    return harmonic(*(measured or means))  # a measure of 0 makes the whole 0


def margin_of(using: str, evidence: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Margins [L] of a sweep's edits, summed over its measures: distinguish layers with equal shares."""
    margins = [_mean(array) for name, array in evidence.items() if using == "sweep" and name.endswith(" margin")]
    return np.nansum(margins, axis=0) if margins else None


def suggest(
    profile: np.ndarray, share: float, most: int = MOST, ties: np.ndarray | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The layers a profile suggests.

    The window grows from the best layer, each time by the better of the two beside it, for as long as that has at least
    `share` of the best value and there are no more than `most` layers; a layer that was not measured (nan) is never
    taken. Where the best value is not above zero, it is that layer alone. Of equal layers the one with more of `ties`
    counts as better, then the lower one.

    Args:
        profile: [L], the higher the better.
        share: of the best value, from 0 to 1.
        most: layers at most.
        ties: [L], decides between equal layers.

    Returns:
        The layers, the best first; and the same in order.

    Raises:
        TracerError: a share outside 0 to 1, fewer than one layer, and a profile without a number.
    """
    checks.share("share", share, kind=LocateError, expected="a share of the best layer's value, from 0 to 1")
    expected = "how many layers a window has at most, at least 1"
    most = checks.whole("most", most, 1, kind=LocateError, expected=expected)
    profile = np.asarray(profile, dtype=float)
    if np.isnan(profile).all():
        raise LocateError("no layer was measured; give at least one layer")
    second = np.zeros(len(profile)) if ties is None else np.asarray(ties, dtype=float)
    measured = np.flatnonzero(~np.isnan(profile))
    # rounded, so that equal layers are not told apart by the last digits of their sums
    order = measured[np.lexsort((measured, -second[measured], -np.round(profile[measured], 9)))].tolist()
    rank = {layer: place for place, layer in enumerate(order)}
    best = order[0]
    window = [best]
    while profile[best] > 0 and len(window) < most:
        beside = [layer for layer in (window[0] - 1, window[-1] + 1) if layer in rank]
        beside = [layer for layer in beside if profile[layer] >= share * profile[best]]
        if not beside:
            break
        window = sorted([*window, min(beside, key=rank.__getitem__)])
    return tuple(sorted(window, key=rank.__getitem__)), tuple(window)


def check_one_model(several: list[Located]) -> None:
    """Check that all results are about one model, weights and all.

    Raises:
        TracerError: they are not.
    """
    for name in ("model", "n_layers", "fingerprint"):
        found = list(dict.fromkeys(getattr(each, name) for each in several))
        if len(found) > 1:
            raise LocateError(f"evidence about different models ({name} {found[0]!r} and {found[1]!r}); locate in one")


def _mean(array: np.ndarray) -> np.ndarray:
    """Mean [L] over facts, without those that were not measured."""
    there = ~np.isnan(array)
    count = there.sum(0)
    return np.divide(np.where(there, array, 0).sum(0), count, out=np.full(array.shape[1], np.nan), where=count > 0)
