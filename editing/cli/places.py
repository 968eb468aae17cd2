"""Files and folders of `tracer edit`: checked before the work, written after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.cli import files
from tracer.cli.command import choice
from tracer.errors import CommandOptionError
from tracer.plots.export import export, writable_folder

if TYPE_CHECKING:
    from editing.edits.edit import Edit
    from editing.ledger.editor import Editor
    from editing.questions.outcome import Outcome

EXPORTS = ("peft", "hf", "baked")


@dataclass(frozen=True)
class Places:
    """The options that name files and folders.

    Attributes:
        save: file for the edit.
        reports: files for the outcome, by suffix a figure or numbers.
        form: contents of `out`: a LoRA adapter ("peft"), the edited model ("hf"), or that with its
            memories made a part of its weights ("baked"); None: nothing is exported.
        out: that folder, new or empty.
        ledger: folder of an editor's history.
    """

    save: Path | None
    reports: Sequence[Path]
    form: str | None
    out: Path | None
    ledger: Path | None

    @classmethod
    def checked(
        cls, save: Path | None, reports: Sequence[Path], form: str | None, out: Path | None, ledger: Path | None
    ) -> Places:
        """The places, checked against one another.

        Args:
            save: see the class.
            reports: see the class.
            form: see the class.
            out: see the class.
            ledger: see the class.

        Raises:
            TracerError: invalid names of files and folders.
        """
        if form is not None:
            form = choice("export", form, EXPORTS)
            if out is None:
                raise CommandOptionError(f"--export {form} needs a folder to write to; name it: --out FOLDER")
        elif out is not None:
            raise CommandOptionError("--out is for --export peft, hf or baked; add one of them, or leave it out")
        if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise CommandOptionError(f"{out} is there and holds something already; name a new or an empty folder")
        if save is not None and save.suffix not in ("", ".safetensors"):
            raise CommandOptionError(
                f"an edit is saved as safetensors, not as {save.suffix!r}; name it {save.stem}.safetensors"
            )
        for report in reports:
            if files.formats(report.suffix or "none") == ["npz"]:
                raise CommandOptionError(
                    f"an outcome is no npz file: {report}; name a html, png, svg, pdf, json or csv file"
                )
        for path in (save, *reports):
            if path is not None and path.is_dir():
                raise CommandOptionError(f"{path} is a folder; name a file in it")
        return cls(save, tuple(reports), form, out, ledger)

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Context in which every folder can be written to; those made are removed again if the work fails.

        Raises:
            TracerError: a folder that cannot be written to.
        """
        folders = [path.parent for path in (self.save, *self.reports) if path is not None]
        with ExitStack() as stack:
            for folder in (*folders, self.out, self.ledger):
                if folder is not None:
                    stack.enter_context(writable_folder(folder))
            yield

    def write(self, edit: Edit, outcome: Outcome, editor: Editor) -> list[Path]:
        """Write all but the ledger; the editor's model is as it was before the edit, and stays so."""
        written = [] if self.save is None else [edit.save(self.save)]
        if self.out is not None and self.form == "peft":
            written.append(edit.to_peft(self.out, model=editor.model))
        elif self.out is not None:
            with editor.preview(edit, force=True), _quiet():
                written.append(editor.save_pretrained(self.out, baked=self.form == "baked"))
        return [*written, *self.report(outcome)]

    def report(self, outcome: Outcome) -> list[Path]:
        """Write the outcome alone: a figure or numbers, by suffix."""
        from editing.plots.outcome import plot_outcome

        drawn = [path for path in self.reports if files.drawn(path.suffix[1:].lower())]
        figure = plot_outcome(outcome) if drawn else None
        return [export(figure if path in drawn else outcome, path) for path in self.reports]


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without the progress bars of transformers, which are drawn into files too."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    try:
        logging.disable_progress_bar()
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
