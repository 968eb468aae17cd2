"""The status line: a progress bar and a Cancel button while there is work, then how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import parts, texts

if TYPE_CHECKING:
    from .jobs import Job


class Status:
    """One line for the whole page; it stands in the panel whose button was pressed last."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        library = parts.library()
        self.bar = library.IntProgress(value=0, min=0, max=1, layout={"width": "220px", "height": "14px"})
        self.bar.add_class("tw-bar")
        self.step = parts.markup("", "tw-quiet")
        self.cancel = parts.button("cancel", "Cancel", cancel)
        self.cancel.disabled = True
        self.work = parts.row(self.bar, self.step, self.cancel)
        self.work.layout.align_items = "center"
        self.work.layout.display = "none"
        self.message = parts.markup()
        self.message.add_class("tw-status")
        self.box = parts.column(self.work, self.message)
        self._slot: Any = None

    def stand_in(self, slot: Any) -> None:
        """Move into the slot of a panel."""
        if self._slot is not None and self._slot is not slot:
            self._slot.children = ()
        self._slot, slot.children = slot, (self.box,)

    def begin(self, title: str) -> None:
        """Show that there is work."""
        self.message.value, self.step.value = "", texts.shown(title)
        self.bar.value, self.bar.max, self.bar.bar_style = 0, 1, "info"
        self.cancel.disabled = False
        self.work.layout.display = ""

    def tell(self, title: str, job: Job) -> None:
        """Show the progress."""
        if job.state not in ("running", "committing"):
            return  # a report that comes after the end
        now = job.progress
        if now.total:
            self.bar.max = max(1, int(now.total))
            self.bar.value = min(int(now.done), self.bar.max)
        count = f" {now.done:g} of {now.total:g}" if now.total else ""
        step = f"{title}: {now.description}{count}" if now.description else title
        if job.cancelling:
            step = f"{title}: stopping"
        self.step.value = f"{texts.shown(step)} ({job.seconds:.0f} s)"

    def end(self, message: str) -> None:
        """Show how it ended."""
        self.work.layout.display = "none"
        self.cancel.disabled = True
        self.message.value = message
