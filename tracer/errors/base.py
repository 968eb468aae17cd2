"""The one exception a user of the workbench has to know, and notes that do not stop the work."""

from typing import ClassVar


class TracerError(ValueError):
    """Input that cannot be used. The message names the thing, what was expected, and the repair.

    Attributes:
        page: the page of the documentation about this kind of error, by its name below `docs/errors`.
    """

    page: ClassVar[str] = "index"


class TracerNote(UserWarning):
    """Something about a model that one should know before trusting its numbers; the work goes on."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out; such errors are passed on as they are, and nothing else is tried.

    Python has MemoryError and torch OutOfMemoryError; allocators and libraries under torch raise RuntimeErrors.
    """
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    if any(mark in said for mark in ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)
