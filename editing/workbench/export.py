"""A session as files: heat maps, their numbers, edits, adapters, outcomes, and the ledger, in one folder.

| Files | Contents |
| --- | --- |
| heatmaps.html, heatmaps.png | the traces at hand, as [`tracer.plot_trace`][] draws them (png: with a browser) |
| traces.csv, traces.json | their numbers |
| edit_1_rome.safetensors, ... | each edit that the model has, for [`editing.load_edit`][] |
| adapter_1_rome/, ... | the same as LoRA adapters, for peft |
| outcome_1_rome.csv, ... | every question before and after it |
| ledger/ | the history, which is kept up to date there from then on, for `Editor.open` |
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tracer.errors import TracerError, WorkbenchError
from tracer.plots.export import export as write_result
from tracer.plots.export import writable_folder
from tracer.progress import track

if TYPE_CHECKING:
    from editing.ledger.editor import Entry
    from editing.questions.outcome import Outcome
    from tracer.model import Model
    from tracer.tracing.trace import CausalTrace

PARTS = ("figures", "numbers", "edits", "adapters", "outcomes", "ledger")
LEDGER = "ledger"
Writer = Callable[[Path], object]


@dataclass(frozen=True)
class Exported:
    """Files written.

    Attributes:
        folder: of the files.
        names: in the folder.
        notes: remarks on files that could not be written.
    """

    folder: Path
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Exportable(Protocol):
    """Parts of an [`editing.workbench.session.Session`][] that are exported."""

    ledger: Path | None

    @property
    def model(self) -> Model:
        """The model that is edited."""
        ...

    @property
    def traces(self) -> Sequence[CausalTrace]:
        """The latest traces."""
        ...

    @property
    def history(self) -> Sequence[Entry]:
        """Every edit so far."""
        ...

    def outcome(self, index: int) -> Outcome | None:
        """Outcome of an edit."""
        ...

    def record(self, folder: str | Path) -> None:
        """Write the ledger."""
        ...


def export(
    session: Exportable, folder: str | Path, parts: Sequence[str] | None = None, overwrite: bool = False
) -> Exported:
    """Write the existing parts of a session into a folder, which is made if need be; all of them or not any.

    Args:
        session: to export.
        folder: to write into.
        parts: of "figures", "numbers", "edits", "adapters", "outcomes" and "ledger"; None: all.
        overwrite: put files of the same names aside; others in the folder stay.

    Raises:
        TracerError: an unknown part, nothing to write, a name that is taken (the first is named) without `overwrite`,
            and a folder that cannot be written. Nothing is left behind then, and older files stay.
    """
    wanted = PARTS if parts is None else tuple(parts)
    unknown = [part for part in wanted if part not in PARTS]
    if unknown or not wanted:
        raise WorkbenchError(f"parts is {list(wanted)}; expected one or more of {', '.join(PARTS)}")
    if not str(folder).strip():
        raise WorkbenchError("no folder was named; give one to write to")
    folder = Path(folder).expanduser().absolute()
    notes: list[str] = []
    files = _files(session, wanted, notes)
    ledger = folder / LEDGER
    records = "ledger" in wanted and bool(session.history)
    if records and session.ledger == ledger and ledger.exists():
        records = False
        notes.append(f"{LEDGER}/ is this session's and up to date")
    names = [*files, *([LEDGER] if records else [])]
    if not names:
        raise WorkbenchError("; ".join(notes) or "there is nothing to write yet; trace a fact or make an edit first")
    taken = [name for name in names if (folder / name).exists()]
    if taken and not overwrite:
        more = f" and {len(taken) - 1} more" if taken[1:] else ""
        raise WorkbenchError(f"{folder} has {taken[0]!r}{more} already; choose another folder, or overwrite it")
    with writable_folder(folder), tempfile.TemporaryDirectory(prefix=".export", dir=folder) as made:
        fresh, old = Path(made, "new"), Path(made, "old")
        fresh.mkdir()
        for name, write in track(files.items(), "writing files", len(files)):
            try:
                write(fresh / name)
            except TracerError as error:
                if not name.endswith(".png"):
                    raise
                notes.append(f"no {name}: {error}")  # html shows the same
        written = [name for name in files if (fresh / name).exists()]
        with _replacing(folder, old, [*written, *([LEDGER] if records else [])]):
            for name in written:
                os.replace(fresh / name, folder / name)
            if records:
                session.record(ledger)
    return Exported(folder, (*written, *([LEDGER] if records else [])), tuple(notes))


def _files(session: Exportable, wanted: Sequence[str], notes: list[str]) -> dict[str, Writer]:
    """Name in the folder -> function that writes it."""
    files: dict[str, Writer] = {}
    traces = list(session.traces)
    for part, names in (("figures", ("heatmaps.html", "heatmaps.png")), ("numbers", ("traces.csv", "traces.json"))):
        if part in wanted and traces:
            files |= {name: partial(write_result, traces) for name in names}
    for entry in session.history:
        if not entry.active:
            continue
        name, edit, outcome = f"{entry.index}_{entry.edit.method}", entry.edit, session.outcome(entry.index)
        if "edits" in wanted:
            files[f"edit_{name}.safetensors"] = edit.save
        if "adapters" in wanted:
            files[f"adapter_{name}"] = partial(edit.to_peft, model=session.model)
        if "outcomes" in wanted and outcome is not None:
            files[f"outcome_{name}.csv"] = partial(_table, outcome)
    undone = sum(not entry.active for entry in session.history)
    if undone and {"edits", "adapters", "outcomes"} & {*wanted}:
        notes.append(f"{undone} of {len(session.history)} edits are undone and were left out")
    return files


def _table(outcome: Outcome, path: Path) -> None:
    path.write_text(outcome.to_frame().to_csv(index=False), encoding="utf-8", newline="")


@contextmanager
def _replacing(folder: Path, old: Path, names: Sequence[str]) -> Iterator[None]:
    """Room for `names` in `folder`: files of these names go to `old`, and come back if the body fails."""
    old.mkdir()
    moved: list[str] = []
    cleared = False
    try:
        for name in names:
            if (folder / name).exists():
                os.replace(folder / name, old / name)
                moved.append(name)
        cleared = True  # files of these names are new from here on
        yield
    except BaseException as error:
        for path in [folder / name for name in names] if cleared else []:
            if path.exists():
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        for name in moved:
            os.replace(old / name, folder / name)
        if isinstance(error, OSError):
            raise WorkbenchError(f"cannot write to {folder} ({error.strerror or error}); choose another") from error
        raise
