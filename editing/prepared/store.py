"""Where prepared values are kept between runs, and the state of a preparation that is not finished."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3
from torch import Tensor

from tracer.errors import CannotWrite, TracerError
from tracer.files import cache_folder
from tracer.files import tensors as tensorfile

from .prepared import Prepared, load_prepared

FORMAT = "Preparation/1"  # the state of an unfinished one


@dataclass(frozen=True)
class Shelf:
    """Place of one prepared value in a folder; its name is a hash of all that determines the value.

    Attributes:
        folder: of the files.
        known: all that the value depends on; json values.
    """

    folder: Path
    known: Mapping[str, Any]

    @classmethod
    def of(cls, place: bool | str | Path, known: Mapping[str, Any]) -> Shelf:
        """A place in the folder `place`, or in the user's cache folder for True."""
        return cls(cache_folder() / "prepared" if place is True else Path(str(place)).expanduser(), known)

    @property
    def path(self) -> Path:
        """File of the value."""
        name = blake3(json.dumps(dict(self.known), sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{name}.safetensors"

    @property
    def unfinished(self) -> Path:
        """File of the state of a preparation that was cut off."""
        return self.path.with_suffix(".unfinished.safetensors")

    def find(self) -> Prepared | None:
        """The value; None if it is not there, or (with a warning) unusable."""
        if not self.path.exists():
            return None
        try:
            return load_prepared(self.path)
        except TracerError as error:
            warnings.warn(f"{error}; it is prepared again", stacklevel=3)
            return None

    def keep(self, value: Prepared) -> None:
        """Write the value; a folder that cannot be written costs a warning only."""
        try:
            self.make()
            value.save(self.path)
        except TracerError as error:
            warnings.warn(f"what was prepared is not kept: {error} with TRACER_CACHE, or save it", stacklevel=3)

    def make(self) -> None:
        """Make the folder.

        Raises:
            TracerError: it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise CannotWrite(f"cannot write to the folder {self.folder} ({reason}); choose a writable one") from error


@dataclass(eq=False)
class Checkpoint:
    """The state of work that may be cut off, in one file, whole at every instant.

    Attributes:
        path: of the file; None: nothing is kept.
        every: seconds between two writes; more where writing takes long, so that it costs a tenth of the time at most.
        known: json values that the state belongs to; a file with others is not used.
        elapsed: seconds of earlier runs.
    """

    path: Path | None = None
    every: float = 30.0
    known: Mapping[str, Any] = field(default_factory=dict)
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._due = self._began + self.every

    @property
    def seconds(self) -> float:
        """Seconds of all runs so far."""
        return self.elapsed + time.monotonic() - self._began

    @property
    def due(self) -> bool:
        """Whether it is time to `save`."""
        return self.path is not None and time.monotonic() >= self._due

    def load(self, part: str = "") -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and json values of the last `save` of a part; None if there is none, or (with a warning) a bad one.

        Args:
            part: name of a part of the work, where it has several.
        """
        path = self._path(part)
        if path is None or not path.exists():
            return None
        try:
            tensors, header = tensorfile.read(path, FORMAT)
        except TracerError as error:
            warnings.warn(f"{error}; it is prepared from the beginning", stacklevel=3)
            return None
        if header["known"] != json.loads(json.dumps(dict(self.known))):
            return None
        self.elapsed = max(self.elapsed, float(header["seconds"]))
        return tensors, header["state"]

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], part: str = "") -> None:
        """Write the state; a disk that is full is no reason to stop, and costs a warning.

        Args:
            tensors: by name.
            state: json values.
            part: as of `load`.
        """
        path = self._path(part)
        if path is None:
            return
        begun = time.monotonic()
        try:
            header = {"known": dict(self.known), "seconds": self.seconds, "state": dict(state)}
            tensorfile.write(path, FORMAT, tensors, header)
        except TracerError as error:
            warnings.warn(f"the state is not kept: {error}", stacklevel=3)
            self.path = None
            return
        now = time.monotonic()
        self._due = now + (max(self.every, 9 * (now - begun)) if self.every else 0)

    def remove(self) -> None:
        """Remove the files of all parts."""
        if self.path is not None:
            for file in self.path.parent.glob(f"{self.path.stem}*{self.path.suffix}"):
                file.unlink(missing_ok=True)

    def _path(self, part: str) -> Path | None:
        if self.path is None or not part:
            return self.path
        return self.path.with_name(f"{self.path.stem}.{part}{self.path.suffix}")
