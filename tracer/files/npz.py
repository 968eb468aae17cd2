"""Results on disk: one npz file with arrays and a json header, written whole or not at all, read without running it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tracer.errors import NotASavedResult, out_of_memory

from .atomic import new_file


def write(path: str | Path, format: str, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> Path:
    """Write `arrays` and `header` (what json knows) under the name `format`; return the path.

    Raises:
        TracerError: the file cannot be written; nothing is left behind then.
    """
    text = json.dumps({"format": format, **header}, ensure_ascii=False)
    with new_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays, header=np.frombuffer(text.encode(), dtype=np.uint8))
    return Path(path)


def read(path: str | Path, format: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and header of a file that `write` made under the name `format`.

    Raises:
        TracerError: a missing file, or any other file.
    """
    kind = format.partition("/")[0]
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes().decode())
        found = header.pop("format")
        if found != format:
            raise ValueError(f"it holds {found!r}, expected {format!r}")
        return arrays, header
    except FileNotFoundError as error:
        raise NotASavedResult(f"there is no file {path}; expected one written by {kind}.save") from error
    except Exception as error:  # zip, json, numpy and missing keys each have their own
        if out_of_memory(error):
            raise
        raise NotASavedResult(f"{path} is not a saved {kind} ({error}); expected a file of {kind}.save") from error
