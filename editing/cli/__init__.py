"""The complete `tracer` command: that of `tracer.cli`, and the commands that edit models and evaluate edits."""

from tracer.cli import app

from . import ability, edit, evaluate, prepare, report, tasks, unlearn  # noqa: F401 (each adds its commands to the app)

__all__ = ["app"]
