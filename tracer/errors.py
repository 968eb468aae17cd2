"""The one exception a user of the workbench has to know, and what is said without stopping the work."""


class TracerError(ValueError):
    """Input that cannot be used. The message names the thing, what was expected, and the repair."""


class TracerNote(UserWarning):
    """Something about a model that one should know before trusting its numbers; the work goes on."""
