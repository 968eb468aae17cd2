"""Files that commands write, and their names."""

from __future__ import annotations

import filecmp
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tracer.errors import NoBrowser

ARTICLE = re.compile(r"^(the|a|an)\s+(?=\S)", re.IGNORECASE)


def slug(subject: str) -> str:
    """A file name for a subject: "The Space Needle" -> "space_needle"."""
    name = ARTICLE.sub("", unicodedata.normalize("NFC", subject).strip().lower())
    return re.sub(r"\W+", "_", name).strip("_")[:48].rstrip("_") or "trace"


def formats(given: str) -> list[str]:
    """The formats named, pictures last: these need a browser, and the numbers should be safe without one.

    Raises:
        TracerError: an unknown format, or a picture where Kaleido is not installed.
    """
    from importlib.util import find_spec

    from tracer.plots.export import FORMATS, NO_KALEIDO, PICTURES

    from .command import choices

    chosen = choices("format", given, FORMATS)
    if {*chosen} & {*PICTURES} and find_spec("kaleido") is None:
        raise NoBrowser(NO_KALEIDO)
    return sorted(chosen, key=lambda form: form in PICTURES)


def drawn(suffix: str) -> bool:
    """Whether files of this format hold figures."""
    from tracer.plots.export import PICTURES

    return suffix in ("html", *PICTURES)


def placed(folder: Path, make: Callable[[Path], list[Path]]) -> list[Path]:
    """Files that `make` writes into a folder, moved into this one without replacing other files.

    Where one of the names is that of a file with another content, such as the figure of another prompt about the same
    subject, all get a number: "space_needle_2.html". The same content again is the same file. If `make` fails, what it
    wrote until then is kept.

    Returns:
        The paths.
    """
    with TemporaryDirectory(dir=folder, prefix=".") as new:
        moved: dict[str, Path] = {}
        try:
            written = make(Path(new))
        finally:
            some = [path for path in Path(new).iterdir() if not path.name.startswith(".")]
            suffix = next(end for end in _numbers() if all(_is_free(folder / _named(p, end), p) for p in some))
            for path in some:
                moved[path.name] = folder / _named(path, suffix)
                os.replace(path, moved[path.name])
        return [moved[path.name] for path in written]


def _numbers() -> Iterator[str]:
    yield ""
    yield from (f"_{number}" for number in count(2))


def _named(path: Path, suffix: str) -> str:
    return f"{path.stem}{suffix}{path.suffix}"


def _is_free(place: Path, path: Path) -> bool:
    """Whether nothing is there, or the same."""
    return not place.exists() or (place.is_file() and filecmp.cmp(place, path, shallow=False))


def write(
    folder: Path,
    name: str,
    suffixes: Sequence[str],
    results: Sequence[Any],
    singles: Mapping[str, Any],
    figures: Mapping[str, Callable[[], Any]],
) -> list[Path]:
    """Write results in every format: a table or json of all, and an npz file of each.

    Args:
        folder: where to.
        name: the name of the table or json, without suffix.
        suffixes: the formats.
        results: rows of the table.
        singles: results for npz files, by name of the file, without suffix.
        figures: functions that make figures, by name of the file, without suffix; called only for pictures.

    Returns:
        The paths.
    """
    from tracer.plots.export import export

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
