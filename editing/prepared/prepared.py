"""A prepared value: what a method made once for a model, with all that it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.errors import NotASavedResult, NotFinite, PreparedForOther
from tracer.files import tensors as tensorfile

from .identity import tokenizer_hash

if TYPE_CHECKING:
    import pandas as pd

    from tracer.model import Model

FORMAT = "Prepared/1"


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a method was given time to make for a model. Made by [`editing.prepare`][]; immutable.

    Attributes:
        method: its name.
        settings: of the preparation, as used; json values.
        seed: of its random draws.
        fingerprint: hash of the weights it was made on.
        model: that model's name.
        tokenizer: hash of that model's tokenizer.
        records: hash of the records it was made from, "" for none; those it was validated on count.
        tensors: what was made, by name, on the CPU.
        header: further json values of the method, such as the layers its parts act at.
        history: rows of the training, each a mapping of numbers; the first is of the start.
        seconds: wall time it took, over all its runs.
        note: a remark for the reader, or "".

    Raises:
        TracerError: numbers that are not finite.
    """

    method: str
    settings: Mapping[str, Any]
    seed: int
    fingerprint: str
    model: str
    tokenizer: str
    records: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    header: Mapping[str, Any] = field(default_factory=dict, repr=False)
    history: Sequence[Mapping[str, float]] = field(default=(), repr=False)
    seconds: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        for name, tensor in own.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NotFinite(
                    f"the tensor {name!r} that was prepared for {self.method} holds NaN or infinity; prepare with a "
                    "smaller learning rate, or load the model in float32"
                )
        object.__setattr__(self, "tensors", own)
        for name in ("settings", "header", "history"):  # as a file would give them back
            object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name))))
        object.__setattr__(self, "_held", {})

    # --- identity --------------------------------------------------------------------------------------------------
    @property
    def digest(self) -> str:
        """BLAKE3 hash of what it is; the history and the time it took do not count."""
        held: dict[str, str] = vars(self)["_held"]
        if "digest" not in held:
            own = {key: value for key, value in self._described().items() if key not in ("history", "seconds", "note")}
            held["digest"] = tensorfile.digest_of(self.tensors, json.dumps(own, sort_keys=True))
        return held["digest"]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def check(self, model: Model, method: str, origin: str | None = None) -> None:
        """Check that it was made for a method on a model's weights and tokenizer.

        Args:
            model: to be edited; memories on it do not count.
            method: name of the method that is to use it.
            origin: hash of the weights before any edit, for which it may have been made too.

        Raises:
            TracerError: it was made for another one; the message says for which, and the call that makes one.
        """
        repair = f"make one of this model with editing.prepare(model, {method!r}, records), or tracer prepare {method}"
        if self.method != method:
            raise PreparedForOther(f"this was prepared for {self.method}, and {method} was asked for; {repair}")
        found = model.weights_fingerprint(self.fingerprint)
        if self.fingerprint not in (found, origin):
            raise PreparedForOther(
                f"this was prepared for {method} on the weights {self.fingerprint[:12]} of {self.model}, but "
                f"{model.name} has {found[:12]}; {repair}"
            )
        if self.tokenizer != tokenizer_hash(model):
            raise PreparedForOther(
                f"this was prepared for {method} with the tokenizer {self.tokenizer[:12]} of {self.model}, and that of "
                f"{model.name} differs; {repair}"
            )

    # --- to read ---------------------------------------------------------------------------------------------------
    def to_frame(self) -> pd.DataFrame:
        """The history, one row per entry: step, and what was measured there."""
        import pandas as pd

        return pd.DataFrame([dict(row) for row in self.history])

    def __repr__(self) -> str:
        text = f"Prepared for {self.method} on {self.model}: {self.nbytes / 1e3:.4g} kB, {self.seconds:.3g} s"
        told = ", ".join(f"{name} {value:.4g}" for row in self.history[-1:] for name, value in row.items())
        return "\n".join(filter(None, [text, told, self.note and f"note: {self.note}"]))

    # --- on disk ---------------------------------------------------------------------------------------------------
    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all, and return its path.

        Args:
            path: of the file; ".safetensors" is added if it has no suffix.

        Raises:
            TracerError: it cannot be written; nothing is left behind then.
        """
        return tensorfile.write(path, FORMAT, self.tensors, self._described())

    def _described(self) -> dict[str, Any]:
        names = ("method", "settings", "seed", "fingerprint", "model", "tokenizer", "records", "header", "history")
        return {name: getattr(self, name) for name in (*names, "seconds", "note")}


def load_prepared(path: str | Path, model: Model | None = None) -> Prepared:
    """Read a file of `Prepared.save`; nothing in the file is run.

    Args:
        path: of the file.
        model: refuse what was made for other weights or another tokenizer than this model's; not checked without it.

    Raises:
        TracerError: a missing, damaged or other file; with a model, one that was made for another.
    """
    tensors, described = tensorfile.read(path, FORMAT)
    try:
        found = Prepared(tensors=tensors, **described)
    except TypeError as error:
        raise NotASavedResult(f"{path} is not a saved Prepared ({error}); expected a file of Prepared.save") from error
    if model is not None:
        found.check(model, found.method)
    return found
