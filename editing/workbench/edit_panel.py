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
            parts.row(
                parts.labelled("paraphrases, one a line", self.paraphrases, "300px", 1),
                parts.labelled("neighbours, prompts about others, one a line", self.neighbours, "300px", 1),
            ),
            parts.row(self.button, self.hint),
            self.slot,
        )
        self.method.observe(lambda _: self._fill(), "value")

    @property
    def controls(self) -> list[Any]:
        """Widgets that are disabled while something is at work."""
        return [self.target, self.method, self.layers, self.paraphrases, self.neighbours, self.button]

    def suggest(self, found: Suggestion) -> None:
        """Fill in layers: the best for a method that writes at one, else the window.

        Args:
            found: the layers suggested.
        """
        self._suggestion, self._filled = found, self.layers.value
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
        return {
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
