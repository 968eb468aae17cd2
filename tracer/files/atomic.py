"""All or nothing: files and folders that appear whole, and a few steps that Ctrl-C cannot come between."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracer.errors import CannotWrite


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there inside replaces `path` at the end, or leaves no trace.

    Raises:
        TracerError: the file cannot be written.
    """
    path = Path(path)
    temporary = _sibling(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # the name must not be on the disk before the content is
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise CannotWrite(f"cannot write to {path} ({reason}); choose a file in a writable folder") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary empty folder beside `folder` that takes its name at the end, or leaves no trace.

    Raises:
        TracerError: `folder` holds files already and `overwrite` is false, or it cannot be written.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not (folder.is_dir() and (overwrite or not any(folder.iterdir()))):
        what = "is not empty; choose another folder, or pass overwrite=True" if folder.is_dir() else "is no folder"
        raise CannotWrite(f"{folder} {what}")
    temporary, old = _sibling(folder), _sibling(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    except OSError as error:
        reason = error.strerror or error
        raise CannotWrite(f"cannot write to {folder} ({reason}); choose a folder in a writable place") from error
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the end of the block, where it takes effect.

    Only the main thread receives it, so in other threads there is nothing to do.
    """
    held = []
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:  # None: not set from Python
        yield
        return
    signal.signal(signal.SIGINT, lambda *received: held.append(received))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{path.suffix}")  # some writers go by the suffix
