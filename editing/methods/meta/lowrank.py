"""Changes of low rank that act in a forward without being written: h W + (h U) V^T, each row with its own.

So many edits that stand alone share one forward, no weight is touched, and gradients reach U and V, which is all that
training an editor takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tracer.model import as_stored

from .places import Place

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class LowRank:
    """Changes of one matrix, one for each group: the sum over n of u [in] v [out]^T, input x output.

    Attributes:
        u: [groups, n, in]; where a group has fewer terms, others are zeros.
        v: [groups, n, out].
    """

    u: Tensor
    v: Tensor

    @classmethod
    def of(cls, u: Tensor, v: Tensor, groups: Tensor, count: int) -> LowRank:
        """Changes from terms one after the other.

        Args:
            u: [n, in].
            v: [n, out].
            groups: which group each term is of, [n], in ascending order.
            count: number of groups.
        """
        counts = torch.bincount(groups, minlength=count).tolist()
        return cls(*(pad_sequence(list(each.split(counts)), batch_first=True) for each in (u, v)))

    def joined(self, *others: LowRank) -> LowRank:
        """The sum of changes of the same groups.

        Args:
            others: added to this one.
        """
        every = (self, *others)
        return LowRank(torch.cat([one.u for one in every], 1), torch.cat([one.v for one in every], 1))

    def added(self, x: Tensor, group: Tensor | None) -> Tensor:
        """What is added to the output for inputs [rows, tokens, in], [rows, tokens, out].

        Args:
            x: inputs.
            group: which change each row has, [rows]; None: the only one.
        """
        x = x.to(self.u.dtype)
        if group is None or len(self.u) == 1:
            return (x @ self.u[0].T) @ self.v[0]
        return torch.bmm(torch.bmm(x, self.u[group].transpose(1, 2)), self.v[group])

    def factors(self, place: Place, group: int) -> tuple[Tensor, Tensor]:
        """U [rows, r] and V [columns, r] of a group's change as the matrix is stored, float32 on the CPU.

        Of no higher rank than the matrix can have: where there are more terms, these are put together exactly.

        Args:
            place: the matrix.
            group: number of the group.
        """
        own = (self.u[group] != 0).any(1) & (self.v[group] != 0).any(1)
        inner, outer = (each[group][own].detach().cpu().double().T for each in (self.u, self.v))  # [in, n], [out, n]
        if inner.shape[1] > min(place.width):
            inner, outer = compressed(inner, outer)
        u, v = as_stored(place.orientation, inner.float(), outer.float())
        return u.contiguous(), v.contiguous()


def compressed(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the same product u v^T with as many columns as it can have independent ones, by its singular vectors.

    Args:
        u: [in, n].
        v: [out, n].
    """
    (left, r), (right, s) = torch.linalg.qr(u), torch.linalg.qr(v)
    a, sizes, b = torch.linalg.svd(r @ s.T, full_matrices=False)
    root = sizes.sqrt()
    return left @ a * root, right @ b.T * root


@contextmanager
def edited(
    model: Model, places: Sequence[Place], changes: Mapping[str, LowRank], group: Sequence[int] | None
) -> Iterator[None]:
    """Context in which every forward, of as many rows as `group`, has changes of matrices; no weight is written.

    Contexts in one another add up.

    Args:
        model: the model.
        places: matrices.
        changes: by key of the place; those without one are left alone.
        group: which group's changes each row has; None: there is one group, and any number of rows.
    """

    def adding(change: LowRank, index: Tensor | None) -> Any:
        def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            x = args[0] if index is None else args[0].reshape(len(index), -1, args[0].shape[-1])
            more = change.added(x, index).reshape(output.shape)
            return (output.to(more.dtype) + more).to(output.dtype)

        return after

    with ExitStack() as stack:
        for place in places:
            if place.key in changes:
                change = changes[place.key]
                index = None if group is None else torch.tensor(list(group), device=change.u.device)
                hook = adding(change, index)
                stack.callback(model.hf.get_submodule(place.path).register_forward_hook(hook).remove)
        yield
