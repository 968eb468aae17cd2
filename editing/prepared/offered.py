"""Prepared values in folders that fit a model: what a page can offer for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import TracerError
from tracer.files import cache_folder
from tracer.files import tensors as tensorfile

from .identity import tokenizer_hash
from .prepared import FORMAT

if TYPE_CHECKING:
    from tracer.model import Model

UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Offer:
    """A file with a prepared value that fits a model.

    Attributes:
        path: of the file.
        method: that can use it.
        seconds: wall time that it took to make.
    """

    path: Path
    method: str
    seconds: float


def offered(model: Model, folders: Iterable[str | Path] | None = None, origin: str | None = None) -> tuple[Offer, ...]:
    """Files that were prepared for a model's weights and tokenizer, the newest first; only their headers are read.

    What is no prepared value, or one for another model, is passed over.

    Args:
        model: to be edited.
        folders: to look in, not in those inside them; None: the working folder and the user's cache.
        origin: hash of the weights before any edit, for which a value may have been made too.
    """
    places = (Path(), cache_folder() / "prepared") if folders is None else tuple(map(Path, folders))
    files = [file for place in places if place.is_dir() for file in place.glob(f"*{tensorfile.SUFFIX}")]
    model, tokenizer = model.pinned(), tokenizer_hash(model)
    found = []
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        if UNFINISHED in file.suffixes:
            continue
        try:
            header = tensorfile.read(file, FORMAT, names=())[1]
            offer = Offer(file, str(header["method"]), float(header["seconds"]))
        except (TracerError, KeyError, TypeError, ValueError):
            continue
        made_on = str(header.get("fingerprint"))
        if made_on in (model.weights_fingerprint(made_on), origin) and header.get("tokenizer") == tokenizer:
            found.append(offer)
    return tuple(found)
