"""Loading a model again in other workers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import WorkerError

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True)
class Recipe:
    """A model's source, and the weights it must have.

    Attributes:
        name: the model's, as results show it.
        source: what it is loaded from; None for the embedded model.
        dtype: of the model.
        device: of the model; None to choose it where it is loaded.
        fingerprint: of its weights.
    """

    name: str
    source: str | None
    dtype: str
    device: str | None
    fingerprint: str

    @classmethod
    def of(cls, model: Model, anywhere: bool = False, like: str = "") -> Recipe:
        """The recipe of a model; with `anywhere` for other machines, whose devices may be others.

        `like` is a fingerprint of the kind that it is to note, as of [`tracer.Model.fingerprint`][].
        """
        from tracer.model import EMBEDDED

        source = None if model.name == EMBEDDED else model.name
        if source is not None and Path(source).exists():  # a folder, or a GGUF file
            source = str(Path(source).absolute())
        dtype = str(model.dtype).removeprefix("torch.")
        return cls(model.name, source, dtype, None if anywhere else str(model.device), model.fingerprint(like))

    def load(self) -> Model:
        """The model, pinned.

        Raises:
            TracerError: it cannot be loaded, or it has other weights.
        """
        from tracer.model import load

        model = replace(load(self.source, dtype=self.dtype, device=self.device), name=self.name).pinned(
            self.fingerprint
        )
        if model.fingerprint(self.fingerprint) != self.fingerprint:
            raise WorkerError(
                f"{self.name}, loaded again by a worker, has other weights than the model given (an edit, or another "
                "file by now); save the model in a folder and load it from there, or use workers=1"
            )
        return model
