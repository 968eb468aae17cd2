"""Errors about what surrounds the work: runs, files, figures, commands."""

from .base import TracerError


# --- long runs -------------------------------------------------------------------------------------------------------
class RunError(TracerError):
    """A long run cannot begin or go on."""


class OtherRun(RunError):
    """The file or folder of a run with other settings."""

    page = "other-run"


class RunFileError(RunError):
    """The file of a run cannot be used."""

    page = "run-file"


class JobError(RunError):
    """Jobs of a run, or what they write."""

    page = "jobs"


class WorkerError(RunError):
    """Workers that cannot begin, or jobs that failed."""

    page = "workers"


class ClusterError(RunError):
    """No Ray cluster."""

    page = "cluster"


# --- files and figures -----------------------------------------------------------------------------------------------
class FileError(TracerError):
    """A file or a figure cannot be read, written or drawn."""


class NotASavedResult(FileError):
    """A file that is not the saved result."""

    page = "not-a-saved-result"


class CannotWrite(FileError):
    """A file or folder cannot be written."""

    page = "cannot-write"


class ResultArrayError(FileError):
    """Arrays of a result that do not fit each other."""

    page = "arrays-of-a-result"


class NoBrowser(FileError):
    """No browser, or no Kaleido, for png, svg and pdf."""

    page = "no-browser"


class ExportError(FileError):
    """What is to be exported does not go with the format."""

    page = "export"


class NothingToDraw(FileError):
    """A plot got something else, or nothing."""

    page = "nothing-to-draw"


class SeveredFigureError(FileError):
    """Results that do not belong in a figure of severed paths."""

    page = "severed-figure"


# --- the command and the workbench -----------------------------------------------------------------------------------
class CommandError(TracerError):
    """The command or the workbench was asked for what does not go together."""


class CommandOptionError(CommandError):
    """Options of the command that are wrong or do not go together."""

    page = "command-options"


class CommandFileError(CommandError):
    """A file of facts or requests for the command."""

    page = "files-of-the-command"


class WorkbenchError(CommandError):
    """A step of the workbench that is not possible yet."""

    page = "workbench"
