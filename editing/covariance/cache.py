"""Covariances kept between runs, in the user's cache folder or the one that TRACER_CACHE names."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

from tracer.errors import CannotWrite, CovarianceOfOtherWeights, TracerError
from tracer.files import cache_folder, new_file

from .covariance import Covariance


@dataclass(frozen=True)
class Cache:
    """Covariances of one model over one corpus, one file a layer.

    The name of a file is a hash of everything that determines its numbers: fingerprint, layer, dtype, hash of the token
    windows, window, tokens.

    Attributes:
        folder: of the files.
        known: fields of every `Covariance` of it.
        dtype: of the sums.
    """

    folder: Path
    known: dict[str, Any]
    dtype: torch.dtype

    @classmethod
    def of(cls, place: bool | str | Path, known: dict[str, Any], dtype: torch.dtype) -> Cache:
        """The cache in the folder `place`, or in the user's cache folder for True."""
        folder = cache_folder() / "covariance" if place is True else Path(str(place)).expanduser()
        return cls(folder, known, dtype)

    def path(self, *further: Any) -> Path:
        """File of a layer's covariance, or of the state named by `further`."""
        same = [self.known[name] for name in ("fingerprint", "corpus", "window", "tokens")]
        key = json.dumps([*same, str(self.dtype), *further])
        return self.folder / f"{blake3(key.encode()).hexdigest()[:32]}.safetensors"

    @classmethod
    def windows(cls, place: bool | str | Path, identity: str) -> dict[str, Any] | None:
        """What is known of a text's token windows: "corpus", their hash, and "tokens"; None where nothing is.

        Args:
            place: as of `of`.
            identity: of text, tokenizer and cuts.
        """
        try:
            found = json.loads(cls.of(place, {}, torch.float32)._noted(identity).read_text(encoding="utf-8"))
            return {"corpus": str(found["corpus"]), "tokens": int(found["tokens"])}
        except (OSError, ValueError, TypeError, KeyError):  # missing or damaged: the text is tokenised again
            return None

    def note_windows(self, identity: str) -> None:
        """Keep what `windows` gives, beside the covariances; without it the text is only tokenised once more."""
        try:
            self._make()
            with new_file(self._noted(identity)) as file:
                content = {name: self.known[name] for name in ("corpus", "tokens")}
                file.write_text(json.dumps(content), encoding="utf-8")
        except TracerError:
            return

    def _noted(self, identity: str) -> Path:
        return self.folder / f"{identity}.windows.json"

    def find(self, layer: int) -> Covariance | None:
        """The covariance of a layer; None if it is missing, or (with a warning) unusable."""
        path = self.path(layer)
        if not path.exists():
            return None
        try:
            found = Covariance.load(path, layers=[layer])
            expected = {**self.known, "dtype": self.dtype}
            for name in ("fingerprint", "corpus", "window", "tokens", "dtype"):
                if (has := getattr(found, name)) != expected[name]:
                    raise CovarianceOfOtherWeights(
                        f"{path} has the {name} {has!r}, expected {expected[name]!r}; remove it"
                    )
        except TracerError as error:
            warnings.warn(f"{error}; the covariance is estimated again", stacklevel=3)
            return None
        # the names of the text and the model may differ
        return replace(found, **self.known)

    def keep(self, layer: int, covariance: Covariance) -> None:
        """Write the covariance of a layer; a folder that cannot be written costs a warning only."""
        try:
            self._make()
            covariance.save(self.path(layer))
        except TracerError as error:
            warnings.warn(f"the covariance is not kept: {error} with TRACER_CACHE, or pass cache=False", stacklevel=3)

    def unfinished(self, *settings: Any) -> Path | None:
        """File of the state of an unfinished run; None (with a warning) for a folder that cannot be written."""
        try:
            self._make()
        except TracerError as error:
            warnings.warn(f"the run cannot be carried on if interrupted: {error} with TRACER_CACHE", stacklevel=3)
            return None
        return self.path("unfinished", *settings)

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise CannotWrite(f"cannot write to the folder {self.folder} ({reason}); choose a writable one") from error
        if not os.access(self.folder, os.W_OK):
            raise CannotWrite(f"cannot write to the folder {self.folder} (no permission); choose a writable one")
