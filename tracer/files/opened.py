"""The text of a file, unpacked and decoded; files without text are named for their kind."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from tracer.errors import RecordFileError

PACKED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ": lzma.decompress,
}
PACKED_SUFFIXES = (".gz", ".gzip", ".bz2", ".xz")
PARQUET = b"PAR1"
# first bytes of files, their kinds, and the repair
OTHERS: dict[bytes, tuple[str, str]] = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save its table as CSV"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save its table as CSV"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unpack it"),
    b"SQLite format 3": ("a database", "give the file of records it was made of"),
    b"ARROW1": ("an Arrow or Feather file", "save it as Parquet or JSON lines"),
    b"\x89HDF": ("an HDF5 file", "save its table as Parquet or JSON lines"),
    b"%PDF": ("a PDF", "give a file of records"),
    **{bytes([0x80, version]): ("a pickle, which is not opened", "save it as JSON lines") for version in range(2, 6)},
    b"version https://git-lfs": ("a pointer to a file that git LFS keeps", "fetch the file itself: git lfs pull"),
    b"<!DOCTYPE html": ("a web page", "fetch the file itself, not the page that shows it"),
    b"<!doctype html": ("a web page", "fetch the file itself, not the page that shows it"),
    b"<html": ("a web page", "fetch the file itself, not the page that shows it"),
}


def suffix_of(path: Path) -> str:
    """The suffix of a file's format: ".csv" for "x.csv.gz"."""
    name = path.with_suffix("") if path.suffix.lower() in PACKED_SUFFIXES else path
    return name.suffix.lower()


def content_of(path: Path) -> bytes:
    """The content of the file, unpacked.

    Raises:
        TracerError: it cannot be read, is damaged, or is of a kind that holds no text and is not Parquet.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordFileError(
            f"cannot read {path} ({error.strerror or error}); give a JSON, JSON lines, CSV or Parquet file"
        ) from error
    for begin, unpack in PACKED.items():
        if content.startswith(begin):
            try:
                content = unpack(content)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise RecordFileError(
                    f"{path} cannot be unpacked ({error}); it seems cut off: fetch it again"
                ) from error
            break
    for begin, (what, repair) in OTHERS.items():
        if content.startswith(begin):
            raise RecordFileError(f"{path} is {what}; {repair}")
    return content


def text_of(path: Path, content: bytes) -> str:
    """The content as text, in UTF-8 or, where it is marked so, UTF-16; lines end in newlines.

    Raises:
        TracerError: another encoding.
    """
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise RecordFileError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
