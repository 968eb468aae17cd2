"""The one exception a user of the workbench has to know."""


class TracerError(ValueError):
    """Input that cannot be used. The message names the thing, what was expected, and the repair."""
