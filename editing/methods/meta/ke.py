"""The change that KnowledgeEditor makes of an edit's gradient (De Cao et al. 2021, "Editing Factual Knowledge").

A net reads the request and says for each matrix how its gradient G becomes a change:

    dW = max_scale * sigmoid(norm) * (softmax(row_a) col_a^T * G + softmax(row_b) col_b^T)     (* by elements)

With G the sum over tokens of x delta^T, a product of diagonal matrices with it is one of x and of delta, so that this
is of low rank: n + 1 for n tokens, with U = [softmax(row_a) * x_t, softmax(row_b)] and V = [col_a * delta_t, col_b].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from editing.methods.training import read_logits
from tracer.engine.batch import Row

from .changes import Changes
from .condition import Conditions, Reader
from .factors import ALL, Read, kept, token_factors
from .lowrank import LowRank
from .places import Place
from .whitening import Whitening

if TYPE_CHECKING:
    from tracer.model import Model


class Said(NamedTuple):
    """What the net says of one matrix, row by row: [rows, in] for `row_*`, [rows, out] for `col_*`, [rows, 1]."""

    col_a: Tensor
    row_a: Tensor
    col_b: Tensor
    row_b: Tensor
    norm: Tensor


class Conditioner(nn.Module):
    """Of one matrix: two weight-normalised layers with tanh between.

    Args:
        place: the matrix.
        condition: width of the condition's vector.
        hidden: width between the layers.
        rate: at the start every change is a step of gradient descent of this size, and col_a is told in units of it.
            None: as published, where the start is noise, and a gradient counts about a thousandth of itself.
    """

    def __init__(self, place: Place, condition: int, hidden: int, rate: float | None = None) -> None:
        super().__init__()
        rows, columns = place.width
        self.widths = (columns, rows, columns, rows, 1)
        self.first = weight_norm(nn.Linear(condition, hidden))
        self.second = weight_norm(nn.Linear(hidden, sum(self.widths)))
        self.unit = 1.0 if rate is None else 2 * rows * rate  # softmax gives 1 / rows, and sigmoid a half
        if rate is not None:
            with torch.no_grad():
                second: Any = self.second
                second.parametrizations.weight.original0.zero_()
                second.bias.zero_()
                second.bias[:columns] = -1.0

    def forward(self, condition: Tensor) -> Said:
        """What is done with gradients.

        Args:
            condition: [rows, condition].
        """
        said = Said(*self.second(torch.tanh(self.first(condition))).split(self.widths, 1))
        return said._replace(col_a=self.unit * said.col_a)


class Hyper(nn.Module):
    """The net of a KE editor: a reader of conditions, and a conditioner of every matrix.

    Args:
        places: the matrices.
        reader: of conditions.
        condition: width of its vectors.
        hidden: width of the conditioners.
        rate: as of `Conditioner`.
    """

    def __init__(
        self, places: Sequence[Place], reader: Reader, condition: int, hidden: int, rate: float | None = None
    ) -> None:
        super().__init__()
        self.reader = reader
        self.conditioners = nn.ModuleList(Conditioner(place, condition, hidden, rate) for place in places)


@dataclass(frozen=True, eq=False)
class Ke:
    """A trained (or untrained) editor; each request of a group is changed by its own gradient, and changes are added.

    Attributes:
        places: the matrices.
        net: what says how a gradient becomes a change.
        conditions: what it is told of a request.
        max_scale: largest factor.
        whitening: of the inputs, by key of the place: C^-1 (softmax(row_a) * x_t) stands in the place of
            softmax(row_a) * x_t, in units of an input's size. None: as published.
    """

    places: tuple[Place, ...]
    net: Hyper
    conditions: Conditions
    max_scale: float = 1.0
    whitening: Mapping[str, Whitening] = field(default_factory=dict)

    def changes(
        self, model: Model, groups: Sequence[Sequence[Row]], max_rows: int | None = None, read: Read = read_logits
    ) -> Changes:
        """One change of every matrix per group; the loss of a request is the mean over its target tokens.

        Args:
            model: to be edited.
            groups: requests as rows.
            max_rows: as of `token_factors`.
            read: likewise.
        """
        rows = [row for group in groups for row in group]
        found = token_factors(model, rows, self.places, range(len(rows)), max_rows=max_rows, read=read)
        device = found.nll.device
        owner = torch.tensor([number for number, group in enumerate(groups) for _ in group], device=device)
        embedding: Any = model.module("embed").weight
        condition = self.net.reader(self.conditions.ids(model, rows), embedding.detach())
        low, told = {}, {}
        for place, conditioner in zip(self.places, self.net.conditioners, strict=True):
            own = kept(found.factors[place.key], rows, ALL)
            said: Said = conditioner(condition)
            scale = self.max_scale * said.norm.sigmoid()
            row_a, row_b = (scale * each.softmax(1) for each in (said.row_a, said.row_b))
            u = torch.cat([self._key(place, row_a[own.row] * own.x), row_b])
            v = torch.cat([said.col_a[own.row] * own.delta, said.col_b])
            group = torch.cat([owner[own.row], owner])
            order = group.argsort(stable=True)
            low[place.key] = LowRank.of(u[order], v[order], group[order], len(groups))
            told[place.key] = {"group": owner[own.row], "x": own.x, "delta": own.delta, **said._asdict()}
        return Changes(low, told, found.nll)

    def _key(self, place: Place, rows: Tensor) -> Tensor:
        own = self.whitening.get(place.key)
        return rows if own is None else own.applied(rows) * own.size
