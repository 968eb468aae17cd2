"""The loop that the methods of fine-tuning share: Adam on some parameters of their own until the targets are said.

The model itself is never trained: a method adds tensors of its own to the forward (`editing.methods.ft`,
`editing.methods.lora`), and the model's weights stay the bits they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.covariance.text import windows
from editing.request import EditRequest
from tracer.checks import finite, layers, whole
from tracer.engine.batch import Row, frame_of, logits_of, padded
from tracer.engine.hooks import evaluating, pick_logits
from tracer.engine.sweep import check_numbers
from tracer.errors import HyperparameterError, MaskedModelError, NotFinite
from tracer.facts.readout import Readout
from tracer.progress import track

if TYPE_CHECKING:
    from tracer.model import Model

OBJECTIVES = ("target_new", "prompt_last")
Adjust = Callable[[], None]


@dataclass(frozen=True)
class Schedule:
    """Length and rate of the training.

    Attributes:
        objective: "target_new": every token of a target is predicted from the prompt and the tokens before it.
            "prompt_last": all of them are read from the one distribution behind the prompt, as FT-L was published.
        steps: passes over the requests, at most.
        lr: learning rate of Adam.
        stop_loss: a request with a lower loss, mean over its tokens, is left out of a step; training ends when all are.
        batch_size: requests per step of Adam, in the order given; the loss of a step is the mean over them, each the
            mean over its tokens. (The published LoRA takes the mean over all tokens: the same for one request.)
        halve_every: steps after which the rate is halved, again and again; 0: never.
    """

    objective: str
    steps: int
    lr: float
    stop_loss: float
    batch_size: int
    halve_every: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise HyperparameterError(
                f"objective is {self.objective!r}; expected one of {', '.join(map(repr, OBJECTIVES))}"
            )
        whole("steps", self.steps, 1, kind=HyperparameterError)
        whole("batch_size", self.batch_size, 1, kind=HyperparameterError)
        whole("halve_every", self.halve_every, kind=HyperparameterError)
        expected = "a number above zero, or None for a measured one"
        finite("lr", self.lr, above=0, kind=HyperparameterError, expected=expected)
        never = "zero (never stop) or more"
        finite("stop_loss", self.stop_loss, 0, kind=HyperparameterError, expected=never)


@dataclass(frozen=True, eq=False)
class Trained:
    """Result of training.

    Attributes:
        loss: [passes, requests], before each pass and, last, of the final state.
        note: a remark for the reader, or "".
    """

    loss: Tensor
    note: str

    @property
    def evidence(self) -> dict[str, Tensor]:
        """The curve as evidence of an edit."""
        return {"loss": self.loss}


def train(
    model: Model,
    requests: Sequence[EditRequest],
    parameters: Sequence[Tensor],
    schedule: Schedule,
    *,
    before_step: Adjust | None = None,
    after_step: Adjust | None = None,
) -> Trained:
    """Train parameters on requests.

    Modules are in training or evaluation mode as they are found; the last losses are taken in evaluation mode.

    Args:
        model: is not changed itself.
        requests: with the targets.
        parameters: leaves that ask for gradients and act on the model's forward already.
        schedule: of the training.
        before_step: called with gradients in place.
        after_step: called after each step of Adam, to project.

    Raises:
        TracerError: a masked model, requests that cannot be aligned, and losses that are not finite.
    """
    rows = [lesson(model, request, schedule.objective) for request in requests]
    chunks = [range(i, min(i + schedule.batch_size, len(rows))) for i in range(0, len(rows), schedule.batch_size)]
    curve: list[Tensor] = []
    with torch.inference_mode(False), torch.enable_grad():
        optimizer = torch.optim.Adam(parameters, lr=schedule.lr)
        for step in track(range(schedule.steps), "training"):
            if schedule.halve_every and step and step % schedule.halve_every == 0:
                for parameter_group in optimizer.param_groups:
                    parameter_group["lr"] /= 2
            found, learnt = [], True
            for chunk in chunks:
                each = losses(model, [rows[i] for i in chunk])
                if not curve and not found:  # nothing is trained yet
                    check_numbers(model, each)
                found.append(_finite(model, each.detach().cpu().float(), schedule))
                missing = found[-1] >= schedule.stop_loss
                if not missing.any():
                    continue
                learnt = False
                (each[missing.to(each.device)].sum() / len(chunk)).backward()
                if before_step is not None:
                    before_step()
                optimizer.step()
                optimizer.zero_grad()
                if after_step is not None:
                    after_step()
            curve.append(torch.cat(found))
            if learnt:
                break
        with torch.no_grad(), evaluating(model):
            last = [losses(model, [rows[i] for i in chunk]).cpu().float() for chunk in chunks]
        curve.append(_finite(model, torch.cat(last), schedule))
    loss = torch.stack(curve)
    return Trained(loss, _note(loss[-1], rows, schedule))


def as_layers(given: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """Layers in order, each once; None stays None.

    Args:
        given: one layer, several, or None.

    Raises:
        TracerError: an empty sequence, or something other than numbers.
    """
    return None if given is None else layers(given, kind=HyperparameterError)


def lesson(model: Model, request: EditRequest, objective: str) -> Row:
    """A request as a row of training.

    Args:
        model: whose tokenizer is used.
        request: the fact to write.
        objective: as of `Schedule`.

    Raises:
        TracerError: a masked model; as [`tracer.Fact.align`][] does.
    """
    if not model.causal:
        raise MaskedModelError(
            f"{model.name} is a masked model; fine-tuning here takes models that predict the next token (kn takes both)"
        )
    found = request.fact.align(model)
    if objective == "prompt_last":
        last, target = found.answer_position, found.target_ids
        return Row(found.input_ids, last, (last,) * len(target), target)
    readout = Readout.of(model, found)
    return Row(readout.ids, found.answer_position, readout.read, readout.target)


def text_rows(model: Model, width: int, tokens: int) -> list[Row]:
    """Windows of the text that covariances are of by default, read at every token; without targets.

    Args:
        model: whose tokenizer is used.
        width: most tokens of a window.
        tokens: most tokens in all.
    """
    with windows(model, None, min(width, model.n_ctx, tokens), tokens) as corpus:
        rows = [tuple(map(int, ids)) for ids in corpus.rows(0, len(corpus.ends))]
    return [Row(ids, 0, tuple(range(len(ids)))) for ids in rows]


def losses(model: Model, rows: Sequence[Row]) -> Tensor:
    """Mean of -log p over the target's tokens, [rows], float32 at least; logits are made where they are read only.

    Args:
        model: the model.
        rows: of training. Those of a masked model, which sees the padding, must be of one length.
    """
    found = token_losses(read_logits(model, rows), rows)
    return torch.stack([part.mean() for part in found.split([len(row.target) for row in rows])])


def read_logits(model: Model, rows: Sequence[Row]) -> Tensor:
    """Logits where rows are read, one row after the other, [places, V], float32 at least; no others are made.

    Args:
        model: the model.
        rows: as of `losses`.
    """
    line = torch.tensor([i for i, row in enumerate(rows) for _ in row.read])
    token = torch.tensor([position for row in rows for position in row.read])
    handle = pick_logits(model, line, token)
    try:
        ids = padded(model, rows)
        read = logits_of(model, ids, frame=frame_of(model, rows, ids.shape[1]))[0]  # [read, V]
    finally:
        handle.remove()
    return read if read.dtype == torch.float64 else read.float()


def token_losses(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """-log p of every target token of rows, [places].

    Args:
        logits: of `read_logits`.
        rows: read there.
    """
    target = torch.tensor([i for row in rows for i in row.target], device=logits.device)
    return -logits.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)


def _finite(model: Model, loss: Tensor, schedule: Schedule) -> Tensor:
    if not bool(torch.isfinite(loss).all()):
        raise NotFinite(
            f"the loss is not finite after training {model.name} in {model.dtype} at lr={schedule.lr:.3g}; "
            "take a smaller lr, or load the model with dtype=torch.float32"
        )
    return loss


def _note(loss: Tensor, rows: Sequence[Row], schedule: Schedule) -> str:
    missing = int((loss >= schedule.stop_loss).sum())
    if not missing:
        return ""
    limit = f"a loss of {schedule.stop_loss:.3g}"
    text = f"{missing} of {len(loss)} requests end above {limit}; the highest is {loss.max():.3g}"
    if schedule.objective == "prompt_last" and any(len(set(row.target)) > 1 for row in rows):
        text += "; a target of several tokens read from one distribution cannot get below the log of their number"
    return text
