"""The ``tracer`` command with everything: what :mod:`tracer.cli` has, and ``tracer edit``."""

from tracer.cli import app

from . import edit  # noqa: F401 (adds its command to the app)

__all__ = ["app"]
