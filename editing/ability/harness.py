"""Tasks of lm-evaluation-harness (Gao et al. 2024, zenodo 12608602) on a model that is already here."""

from __future__ import annotations

import copy
import difflib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import AbilityError, EncoderDecoderError, MaskedModelError, out_of_memory
from tracer.extras import install
from tracer.progress import bar

from .result import AbilityResult, Score

if TYPE_CHECKING:
    from tracer.model import Model

SHORT = {
    "factworld": "factworld",
    "csqa": "commonsense_qa",
    "commonsenseqa": "commonsense_qa",
    "anli": "anli",
    "mmlu": "mmlu",
    "squad": "squadv2",
    "squad2": "squadv2",
    "squad_v2": "squadv2",
}
"""Short names of tasks -> the harness's names."""
HOMES = {"commonsense_qa": "commonsense_qa", "anli": "anli", "mmlu": "mmlu/default", "squadv2": "squadv2"}
"""Folders of the harness that describe these; reading all its fourteen thousand descriptions takes seconds."""
OWN = ("factworld",)
TASKS = Path(__file__).parents[1] / "data" / "ability"
SEED = 1234  # the harness's own, for the draw of worked examples


def ability(
    model: Model,
    tasks: Sequence[str] | str,
    limit: int | None = None,
    *,
    fewshot: int | None = None,
    batch_size: int = 8,
) -> AbilityResult:
    """Score a model on tasks; it, its tokenizer and all random states are left as they are found.

    Nothing is loaded again: the harness is given `model.hf` itself, with the edits it has.

    Args:
        model: a causal model.
        tasks: names, also with commas between: "factworld" (multiple choice about facts that no edit record is about;
            for the embedded model, needs no network), "csqa", "anli" (three rounds), "mmlu", "squad2", or any task, tag
            or group of the harness, whose data come from the hub.
        limit: most questions of each task; None: all.
        fewshot: worked examples before each question; None: as each task says.
        batch_size: questions in one forward.

    Raises:
        TracerError: the harness is not installed, no such task, data that cannot be had, a masked model.
    """
    for name, value, least in (("limit", limit, 1), ("fewshot", fewshot, 0), ("batch_size", batch_size, 1)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise AbilityError(f"{name} is {value!r}; expected a whole number from {least}")
    if not model.causal:
        raise MaskedModelError(
            f"{model.name} is a masked model, and the tasks are for causal ones; choose another model"
        )
    if model.style == "seq2seq":
        raise EncoderDecoderError(
            f"{model.name} is an encoder-decoder model, and the tasks are asked of causal ones here"
        )
    wanted = _names(tasks)
    version, wrapper = _harness()
    with _kept(), _quiet():
        manager = _manager(wanted)
        loaded = _loaded(manager, wanted)
        for task in loaded["tasks"].values():
            given = task.get_config("num_fewshot")
            if given is None or (fewshot is not None and given != 0):  # 0: the task allows no other
                task.set_config(key="num_fewshot", value=fewshot or 0)
            task.set_fewshot_seed(seed=SEED)
        from lm_eval.evaluator import evaluate

        found: Any = evaluate(
            lm=wrapper(model, batch_size), task_dict=loaded, limit=limit, log_samples=False, bootstrap_iters=1000
        )
    return AbilityResult(_scores(found), model.name, model.fingerprint(), limit, fewshot, version)


def _names(tasks: Sequence[str] | str) -> list[str]:
    """The harness's names of the tasks asked for, each once."""
    parts = [part.strip() for name in ([tasks] if isinstance(tasks, str) else tasks) for part in name.split(",")]
    named = list(dict.fromkeys(SHORT.get(part.lower(), part) for part in parts if part))
    if not named:
        raise AbilityError(f"there is no task to be asked; name some of {', '.join(_listed())}")
    return named


def _listed() -> list[str]:
    return list(dict.fromkeys(["factworld", "csqa", "anli", "mmlu", "squad2"]))


def _harness() -> tuple[str, Callable[[Model, int], Any]]:
    """Version of the harness, and the class that wraps a model."""
    try:
        from importlib.metadata import version

        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise AbilityError(
            f"general ability is measured with lm-evaluation-harness, which is missing ({error}): {install('ability')}"
        ) from error

    class Shown(HFLM):
        """Shows this project's progress bar, in place of the harness's several."""

        def _with_bar(self, name: str, requests: list[Any]) -> Any:
            with bar(f"{name} of {len(requests)} texts", len(requests)) as progress:
                self.set_cache_hook(_Advance(lambda: progress.advance(progress.task_ids[0])))  # type: ignore[arg-type]
                return getattr(super(), name)(requests, disable_tqdm=True)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
            return self._with_bar("loglikelihood", requests)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
            return self._with_bar("loglikelihood_rolling", requests)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
            return self._with_bar("generate_until", requests)

    def wrapper(model: Model, batch_size: int) -> Any:
        # the harness sets a padding token and side: on a copy
        tokenizer = copy.deepcopy(model.tokenizer)
        given: Any = {"tokenizer": tokenizer, "batch_size": batch_size, "max_length": model.n_ctx, "backend": "causal"}
        return Shown(pretrained=model.hf, **given)  # type: ignore[call-arg]

    return version("lm_eval"), wrapper


class _Advance:
    """Callback of the harness for every finished request; meant for its cache of answers."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self.advance = advance

    def add_partial(self, *_: Any) -> None:
        self.advance()


def _manager(wanted: Sequence[str]) -> Any:
    """The harness's list of tasks with this project's own; TracerError for unknown names."""
    from lm_eval import tasks

    homes = [Path(str(tasks.__file__)).parent / HOMES[name] for name in wanted if name in HOMES]
    every = not all(name in OWN or name in HOMES for name in wanted) or not all(home.is_dir() for home in homes)
    manager = tasks.TaskManager(include_path=[str(TASKS), *map(str, homes)], include_defaults=every)
    known = set(manager.all_tasks)
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise AbilityError(
                f"there is no task {name!r}{hint} Choose some of {', '.join(_listed())}, or a name from "
                "`lm_eval ls tasks`"
            )
    return manager


def _loaded(manager: Any, wanted: Sequence[str]) -> Any:
    try:
        return manager.load(list(wanted))
    except Exception as error:  # many kinds: of the network, of a data set, of a library that a task needs
        if out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AbilityError(
            f"the tasks {', '.join(wanted)} cannot be loaded ({type(error).__name__}: {reason}); their data come from "
            "the hub: load them once on a machine with network and copy its cache (HF_HOME), or ask for factworld, "
            "which needs none"
        ) from error


def _scores(found: Mapping[str, Any]) -> tuple[Score, ...]:
    """Results are `{task: {"acc,none": value, "acc_stderr,none": error, ...}}`."""
    groups, counts = found.get("group_subtasks") or {}, found["n-samples"]

    def asked(task: str) -> int:
        return counts[task]["effective"] if task in counts else sum(asked(part) for part in groups.get(task, ()))

    scores = []
    for task, measured in {**found["results"], **(found.get("groups") or {})}.items():
        for key, value in measured.items():
            metric, _, of = key.partition(",")
            if not of or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = measured.get(f"{metric}_stderr,{of}")
            scores.append(
                Score(
                    task,
                    metric if of == "none" else f"{metric} ({of})",
                    float(value),
                    float(error) if isinstance(error, int | float) else None,
                    asked(task),
                )
            )
    return tuple(scores)


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness's remarks and its bar over questions are held back; errors are not."""
    import lm_eval.api.task as building

    logger = logging.getLogger("lm_eval")
    level, shown = logger.level, building.tqdm
    try:
        logger.setLevel(logging.ERROR)
        building.tqdm = lambda items, **_: items  # type: ignore[assignment]
        yield
    finally:
        building.tqdm = shown
        logger.setLevel(level)


@contextmanager
def _kept() -> Iterator[None]:
    """Random states are afterwards what they were: some tasks draw."""
    import numpy as np
    import torch

    plain, drawn = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(drawn)
