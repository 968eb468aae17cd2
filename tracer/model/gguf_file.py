"""GGUF files on disk: finding them, joining parts, and their header before a tensor is read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from types import MappingProxyType
from typing import Any

import numpy as np

from tracer.errors import GGUFError, out_of_memory
from tracer.extras import install
from tracer.progress import track

from .rope import Scaling

SUFFIX = ".gguf"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf", re.IGNORECASE)
AGAIN = "fetch or copy it again"
_ONE = RLock()


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file, before any tensor is read.

    Attributes:
        file: the file.
        name: as the user knows it, for messages.
        architecture: as llama.cpp names it, such as `"llama"` or `"gemma3"`.
        settings: fields about the architecture, without its name in front, such as `"block_count"`.
        scaling: of rotary positions; None without any.
    """

    file: Path
    name: str
    architecture: str
    settings: Mapping[str, Any] = field(repr=False)
    scaling: Scaling | None = field(default=None, repr=False)


def only_file(folder: Path, name: str) -> Path | None:
    """The GGUF file in a folder (the first part of one in several); None without one.

    Raises:
        TracerError: several models, of which one has to be named.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() == SUFFIX)
    shards = {file: found for file in files if (found := _SHARD.fullmatch(file.name))}
    models = {shards[file]["stem"] if file in shards else file.name: file for file in reversed(files)}
    if len(models) > 1:
        listed = ", ".join(sorted(file.name for file in models.values())[:4])
        raise GGUFError(f"{name!r} holds {len(models)} GGUF models ({listed}); name the file that is meant")
    return next(iter(models.values()), None)


@contextmanager
def opened(file: Path, name: str) -> Iterator[Header]:
    """The header of a GGUF file whose every tensor is in the file; parts are joined in a temporary file meanwhile.

    The file is read once: transformers, which reads it anew for the configuration, the tokenizer and the weights, is
    given what was read here.

    Raises:
        TracerError: the `gguf` package or a part is missing, or the file is not GGUF, cut short or without
            architecture.
    """
    if find_spec("gguf") is None:
        raise GGUFError(f"{name!r} is a GGUF file, and reading one needs the package gguf: {install('gguf')}")
    parts = _parts(file, name)
    with tempfile.TemporaryDirectory(prefix="tracer-") if len(parts) > 1 else nullcontext("") as folder:
        whole = _joined(parts, Path(folder) / "joined.gguf", name) if len(parts) > 1 else file
        reader = _reader(whole, name)
        with _shared(whole, reader):
            yield _header(whole, name, reader)


def _parts(file: Path, name: str) -> list[Path]:
    """All files of a model, in order."""
    shard = _SHARD.fullmatch(file.name)
    if shard is None:
        return [file]
    count = int(shard["parts"])
    files = [file.with_name(f"{shard['stem']}-{part:05d}-of-{count:05d}.gguf") for part in range(1, count + 1)]
    missing = [part.name for part in files if not part.is_file()]
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise GGUFError(f"{name!r} is one of {count} parts, and {listed} is missing; put all parts into one folder")
    return files


@contextmanager
def _shared(file: Path, reader: Any) -> Iterator[None]:
    """Whoever meanwhile opens the file by the package's own reader gets this one."""
    import gguf

    def given(path: Any, *mode: Any) -> Any:
        return reader if Path(path).absolute() == file.absolute() and mode in ((), ("r",)) else before(path, *mode)

    with _ONE:  # threads that load at once would restore each other's
        before = gguf.GGUFReader
        gguf.GGUFReader = given  # type: ignore[misc,assignment]
        try:
            yield
        finally:
            gguf.GGUFReader = before  # type: ignore[misc]


def _reader(file: Path, name: str) -> Any:
    from gguf import GGUFReader

    class Reader(GGUFReader):
        """Reads through a plain array: of a memory map, each slice (a vocabulary has millions) costs much more."""

        @property
        def data(self) -> np.ndarray:
            return self._plain

        @data.setter
        def data(self, mapped: np.memmap) -> None:
            self._plain = np.asarray(mapped)

    try:
        return Reader(file)
    except Exception as error:  # whatever the bytes lead to
        if out_of_memory(error):
            raise
        with open(file, "rb") as start:
            magic = start.read(4)
        what = "is no GGUF file" if magic != b"GGUF" else "is cut short or damaged"
        raise GGUFError(f"{name!r} {what} ({' '.join(str(error).split())}); {AGAIN}") from error


def _header(file: Path, name: str, reader: Any) -> Header:
    stated = reader.get_field("general.architecture")
    if stated is None:
        raise GGUFError(f"{name!r} names no architecture (general.architecture); it holds no language model")
    parts = reader.get_field("split.count")
    if parts is not None and int(parts.contents()) > 1:
        raise GGUFError(
            f"{name!r} is one of {int(parts.contents())} parts of a model, and was renamed; rename the parts so that "
            "they end in -00001-of-0000N.gguf, in one folder"
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    architecture = str(stated.contents())
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in reader.fields.items() if key.startswith(prefix)}
    settings = {key: value.contents() for key, value in own.items()}
    rotary = {key: tensor.data for key, tensor in tensors.items() if key.startswith("rope_")}
    return Header(file, name, architecture, MappingProxyType(settings), Scaling.of(rotary, settings))


def _joined(parts: Sequence[Path], out: Path, name: str) -> Path:
    """One file with the tensors of all parts and the fields of the first."""
    from gguf import GGUFWriter

    readers = [_reader(part, name if part.name in name else str(part)) for part in parts]
    stated = readers[0].get_field("general.architecture")
    if stated is None:
        raise GGUFError(f"{parts[0].name!r} names no architecture; it is not the first part of a language model")
    writer = GGUFWriter(out, str(stated.contents()))
    for key, given in readers[0].fields.items():
        if not key.startswith(("GGUF.", "split.")) and key != "general.architecture":
            writer.add_key_value(
                key, given.contents(), given.types[0], given.types[-1] if len(given.types) > 1 else None
            )
    for reader in track(readers, f"Joining {len(parts)} parts"):
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
