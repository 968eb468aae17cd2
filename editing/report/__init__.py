"""One page that tells an evaluation: tables, figures, and every answer."""

from .page import render, write

__all__ = ["render", "write"]
