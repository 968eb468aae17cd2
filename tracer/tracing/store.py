"""A folder of finished traces, so that a long run can be interrupted at any time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tracer.errors import CannotWrite, OtherRun, TracerError
from tracer.files import new_file
from tracer.files import npz as storage

from .trace import CausalTrace

if TYPE_CHECKING:
    from tracer.model import Model

FORMAT = "tracer.average_traces/1"
UNKNOWN = "tracer.UnknownFact/1"
RUN = "run.json"
SAME = ("fingerprint", "kind", "window", "metric", "sever")
Found = CausalTrace | Literal["unknown"]


@dataclass(frozen=True)
class TraceStore:
    """Traces of one run: its settings in `run.json`, and one file per fact, traced or unknown to the model.

    Every file appears whole or not at all, so that a process may stop at any time, and others may be at work. Facts are
    told apart by their identity, a list of what json knows.

    Attributes:
        path: the folder.
        settings: the run's settings.
    """

    path: Path
    settings: dict[str, Any]

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: Model,
        settings: dict[str, Any],
        foil: str | Sequence[str | None] | None,
        trace: Callable[..., CausalTrace],
    ) -> TraceStore:
        """The store in `folder`, made if need be. `settings` are arguments of `trace`, with all that have no default.

        Raises:
            TracerError: a folder that cannot be written or holds another run.
        """
        begun = Path(folder) / RUN
        before = str(_settings(begun).get("fingerprint", "")) if begun.exists() else ""
        header = {
            "format": FORMAT,
            "fingerprint": model.fingerprint(before),
            "sever": None,
            "published_noise": False,
            "tokens": None,
            **{name: value for name, value in settings.items() if name != "max_rows"},
            "corruption": _plain(settings["corruption"]),
            # each fact's own is part of its identity
            "foil": foil if foil is None or isinstance(foil, str) else "one for each fact",
            "trace": name_of(trace),
        }
        store = cls(Path(folder), json.loads(json.dumps(header, default=repr)))
        store._claim()
        there = _settings(store.path / RUN)
        names = [name for name in {**store.settings, **there} if there.get(name) != store.settings.get(name)]
        if names:
            values = "; ".join(f"{n} is {there.get(n)!r} there and {store.settings.get(n)!r} here" for n in names)
            raise OtherRun(f"{store.path} holds the traces of another run: {values}; choose another folder")
        return store

    def find(self, identity: list[Any], expected: dict[str, Any]) -> Found | None:
        """The outcome of a fact: its trace, "unknown" to the model, or None so far.

        Args:
            identity: the fact's.
            expected: values of the trace's fields.

        Raises:
            TracerError: a file that is damaged or has other values.
        """
        path, unknown = self.files(identity)
        try:
            if path.exists():
                trace = CausalTrace.load(path)
                expected = {name: self.settings[name] for name in SAME} | expected
                expected["layers"] = tuple(self.settings["layers"])
                for name, value in expected.items():
                    if (found := getattr(trace, name)) != value:
                        raise OtherRun(f"{path} is not of this run: its {name} is {found!r}, expected {value!r}")
                return trace
            if unknown.exists():
                _, header = storage.read(unknown, UNKNOWN)
                if header.get("fact") != identity:
                    raise OtherRun(f"{unknown} is about another fact, {header.get('fact')!r}")
                return "unknown"
        except TracerError as error:
            raise OtherRun(f"{error}; remove the file to have it made again") from error
        return None

    def keep(self, identity: list[Any], found: Found) -> None:
        """Write down the outcome of a fact.

        Raises:
            TracerError: it cannot be written.
        """
        path, unknown = self.files(identity)
        if isinstance(found, CausalTrace):
            found.save(path)
        else:
            storage.write(unknown, UNKNOWN, {}, {"fact": identity})

    def files(self, identity: list[Any]) -> tuple[Path, Path]:
        """Paths of a fact's trace, and of the note that the model does not know the fact."""
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
        return self.path / f"{name}.npz", self.path / f"{name}.unknown.npz"

    def put(self, path: Path, content: bytes) -> None:
        """Write one of these files as another store of the run has it.

        Raises:
            TracerError: it cannot be written.
        """
        with new_file(path) as temporary:
            temporary.write_bytes(content)

    def _claim(self) -> None:
        """Make the folder and its settings' file, unless they are there."""
        if (self.path / RUN).exists():
            return
        temporary = self.path / f".{RUN}.{uuid.uuid4().hex}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.settings, indent=1))
            try:
                # unlike a rename, this leaves the file alone that another process may have made meanwhile
                os.link(temporary, self.path / RUN)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(temporary, self.path / RUN)
            finally:
                temporary.unlink(missing_ok=True)
        except FileExistsError as error:
            raise CannotWrite(f"{self.path} is a file; expected a folder for the traces") from error
        except OSError as error:
            reason = error.strerror or error
            raise CannotWrite(f"cannot write to the folder {self.path} ({reason}); choose a writable one") from error


def name_of(trace: Callable[..., Any]) -> str:
    """The name of a trace function, with the arguments that a `functools.partial` gives it."""
    if isinstance(trace, functools.partial):
        given = ", ".join(f"{name}={value!r}" for name, value in sorted(trace.keywords.items()))
        return f"{name_of(trace.func)}({given})"
    return getattr(trace, "__qualname__", type(trace).__qualname__)


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no settings")
        return found
    except (OSError, ValueError) as error:
        raise OtherRun(f"{path} is no settings of a run ({error}); choose another folder") from error


def _plain(corruption: Any) -> dict[str, Any]:
    """The settings of a corruption as far as they have a part in its numbers."""
    if not dataclasses.is_dataclass(corruption):
        raise OtherRun(
            f"{type(corruption).__name__} is no dataclass, so a folder of traces cannot tell its settings; make it "
            "one, or leave the folder out"
        )
    plain = {field.name: getattr(corruption, field.name) for field in dataclasses.fields(corruption)}
    if plain.get("level") is not None:  # its source plays no part any more
        plain = {name: value for name, value in plain.items() if name not in ("sigma", "subjects")}
    return {"name": type(corruption).__name__, **plain}
