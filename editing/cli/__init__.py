"""The `tracer` command with everything: what `tracer.cli` has, and what edits models and measures that."""

from tracer.cli import app

from . import ability, edit, evaluate, report  # noqa: F401 (each adds its commands to the app)

__all__ = ["app"]
