"""Panels of the last edit's outcome, of the history, and of the export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import parts, texts
from .export import PARTS
from .session import Session

LABELS = {
    "figures": "heat maps",
    "numbers": "their numbers",
    "edits": "edits",
    "adapters": "LoRA adapters",
    "outcomes": "outcomes",
    "ledger": "ledger",
}


class OutcomePanel:
    """Before and after of the last edit that the model has."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.table = parts.markup()
        self.table.add_class("tw-outcome")
        self.box = parts.panel("Before and after", self.table)
        self.refresh()

    def refresh(self) -> None:
        """Show the present outcome."""
        position = self.session.position
        found = self.session.outcome()
        self.box.layout.display = "" if position else "none"
        if not position:
            self.table.value = ""
            return
        edit = self.session.history[position - 1].edit
        title = f"Edit {position}: {texts.shown(texts.edit_line(edit))}"
        took = f'<span class="tw-quiet"> ({edit.seconds:.1f} s)</span>'
        note = "".join(texts.message(each) for each in (edit.on_text, edit.note) if each)
        if found is None:
            self.table.value = f"<div>{title}</div>" + texts.message(
                "This edit was made elsewhere; it was not measured."
            )
        else:
            self.table.value = texts.outcome(found, title + took) + note


class HistoryPanel:
    """The edits, undo, and going to any of their states."""

    def __init__(self, session: Session, undo: Callable[[], None], checkout: Callable[[], None]) -> None:
        self.session = session
        self.table = parts.markup()
        self.table.add_class("tw-history")
        self.undo = parts.button("undo", "Undo", undo)
        self.state = parts.choice("state", [("0 as it was given", 0)], 0)
        self.go = parts.button("checkout", "Go there", checkout)
        self.slot = parts.column()
        row = parts.row(self.undo, parts.labelled("state", self.state, "170px"), self.go)
        self.box = parts.panel("History", self.table, row, self.slot)
        self.refresh()

    @property
    def controls(self) -> list[Any]:
        """Widgets that are disabled while something is at work."""
        return [self.state, self.go, self.undo]

    def refresh(self) -> None:
        """Show the present history."""
        entries = self.session.history
        self.table.value = texts.history(entries, self.session.position)
        self.state.options = [
            ("0 as it was given", 0),
            *((f"after edit {entry.index}", entry.index) for entry in entries),
        ]
        self.state.value = self.session.position


class ExportPanel:
    """Parts to write, and their folder."""

    def __init__(self, write: Callable[[], None]) -> None:
        self.folder = parts.text("folder", "workbench", "a folder")
        self.parts = {name: parts.tick(f"part-{name}", LABELS[name], True) for name in PARTS}
        self.overwrite = parts.tick("overwrite", "overwrite files of the same names", False)
        self.button = parts.button("export", "Export", write)
        self.slot = parts.column()
        self.box = parts.panel(
            "Export",
            parts.row(parts.labelled("folder", self.folder, "260px", 1), self.overwrite, self.button),
            parts.row(*self.parts.values()),
            self.slot,
        )

    @property
    def controls(self) -> list[Any]:
        """Widgets that are disabled while something is at work."""
        return [self.folder, *self.parts.values(), self.overwrite, self.button]

    def settings(self) -> dict[str, Any]:
        """Arguments of `Session.export`."""
        chosen = [name for name, box in self.parts.items() if box.value]
        return {"folder": self.folder.value.strip(), "parts": chosen, "overwrite": self.overwrite.value}
