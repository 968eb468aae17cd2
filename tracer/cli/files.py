"""What is written, and under which names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import TracerError

ARTICLE = re.compile(r"^(the|a|an)\s+(?=\S)", re.IGNORECASE)


def slug(subject: str) -> str:
    """A file name for a subject: "The Space Needle" -> "space_needle"."""
    name = ARTICLE.sub("", unicodedata.normalize("NFC", subject).strip().lower())
    return re.sub(r"\W+", "_", name).strip("_")[:48].rstrip("_") or "trace"


def formats(given: str) -> list[str]:
    """The formats named, pictures last: they need a browser, and the numbers are to be safe if there is none."""
    from importlib.util import find_spec

    from ..export import FORMATS, NO_KALEIDO, PICTURES
    from .command import choices

    chosen = choices("format", given, FORMATS)
    if {*chosen} & {*PICTURES} and find_spec("kaleido") is None:
        raise TracerError(NO_KALEIDO)
    return sorted(chosen, key=lambda form: form in PICTURES)


def drawn(suffix: str) -> bool:
    """Whether files of this format hold figures."""
    from ..export import PICTURES

    return suffix in ("html", *PICTURES)


def write(
    folder: Path,
    name: str,
    suffixes: Sequence[str],
    results: Sequence[Any],
    singles: Mapping[str, Any],
    figures: Mapping[str, Callable[[], Any]],
) -> list[Path]:
    """Results in every format: ``results`` as one table or json under ``name``, each of ``singles`` as npz.

    singles, figures: by name of the file, without suffix; figures are made only if they are wanted. Returns the paths.
    """
    from ..export import export

    written = []
    made = {key: make() for key, make in figures.items()} if any(map(drawn, suffixes)) else {}
    for suffix in suffixes:
        if suffix == "npz":
            written += [export(one, folder / f"{key}.npz") for key, one in singles.items()]
        elif drawn(suffix):
            written += [export(figure, folder / f"{key}.{suffix}") for key, figure in made.items()]
        else:
            written.append(export(list(results), folder / f"{name}.{suffix}"))
    return written
