"""The workbench for JupyterLab: trace a fact, look at cells, edit, compare, go back, export. See :func:`workbench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from editing.workbench.session import Session

if TYPE_CHECKING:
    from editing.workbench.page import Workbench
    from tracer import Model

__all__ = ["Session", "workbench"]


def workbench(model: Model | None = None) -> Workbench:
    """The page that :func:`tracer.workbench` opens; what it does without a page is :class:`Session`."""
    from editing.workbench.page import Workbench
    from tracer import load

    return Workbench(load() if model is None else model)
