"""The ledger on disk: one file per edit, and ledger.json, which says which of them count and in what order.

Edits are written first and ledger.json is replaced in one step, so that a process killed at any instant leaves a ledger
as it was before or after. Files that no ledger.json names are leftovers of such an instant and are not read.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editing.edits.edit import load_edit
from tracer.errors import LedgerFolderError, TracerError
from tracer.files import new_file
from tracer.progress import track

from .weight_history import Step

if TYPE_CHECKING:
    from tracer.model import Model

FILE = "ledger.json"
FORMAT = "Ledger/1"


@dataclass(frozen=True)
class Base:
    """The model of a ledger.

    Attributes:
        model: its name.
        dtype: its number type.
        fingerprint: of its weights before any edit.
    """

    model: str
    dtype: str
    fingerprint: str

    @classmethod
    def of(cls, model: Model, fingerprint: str) -> Base:
        """The base of a model at hand."""
        return cls(model.name, str(model.dtype).removeprefix("torch."), fingerprint)


class Ledger:
    """Folder of an editor's history. Made by `create` or `open`; one process writes to it at a time."""

    def __init__(self, folder: Path, base: Base, text: str | None = None, steps: Sequence[Step] = ()) -> None:
        self.folder, self.base = folder, base
        self._text, self._steps = text, tuple(steps)  # as they are on disk

    @classmethod
    def create(cls, folder: str | Path, base: Base, steps: Sequence[Step], position: int) -> Ledger:
        """A new ledger in a folder, which is made if need be; see `write`.

        Args:
            folder: of the ledger.
            base: the model.
            steps: made so far.
            position: number of steps that the model has.

        Raises:
            TracerError: the folder holds a ledger already, or cannot be written.
        """
        folder = Path(folder)
        if (folder / FILE).exists():
            raise LedgerFolderError(
                f"{folder} holds a ledger already; go on with it by Editor.open, or choose another folder"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerFolderError(
                f"cannot make the folder {folder} ({error.strerror or error}); choose another"
            ) from error
        ledger = cls(folder, base)
        ledger.write(steps, position)
        return ledger

    @classmethod
    def open(cls, folder: str | Path) -> tuple[Ledger, tuple[Step, ...], int]:
        """The ledger in a folder, its steps, and the number of steps that the model had.

        Args:
            folder: of the ledger.

        Raises:
            TracerError: no ledger, or one of its files is missing or damaged.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise LedgerFolderError(
                f"there is no ledger in {folder} (no {FILE}); expected a folder an Editor has written"
            )
        steps = []
        try:
            text = path.read_text(encoding="utf-8")
            content: dict[str, Any] = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"it holds {content['format']!r}, expected {FORMAT!r}")
            base, position = Base(**content["base"]), int(content["position"])
            for number, entry in enumerate(track(content["edits"], "reading edits"), 1):
                edit = load_edit(path.with_name(entry["file"]))  # a plain name: no way out of the folder
                step = Step(edit, dict(entry["weights"]), str(entry["fingerprint"]))
                if step.digests.keys() != set(step.edit.weights):
                    raise ValueError(f"{entry['file']} changes other weights than edit {number} did")
                steps.append(step)
            if not 0 <= position <= len(steps):
                raise ValueError(f"position {position} of {len(steps)} edits")
        except TracerError as error:
            raise LedgerFolderError(f"edit {len(steps) + 1} of the ledger in {folder}: {error}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerFolderError(f"{path} is not a readable ledger ({error}); restore it from a copy") from error
        return cls(path.parent, base, text, steps), tuple(steps), position

    def write(self, steps: Sequence[Step], position: int) -> None:
        """Make the folder say that `steps` were made and that the model has the first `position` of them.

        Args:
            steps: made so far.
            position: number of steps that the model has.

        Raises:
            TracerError: something else has written to the folder, or it cannot be written; it is left as it was.
        """
        path = self.folder / FILE
        if (path.read_text(encoding="utf-8") if path.exists() else None) != self._text:
            raise LedgerFolderError(f"{path} was changed by another editor; open the ledger again with Editor.open")
        before = {_file(number, step) for number, step in enumerate(self._steps, 1)}
        entries, fresh = [], []
        try:
            for number, step in enumerate(steps, 1):
                file = _file(number, step)
                if step not in self._steps[number - 1 : number]:
                    fresh.append(file)
                    step.edit.save(self.folder / file)
                entries.append({"file": file, "fingerprint": step.fingerprint, "weights": dict(step.digests)})
            content = {"format": FORMAT, "base": asdict(self.base), "position": position, "edits": entries}
            text = json.dumps(content, ensure_ascii=False, indent=1)
            with new_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except BaseException:
            self._remove(set(fresh) - before)
            raise
        self._text, self._steps = text, tuple(steps)
        self._remove(before - {entry["file"] for entry in entries})

    def _remove(self, files: set[str]) -> None:
        for file in files:
            with contextlib.suppress(OSError):  # a leftover does no harm
                (self.folder / file).unlink(missing_ok=True)


def _file(number: int, step: Step) -> str:
    # named after the weights it leads to, so that another edit in its place is another file
    return f"{number:04d}-{step.fingerprint[:16]}.safetensors"
