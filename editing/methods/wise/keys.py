"""Rows of an edit by the rule "keys": whitened keys of the places where the target is said, and what they add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.memories.wise import SITES
from editing.methods.training import OBJECTIVES, lesson, losses
from tracer.engine.batch import Row, states_at_lookups
from tracer.engine.frame import Frame, attach
from tracer.engine.sweep import check_numbers
from tracer.errors import NotFinite
from tracer.progress import track

from .settings import WISESettings

if TYPE_CHECKING:
    from editing.request import EditRequest
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an edit.

    Attributes:
        route: [d_in], gives 1 on the key at the prompt's end.
        left: [k, d_in], dual to the keys at the prompt's end and at the target's tokens but the last.
        right: [k, d_out].
        loss: [steps], before each and, last, of the final state.
    """

    route: Tensor
    left: Tensor
    right: Tensor
    loss: Tensor


@dataclass(frozen=True, eq=False)
class Whitening:
    """The inverse of the second moment C of what a projection reads over text, damped.

    Attributes:
        states: [tokens, d_in], float64.
        ridge: what is added to C's diagonal.
        factor: Cholesky factor of the smaller of the two systems that give C^-1 K: of C, or of the states' products.
    """

    states: Tensor
    ridge: float
    factor: Tensor

    @classmethod
    def of(cls, states: Tensor, damping: float) -> Whitening:
        """Of states [tokens, d_in]."""
        wide = states.double()
        ridge, (count, width) = damping * float(wide.square().mean()), wide.shape
        matrix = wide.T @ wide / count if count >= width else wide @ wide.T
        matrix.diagonal().add_(ridge if count >= width else ridge * count)
        return cls(wide, ridge, torch.linalg.cholesky(matrix))

    def solve(self, keys: Tensor) -> Tensor:
        """C^-1 K for keys [d_in, k]."""
        keys = keys.double()
        if len(self.factor) == len(keys):
            return torch.cholesky_solve(keys, self.factor)
        return (keys - self.states.T @ torch.cholesky_solve(self.states @ keys, self.factor)) / self.ridge


def rows_of(model: Model, request: EditRequest, layer: int, settings: WISESettings, whitening: Whitening) -> Rows:
    """The rows of an edit, whose right half is trained until the target is said.

    Args:
        model: without the memory that they are for.
        request: the fact to write.
        layer: of the projection.
        settings: of the method.
        whitening: of what the projection reads.

    Raises:
        TracerError: a loss that is not finite.
    """
    row = lesson(model, request, OBJECTIVES[0])
    read, write = SITES[settings.site]
    places = [Row(row.ids[: at + 1], at, (at,)) for at in row.read]
    states = states_at_lookups(model, places, [(read, layer), (write, layer)], max_rows=1)
    keys, given = states[read, layer].double().cpu(), states[write, layer].float()
    check_numbers(model, given)
    solved = whitening.solve(keys.T)  # [d_in, k]
    route = solved[:, 0] / (keys[0] @ solved[:, 0])
    gram = keys @ solved
    gram.diagonal().add_(1e-8 * gram.diagonal().mean())
    left = torch.linalg.solve(gram, solved.T).float()
    right = torch.zeros(len(keys), given.shape[1], device=model.device, requires_grad=True)
    lr = settings.lr if settings.lr is not None else 0.1 * float(given.square().mean().sqrt())
    loss = _trained(model, row, left.to(model.device), right, (read, write, layer), settings, lr)
    return Rows(route.float(), left, right.detach().cpu(), loss)


def _trained(
    model: Model, row: Row, left: Tensor, right: Tensor, place: tuple[str, str, int], settings: WISESettings, lr: float
) -> Tensor:
    """Train the right half in place; the loss before each step and at the end."""
    read, write, layer = place
    seen: list[Tensor] = []
    frame = Frame(len(row.ids))
    begins = row.read[0]

    def act(state: Tensor) -> Tensor:
        added = (seen.pop() @ left.to(state.dtype).T) @ right.to(state.dtype)
        return torch.cat([state[:, :begins], state[:, begins:] + added[:, begins:]], 1)

    optimizer, curve = torch.optim.Adam([right], lr=lr), []
    handles = [attach(model, write, layer, act, frame), attach(model, read, layer, seen.append, frame)]
    try:
        with torch.enable_grad():
            for step in track(range(settings.steps + 1), "training"):
                loss = losses(model, [row])[0]
                if not curve:  # nothing is trained yet
                    check_numbers(model, loss.detach())
                curve.append(float(loss.detach()))
                if not torch.isfinite(loss.detach()):
                    raise NotFinite(f"the loss of step {step} is {curve[-1]}; lower lr ({lr:.3g}), or use float32")
                if step == settings.steps or curve[-1] < settings.stop_loss:
                    break
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    finally:
        for handle in handles:
            handle.remove()
    return torch.tensor(curve)
