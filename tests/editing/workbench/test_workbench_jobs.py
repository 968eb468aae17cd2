"""Jobs: a thread, progress, and a cancellation at any forward that leaves the model and the session as they were."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from handmade import own

from editing.request import EditWarning
from editing.workbench import jobs
from editing.workbench.jobs import Cancelled, Job, Progress, heard_warnings, watched_forwards
from editing.workbench.session import Session
from tracer import Fact, GaussianNoise, causal_trace
from tracer.errors import TracerError
from tracer.model import Model
from tracer.progress import bar, track

Tiny = Callable[[str], Model]
PROMPT, SUBJECT = "The Space Needle is in downtown", "The Space Needle"
NOISE = GaussianNoise(sigma=1.0, samples=2)
QUICK: dict[str, dict[str, Any]] = {
    "rome": {"mom2_adjustment": False, "v_steps": 4, "v_lr": 0.1, "context_templates": ["{}"], "layers": (1,)},
    "ft_m": {"steps": 4, "layers": (1,)},
    "lora": {"steps": 4, "layers": (1, 2), "dropout": 0.1},
}
WAIT = 60


@pytest.fixture
def session(tiny: Tiny) -> Session:
    made = Session(own(tiny("gpt2")))
    made.align(PROMPT, SUBJECT)
    return made


def ran(job: Job) -> Job:
    job.start()
    job.wait(WAIT)
    return job


@contextmanager
def each_forward(model: Model, call: Callable[[int], None]) -> Iterator[None]:
    """``call(n)`` when the first block is entered the n-th time, before any hook of a job."""
    count = iter(range(1, 1_000_000))
    handle = model.module("hidden", 0).register_forward_pre_hook(lambda *_: call(next(count)))
    try:
        yield
    finally:
        handle.remove()


def seen(model: Model) -> Any:
    """Whatever can be seen of a model: weights, hooks, modules, flags."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    modules = [
        (name, id(module), module.training, [len(getattr(module, each)) for each in hooks])
        for name, module in model.hf.named_modules()
    ]
    asking = [(name, id(p), p.requires_grad, p.grad is None) for name, p in model.hf.named_parameters()]
    return model.fingerprint(), modules, asking, sorted(vars(model.hf))


# --- what a job is ---------------------------------------------------------------------------------------------------
def test_a_job_runs_beside_and_tells_how_far_it_is(tiny: Tiny) -> None:
    told: list[Progress] = []
    ended: list[str] = []

    def work() -> int:
        assert threading.current_thread() is not threading.main_thread()
        return sum(track(range(3), "adding"))

    job = Job(
        tiny("gpt2"),
        work,
        lambda value: value * 10,
        progressed=lambda job: told.append(job.progress),
        ended=lambda job: ended.append(job.state),
    )
    assert (job.state, job.seconds) == ("ready", 0.0)
    ran(job)
    assert (job.state, job.value, job.error, job.warnings) == ("done", 30, None, ())
    assert told == [Progress("adding", done, 3) for done in range(4)]
    assert ended == ["done"]
    assert job.seconds > 0
    with pytest.raises(TracerError, match="started before"):
        job.start()


def test_an_error_is_kept_and_nothing_is_committed(tiny: Tiny) -> None:
    committed: list[Any] = []

    def work() -> None:
        warnings.warn("mind this", EditWarning, stacklevel=1)
        raise KeyError("gone")

    job = ran(Job(tiny("gpt2"), work, committed.append))
    assert (job.state, repr(job.error), job.warnings) == ("failed", "KeyError('gone')", ("mind this",))
    assert committed == []


def test_a_commit_is_not_interrupted(tiny: Tiny) -> None:
    model = tiny("gpt2")
    ids = torch.arange(5)[None]

    def commit(value: int) -> int:
        job.cancel()
        model.hf(ids)  # no forward, and no step of a bar, ends it
        return value + sum(track(range(3), "writing"))

    job = Job(model, lambda: 1, commit)
    assert (ran(job).state, job.value, job.progress) == ("done", 4, Progress("writing", 3, 3))


def test_cancelled_before_the_commit_is_not_committed(tiny: Tiny) -> None:
    committed: list[Any] = []
    job = Job(tiny("gpt2"), lambda: job.cancel(), committed.append)  # no forward and no bar after it
    assert (ran(job).state, committed) == ("cancelled", [])


