"""Long work beside a page that stays alive: a thread of its own, progress, and a way to stop that leaves no trace.

A job has two parts. Its work computes and changes nothing that lasts; it can be cancelled, which is looked at whenever
a progress bar advances and before every block of every forward, so that no model is too large to be left promptly. Its
commit takes the result of the work and makes it count; nothing interrupts that.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from editing.request import EditWarning
from tracer.errors import WorkbenchError
from tracer.progress import heard

if TYPE_CHECKING:
    from tracer.model import Model

BETWEEN = 0.1  # seconds between two reports of progress to a page
State = Literal["ready", "running", "committing", "done", "cancelled", "failed"]


class Cancelled(BaseException):
    """The work was asked to stop.

    Not an Exception, so that no handler on the way takes it for an error to go on from.
    """


@dataclass(frozen=True)
class Progress:
    """Progress of the step at hand.

    Attributes:
        description: of the step.
        done: so far.
        total: to be done; None: not known.
    """

    description: str = ""
    done: float = 0
    total: float | None = None


class Job:
    """One piece of long work on a model. Starts once.

    Args:
        model: whose forwards are watched for a cancellation; hooks are there only while the work runs.
        work: computes a value, and leaves model and everything else as it was, also if it ends by an exception.
        commit: takes that value and makes it count, all or nothing; its result is the job's `value`. None: the value
            itself. A cancellation that comes this late has no effect.
        progressed: called with the job when there is progress; on the event loop that `start` finds, and without one on
            the job's thread.
        ended: called likewise, once, when it is over and `state` says how.

    Attributes:
        state: "ready", "running", "committing", and at the end "done", "cancelled" or "failed".
        value: the result, or None.
        error: the exception of a job that failed, or None.
        warnings: texts of the warnings given on the way, each once.
        progress: the latest `Progress`.
        seconds: wall time of the job, or so far.
    """

    def __init__(
        self,
        model: Model,
        work: Callable[[], Any],
        commit: Callable[[Any], Any] | None = None,
        *,
        progressed: Callable[[Job], None] | None = None,
        ended: Callable[[Job], None] | None = None,
    ) -> None:
        self.state: State = "ready"
        self.value: Any = None
        self.error: Exception | None = None
        self.warnings: tuple[str, ...] = ()
        self.progress = Progress()
        self._model, self._work, self._commit = model, work, commit
        self._progressed, self._ended = progressed, ended
        self._asked, self._reported = threading.Event(), 0.0
        self._began = self._took = 0.0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin, and return at once.

        Raises:
            TracerError: a job that was started before.
        """
        if self._thread is not None:
            raise WorkbenchError("this job was started before; make another")
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # no kernel around: a script, or a test
            self._loop = None
        self.state, self._began = "running", time.monotonic()
        # in a copy of this context, so that output of libraries goes where the page is
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name="workbench", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to stop; it does at the next block of a forward, or the next step of a progress bar."""
        self._asked.set()

    def wait(self, seconds: float | None = None) -> None:
        """Block until it is over.

        Args:
            seconds: at most; None: without limit.

        Raises:
            TracerError: it takes longer.
        """
        if self._thread is None:
            raise WorkbenchError("this job was not started; start it first")
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise WorkbenchError(f"the job is still at work after {seconds:g} seconds; wait longer, or cancel it")

    @property
    def seconds(self) -> float:
        """Wall time of the job, or so far."""
        return self._took or (time.monotonic() - self._began if self._began else 0.0)

    @property
    def cancelling(self) -> bool:
        """Whether it was asked to stop and has not stopped yet."""
        return self.state == "running" and self._asked.is_set()

    # --- on the thread ---------------------------------------------------------------------------------------------
    def _run(self) -> None:
        ending: State = "failed"
        try:
            with heard_warnings() as found, heard(self._hear):
                try:
                    with watched_forwards(self._model, self._look):
                        value = self._work()
                    self._look()
                    self.state = "committing"
                    self.value = value if self._commit is None else self._commit(value)
                    ending = "done"
                finally:
                    self.warnings = tuple(dict.fromkeys(found))
        except Cancelled:
            ending = "cancelled"
        except Exception as error:
            self.error = error
        finally:
            self._took = time.monotonic() - self._began
            self.state = ending
            self._deliver(self._ended)

    def _look(self) -> None:
        if self._asked.is_set():
            raise Cancelled

    def _hear(self, description: str, done: float, total: float | None) -> None:
        if self.state == "running":
            self._look()
        self.progress = Progress(description, done, total)
        now = time.monotonic()
        # a page with ten thousand reports of progress does nothing else
        if self._loop is None or now - self._reported >= BETWEEN:
            self._reported = now
            self._deliver(self._progressed)

    def _deliver(self, call: Callable[[Job], None] | None) -> None:
        if call is None:
            return
        if self._loop is None:
            call(self)
        elif not self._loop.is_closed():  # a kernel that shuts down gets no report
            self._loop.call_soon_threadsafe(call, self)


@contextmanager
def watched_forwards(model: Model, look: Callable[[], None]) -> Iterator[None]:
    """Context in which `look` is called before every block of every forward of this thread; its exceptions end it.

    Forwards of other threads, such as those of another cell of a notebook, are left alone. No hook stays.
    """
    own = threading.get_ident()

    def before(*_: Any) -> None:
        if threading.get_ident() == own:
            look()

    with ExitStack() as stack:
        for layer in range(model.n_layers):
            stack.callback(model.module("hidden", layer).register_forward_pre_hook(before).remove)
        yield


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """Context that yields a list for the texts of this thread's warnings; those of other threads are shown as ever.

    A warning about an edit is heard each time, of others those that the filters let through. The filters belong to the
    whole process: changes of them that other threads make meanwhile are lost.
    """
    own, found = threading.get_ident(), []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def hear(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if threading.get_ident() == own:
                found.append(str(message))
            else:
                show(message, category, *where, **more)

        warnings.simplefilter("always", EditWarning)
        warnings.showwarning = hear
        yield found
