"""Panel of the edit: the new target, the method, its layers, and the prompts that test it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from editing.methods.compute import METHODS, method_named
from tracer.checks import written_layers
from tracer.errors import WorkbenchError

from . import parts
from .cells import Suggestion
from .session import Session

LAYERS = re.compile(r"(\d+)(?:\s*(?:-|–|to)\s*(\d+))?")


class EditPanel:
    """Fields of an edit, and the button that makes it.

    Args:
        session: to edit in.
        edit: called when the button is pressed.
    """

    def __init__(self, session: Session, edit: Callable[[], None]) -> None:
        self.session = session
        self.target = parts.text("target", placeholder="what should follow the prompt")
        self.method = parts.choice(
            "method", [(f"{name} – {method_named(name).summary}", name) for name in METHODS], "rome"
        )
        self.layers = parts.text("layers", placeholder="the method's own")
        self.prepared = parts.file("prepared")
        self._prepared = parts.row(parts.labelled("prepared file, for this method", self.prepared, "330px", 1))
        self.paraphrases = parts.lines("paraphrases")
        self.neighbours = parts.lines("neighbours")
        self.button = parts.button("edit", "Edit", edit, main=True)
        self.hint = parts.markup()
        self.slot = parts.column()
        self._suggestion, self._filled = Suggestion(), ""
        self.box = parts.panel(
            "Edit",
            parts.row(
                parts.labelled("new target", self.target, "190px", 1),
                parts.labelled("method", self.method, "330px", 1),
                parts.labelled("layers, such as 2 or 2-4", self.layers, "150px"),
            ),
            self._prepared,
            parts.row(
                parts.labelled("paraphrases, one a line", self.paraphrases, "300px", 1),
                parts.labelled("neighbours, prompts about others, one a line", self.neighbours, "300px", 1),
            ),
            parts.row(self.button, self.hint),
            self.slot,
        )
        self.method.observe(lambda _: self._chosen(), "value")
        self._chosen()

    @property
    def controls(self) -> list[Any]:
        """Widgets that are disabled while something is at work."""
        fields = [self.target, self.method, self.layers, self.prepared, self.paraphrases, self.neighbours]
        return [*fields, self.button]

    def suggest(self, found: Suggestion) -> None:
        """Fill in layers: the best for a method that writes at one, else the window.

        Args:
            found: the layers suggested.
        """
        self._suggestion, self._filled = found, self.layers.value
        self._fill()

    def _chosen(self) -> None:
        """Offer the prepared files that a method could use, where it uses any, and layers."""
        method = method_named(self.method.value)
        asks = "prepared" in method.needs
        self._prepared.layout.display = "" if asks else "none"
        self.prepared.value = ""
        if asks:
            self.prepared.options = [str(each.path) for each in self.session.prepared(method.name)]
            count = len(self.prepared.options)
            self.prepared.placeholder = (
                f"empty: what comes with the package; files here that fit: {count}"
                if count
                else f"empty: what comes with the package; or a file of tracer prepare {method.name} RECORDS --out FILE"
            )
        self._fill()

    def _fill(self) -> None:
        """Where the layers are those filled in before, and not typed, fill in those that fit the method, if any do."""
        if self._suggestion.best is None or self.layers.value != self._filled:
            return
        method = method_named(self.method.value)
        layers = [self._suggestion.best] if method.layers == "one" else self._suggestion.window
        fit = layers if method.located and method.layers != "none" else ()
        self.layers.value = self._filled = ", ".join(map(str, fit))

    def known(self, count: tuple[int, int] | None) -> None:
        """Show the number of paraphrases and neighbours that FactWorld has for the fact; None: it does not have it."""
        if count is None:
            hint, field = "The model is changed in place; undo gives its exact bits back.", "none"
        else:
            hint = (
                "Left empty, FactWorld's own are asked. The model is changed in place; undo gives its exact bits back."
            )
            field = "empty: FactWorld's {} own"
        self.hint.value = f'<span class="tw-quiet">{hint}</span>'
        for place, lines in enumerate((self.paraphrases, self.neighbours)):
            lines.placeholder = field.format(count[place]) if count else field

    def settings(self) -> dict[str, Any]:
        """Arguments of `Session.proposed`.

        Raises:
            TracerError: invalid layers; no target.
        """
        target = self.target.value.strip()
        if not target:
            raise WorkbenchError("there is no new target; write what should follow the prompt")
        path = self.prepared.value.strip()
        return {
            **({"prepared": path} if path else {}),
            "target": target,
            "method": self.method.value,
            "layers": as_layers(self.layers.value),
            "paraphrases": typed(self.paraphrases.value),
            "neighbours": typed(self.neighbours.value),
        }


def as_layers(text: str) -> tuple[int, ...] | None:
    """Layers written as "3", "2, 4" or "2-4"; None for an empty text.

    Args:
        text: as typed.

    Raises:
        TracerError: anything else.
    """
    return written_layers(text, kind=WorkbenchError) or None


def typed(text: str) -> Sequence[str] | None:
    """The lines of a field, or None for an empty one."""
    return text.splitlines() if text.strip() else None