def test_cancelled_at_a_tick_although_everything_is_caught(tiny: Tiny) -> None:
    done: list[int] = []

    def work() -> None:
        with bar("stubborn", 5) as shown:
            for number in range(5):
                done.append(number)
                if number == 2:
                    job.cancel()
                try:
                    shown.advance(shown.task_ids[0])
                except Exception:
                    pytest.fail("a cancellation is no mishap")

    job = Job(tiny("gpt2"), work)
    assert (ran(job).state, done) == ("cancelled", [0, 1, 2])


def test_only_forwards_of_the_own_thread_are_ended(tiny: Tiny) -> None:
    model, failed = tiny("gpt2"), []
    before = seen(model)

    def look() -> None:
        raise Cancelled

    def elsewhere() -> None:
        try:
            with torch.no_grad():
                model.hf(torch.arange(5)[None])
        except Cancelled:
            failed.append(1)

    with watched_forwards(model, look):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        for layer in range(model.n_layers):  # each block looks
            with pytest.raises(Cancelled):
                model.module("hidden", layer)(torch.zeros(1, 2, model.d_model))
    assert failed == []
    assert seen(model) == before


def test_warnings_of_the_own_thread_are_heard_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    with warnings.catch_warnings():
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: shown.append(str(message)))
        with heard_warnings() as found:

            def elsewhere() -> None:
                warnings.warn("elsewhere", EditWarning, stacklevel=1)

            for _ in range(2):
                warnings.warn("here", EditWarning, stacklevel=1)
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            with pytest.raises(UserWarning):  # other filters hold as they did
                warnings.warn("an error here", UserWarning, stacklevel=1)
    assert (found, shown) == (["here", "here"], ["elsewhere"])


def test_on_an_event_loop_reports_come_through_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BETWEEN", 3600.0)  # one report, however many steps
    threads, told = [], []

    async def main() -> Job:
        over = asyncio.Event()

        def ended(job: Job) -> None:
            threads.append(threading.current_thread())
            over.set()

        job = Job(
            tiny("gpt2"),
            lambda: list(track(range(500), "many")),
            progressed=lambda job: told.append(threading.current_thread()),
            ended=ended,
        )
        monkeypatch.setattr(job, "_reported", -1e9)
        job.start()
        await asyncio.wait_for(over.wait(), WAIT)
        return job

    assert asyncio.run(main()).state == "done"
    assert told == threads == [threading.main_thread()]


# --- a session's work ------------------------------------------------------------------------------------------------
def test_the_numbers_are_those_of_the_main_thread(session: Session) -> None:
    job = ran(Job(session.model, lambda: session.traced(["mlp"], window=2, corruption=NOISE), session.take))
    expected = causal_trace(session.model, Fact(PROMPT, SUBJECT), kind="mlp", window=2, corruption=NOISE)
    np.testing.assert_array_equal(job.value[0].scores, expected.scores)
    assert session.traces == job.value


@pytest.mark.parametrize("work", ["trace", *QUICK])
def test_cancelled_at_any_forward_everything_is_as_before(work: str, session: Session) -> None:
    model = session.model
    session.take(session.traced(["hidden"], corruption=NOISE))
    session.edit("Rome", "ft_m", steps=1, layers=(0,))  # something to be kept

    def begin() -> Job:
        if work == "trace":
            return Job(model, lambda: session.traced(corruption=NOISE), session.take)
        return Job(model, lambda: session.proposed("Paris", work, **QUICK[work]), session.commit)

    def back() -> None:
        session.take(before[1]) if work == "trace" else session.undo()

    before = seen(model), session.traces, session.outcome(), session.inspection
    # what is measured once or kept on disk, such as a covariance, is there from now on: every run has as many forwards
    assert ran(begin()).state == "done"
    back()
    edited: list[bool] = []  # at each forward, whether it ran with the new weights
    with each_forward(model, lambda n: edited.append(model.fingerprint() != before[0][0])):
        whole = ran(begin())
    assert whole.state == "done", whole.error
    if work != "trace":
        assert edited[-1]
        assert not edited[0]
    back()
    history = session.history
    for stop in sorted({1, len(edited) // 2, len(edited)}):
        job, count = begin(), []

        def cancel(n: int, job: Job = job, count: list[int] = count, stop: int = stop) -> None:
            count.append(n)
            if n == stop:
                job.cancel()

        with each_forward(model, cancel):
            ran(job)
        assert (job.state, job.value, len(count)) == ("cancelled", None, stop)
        assert seen(model) == before[0]
        assert (session.traces, session.outcome(), session.inspection) == before[1:]
        assert [(e.index, e.edit, e.active) for e in session.history] == [(e.index, e.edit, e.active) for e in history]
    assert ran(begin()).state == "done"  # and it can go on
