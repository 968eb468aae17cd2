"""Report of an evaluation: one page with tables, figures and every answer; or Markdown tables."""

from .markdown import as_markdown
from .page import render, write

__all__ = ["as_markdown", "render", "write"]
