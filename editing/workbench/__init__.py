"""The workbench for JupyterLab: trace a fact, look at cells, edit, compare, go back, export. See `workbench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .session import Session

if TYPE_CHECKING:
    from tracer.model import Model

    from .page import Workbench

__all__ = ["Session", "workbench"]


def workbench(model: Model | None = None) -> Workbench:
    """A page for JupyterLab to trace a fact, edit it, and see the effects. Leave it as a cell's last line.

    Also available as `tracer.workbench`. The result's `session`, an [`editing.workbench.session.Session`][], does the
    same without a page.

    Args:
        model: the caller's own, on which edits are made; undo gives the exact bits of before. While a trace or an edit
            is at work, in a thread of its own, other cells can run, but should leave the model alone. None: the
            embedded model.

    Raises:
        TracerError: ipywidgets or anywidget is missing (pip install "tracer-workbench[lab]").
    """
    from tracer.model import load

    from .page import Workbench

    return Workbench(load() if model is None else model)
