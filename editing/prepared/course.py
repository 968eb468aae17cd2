"""A training that can be cut off at any instant and goes on to the same bits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.checks import finite, whole
from tracer.errors import HyperparameterError, NotFinite
from tracer.progress import bar

if TYPE_CHECKING:
    from .store import Checkpoint

Step = Callable[[int], Mapping[str, Any]]
Validate = Callable[[], Mapping[str, float]]
SCORE = "score"


@dataclass(frozen=True)
class Course:
    """Length of a training.

    Attributes:
        steps: of the optimiser, at most.
        validate_every: steps between two validations; 0: at the end only.
        patience: validations without a better score after which it ends; 0: it never ends early.
        warm_up: steps over which the rate rises from zero.
        decay: whether the rate falls to zero over the steps, in a line.
        clip: largest norm of the gradient of all parameters; 0: any.
    """

    steps: int
    validate_every: int = 0
    patience: int = 0
    warm_up: int = 0
    decay: bool = False
    clip: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("validate_every", 0), ("patience", 0), ("warm_up", 0)):
            whole(name, getattr(self, name), least, kind=HyperparameterError)
        finite("clip", self.clip, 0, kind=HyperparameterError)

    def rate(self, step: int) -> float:
        """Share of the learning rate in a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        return rise * ((1 - step / self.steps) if self.decay else 1.0)


@dataclass(frozen=True, eq=False)
class Trained:
    """Result of a training.

    Attributes:
        history: rows of numbers: "step", those of the steps since the last row (means), and of the validation.
        best: step after which the parameters were as they are now.
        ended: why it ended.
    """

    history: tuple[dict[str, float], ...]
    best: int
    ended: str


def train(
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: Step,
    course: Course,
    checkpoint: Checkpoint,
    *,
    validate: Validate | None = None,
    part: str = "",
    description: str = "training",
    shown: Sequence[str] = ("loss", SCORE),
) -> Trained:
    """Train parameters in place; they end as they were at the best validation.

    After a kill the same call goes on from the last checkpoint, to the same bits, provided that `step(i)` draws from
    generators that depend on i alone (`Work.draws`).

    Args:
        parameters: leaves by name, all of them the optimiser's.
        optimizer: over them.
        step: does step i, counted from 0: gives "loss", a tensor whose gradient is taken here, and further numbers. A
            loss that is a number has put gradients in place already.
        course: its length.
        checkpoint: keeps the state.
        validate: gives "score", of which more is better, and further numbers.
        part: name of this training in the checkpoint, where there are several.
        description: of the progress bar.
        shown: numbers of the history's last row that the bar tells too.

    Raises:
        TracerError: a loss that is not finite; the last good checkpoint is kept.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    run = _Run(parameters, optimizer, checkpoint, part)
    found = checkpoint.load(part)
    if found is not None:
        run.restore(*found)
    else:
        run.look(validate)
    with bar(description, course.steps) as progress:
        task = progress.task_ids[0]
        progress.update(task, completed=run.step, description=run.told(description, shown))
        while run.step < course.steps and not run.ended:
            with torch.enable_grad():
                told = dict(step(run.step))
                loss = told["loss"]
                if isinstance(loss, Tensor) and loss.requires_grad:
                    loss.backward()
            told = {name: _number(value) for name, value in told.items()}
            if course.clip:
                torch.nn.utils.clip_grad_norm_(list(parameters.values()), course.clip)
            if not math.isfinite(told["loss"]):
                kept = checkpoint.path if checkpoint.path is not None else "none was asked for"
                raise NotFinite(
                    f"the loss of step {run.step} of {description} is {told['loss']}; the last good checkpoint is kept "
                    f"({kept}). Lower the learning rate, or load the model in float32"
                )
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * course.rate(run.step)
            optimizer.step()
            optimizer.zero_grad()
            run.add(told)
            if course.validate_every and run.step % course.validate_every == 0 and run.step < course.steps:
                run.look(validate)
                run.stop(course.patience)
                progress.update(task, description=run.told(description, shown))
            if checkpoint.due:
                run.save()
            progress.advance(task)
    if run.sums:
        run.look(validate)
    run.save()  # what comes after it may be cut off too
    return run.result(course)


class _Run:
    """State of a training."""

    def __init__(
        self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, checkpoint: Checkpoint, part: str
    ) -> None:
        self.parameters, self.optimizer, self.checkpoint, self.part = parameters, optimizer, checkpoint, part
        self.step, self.best_step, self.best_score, self.waited, self.ended = 0, 0, -math.inf, 0, ""
        self.sums: dict[str, float] = {}
        self.count = 0
        self.history: list[dict[str, float]] = []
        self.best = self._copies()

    def add(self, told: Mapping[str, float]) -> None:
        """Count a step and its numbers."""
        self.step += 1
        self.count += 1
        for name, value in told.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def look(self, validate: Validate | None) -> None:
        """A row of the history; the parameters are kept if they are the best so far."""
        row: dict[str, float] = {"step": self.step}
        row |= {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        if validate is not None:
            with torch.no_grad():
                row |= {name: float(value) for name, value in validate().items()}
        self.history.append(row)
        score = row.get(SCORE, float(self.step))
        if score > self.best_score:
            self.best_score, self.best_step, self.best, self.waited = score, self.step, self._copies(), 0
        else:
            self.waited += 1

    def told(self, description: str, shown: Sequence[str]) -> str:
        """The description with some numbers of the history's last row."""
        row = self.history[-1] if self.history else {}
        return ": ".join(
            filter(None, [description, ", ".join(f"{name} {row[name]:.3g}" for name in shown if name in row)])
        )

    def stop(self, patience: int) -> None:
        """End it where the score has not grown for long enough."""
        if patience and self.waited >= patience:
            self.ended = f"no better score in {self.waited} validations"

    def result(self, course: Course) -> Trained:
        """Put the best parameters in place."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best[name])
        return Trained(tuple(self.history), self.best_step, self.ended or f"{course.steps} steps")

    # --- there and back --------------------------------------------------------------------------------------------
    def save(self) -> None:
        """Write all that the next steps depend on."""
        tensors = {f"parameter/{name}": parameter for name, parameter in self.parameters.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        numbers: dict[str, dict[str, Any]] = {}
        for place, own in self.optimizer.state_dict()["state"].items():
            for name, value in own.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{place}/{name}"] = value
                else:
                    numbers.setdefault(str(place), {})[name] = value
        names = ("step", "best_step", "waited", "ended", "sums", "count", "history")
        state = {name: getattr(self, name) for name in names}
        score = None if math.isinf(self.best_score) else self.best_score
        self.checkpoint.save(tensors, {**state, "best_score": score, "optimizer": numbers}, self.part)

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what was written."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter/{name}"])
                self.best[name] = tensors[f"best/{name}"].to(parameter.device)
        own: dict[int, dict[str, Any]] = {int(place): dict(values) for place, values in state["optimizer"].items()}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, place, key = name.split("/")
                own.setdefault(int(place), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": own})
        for name in ("step", "best_step", "waited", "ended", "sums", "count", "history"):
            setattr(self, name, json.loads(json.dumps(state[name])))
        self.best_score = -math.inf if state["best_score"] is None else state["best_score"]

    def _copies(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}


def _number(value: Any) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)
