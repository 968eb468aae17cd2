"""The door to the workbench, which is in the other package; nothing of it is imported before it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editing.workbench.page import Workbench

    from .model import Model


def workbench(model: Model | None = None) -> Workbench:
    """A page for JupyterLab to trace a fact, edit it, and see what that did. Leave it as a cell's last line.

    model: the embedded one if none is given. It is the caller's own, and edits are made on it; undo gives the exact
        bits of before. While a trace or an edit is at work, in a thread of its own, other cells can run, but should
        leave the model alone.

    The result's ``session`` does the same without a page. Raises TracerError where ipywidgets or anywidget is missing
    (pip install 'tracer[lab]').
    """
    from editing.workbench import workbench as page

    return page(model)
