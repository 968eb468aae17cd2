"""The `tracer` command: find where a language model keeps a fact."""

# the order of the commands in the help
from . import traces, averages, neurons, world, doctor  # noqa: F401, I001 (each adds its commands to the app)
from .command import app
from .files import slug

__all__ = ["app", "slug"]
