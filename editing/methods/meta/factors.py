"""What a meta-learned editor reads of an edit: a projection's inputs x, and the gradients delta at its outputs.

The gradient of a loss with respect to a matrix is the sum over tokens of x delta^T, so that these two say all of it, in
n (in + out) numbers for n tokens. One forward and one backward give them for all matrices. The graph begins at the
first of these: parameters are not asked for gradients, and nothing below is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editing.methods.training import read_logits, token_losses
from tracer.engine.batch import Row
from tracer.engine.layout import own_tokens, stack_of, widened
from tracer.engine.sweep import check_numbers
from tracer.errors import EncoderDecoderError

from .places import Place

if TYPE_CHECKING:
    from tracer.model import Model

Read = Callable[["Model", Sequence[Row]], Tensor]
"""Logits where rows are read, as of [`editing.methods.training.read_logits`][]."""
ALL, PREDICTING, SUBJECT = TOKENS = ("all", "predicting", "subject_last")
"""Tokens that an edit is made of: all that its gradient is made of, those that predict one of the target, or the
subject's last."""
ROWS = 64  # run at once: a backward pass keeps what a forward alone does not


@dataclass(frozen=True, eq=False)
class TokenFactors:
    """Factors of a gradient at one matrix, token by token; rows in order, and their tokens in order.

    Attributes:
        x: inputs, [n, in], float32 at least.
        delta: gradients of the loss at the outputs, [n, out].
        row: which row each token is of, [n].
        position: its place in that row, [n].
    """

    x: Tensor
    delta: Tensor
    row: Tensor
    position: Tensor

    def where(self, kept: Tensor) -> TokenFactors:
        """Those of some tokens.

        Args:
            kept: [n] bool.
        """
        return TokenFactors(self.x[kept], self.delta[kept], self.row[kept], self.position[kept])


@dataclass(frozen=True, eq=False)
class Found:
    """What was found at rows.

    Attributes:
        factors: by key of the place.
        nll: -log p of every target token, rows in order, [tokens].
    """

    factors: Mapping[str, TokenFactors]
    nll: Tensor


def token_factors(
    model: Model,
    rows: Sequence[Row],
    places: Sequence[Place],
    shares: Sequence[int] | None = None,
    *,
    max_rows: int | None = None,
    read: Read = read_logits,
) -> Found:
    """Factors of the gradient of a loss at every token, as constants.

    The loss is the sum over shares of the mean of -log p over all target tokens of a share's rows. Tokens behind a
    row's end are left out; all others are there, also those whose delta is zero.

    Args:
        model: its parameters ask for no gradients (`frozen`).
        rows: with targets.
        places: matrices.
        shares: which share each row is of; None: all are of one.
        max_rows: rows run at once; None: 64. The numbers do not depend on it.
        read: gives logits.

    Raises:
        TracerError: logits that are not finite.
    """
    shares = [0] * len(rows) if shares is None else list(shares)
    tokens: dict[int, int] = {}
    for share, row in zip(shares, rows, strict=True):
        tokens[share] = tokens.get(share, 0) + len(row.target)
    weight = [1 / tokens[share] for share, row in zip(shares, rows, strict=True) for _ in row.target]
    found: dict[str, list[TokenFactors]] = {place.key: [] for place in places}
    losses, told = [], 0
    for start in range(0, len(rows), max_rows or ROWS):
        some = rows[start : start + (max_rows or ROWS)]
        with torch.enable_grad(), _watched(model, places, len(some)) as seen:
            nll = token_losses(check_numbers(model, read(model, some)), some)
            here = torch.tensor(weight[told : told + len(nll)], dtype=nll.dtype, device=nll.device)
            deltas = torch.autograd.grad((nll * here).sum(), [seen[place.key].left for place in places])
        told += len(nll)
        losses.append(nll.detach())
        for place, delta in zip(places, deltas, strict=True):
            found[place.key].append(_listed(model, place, seen[place.key], delta, some, start))
    joined = {key: _joined(parts) for key, parts in found.items()}
    return Found(joined, torch.cat(losses))


def inputs_at(
    model: Model, rows: Sequence[Row], places: Sequence[Place], tokens: str = PREDICTING
) -> dict[str, Tensor]:
    """Inputs of matrices at tokens of rows, rows in order, [tokens, in] by key.

    Args:
        model: the model.
        rows: to be run.
        places: matrices.
        tokens: "subject_last", or any other of `TOKENS` for those where rows are read. Of a matrix in the encoder,
            where nothing is read, all tokens of the source.
    """
    found: dict[str, list[Tensor]] = {place.key: [] for place in places}
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        with torch.no_grad(), _watched(model, places, len(some)) as seen:
            read_logits(model, some)
        for place in places:
            each = [_read(model, place, row, tokens) for row in some]
            line = [i for i, own in enumerate(each) for _ in own]
            at = [position for own in each for position in own]
            found[place.key].append(seen[place.key].wide(seen[place.key].x)[line, at].cpu())
    return {key: torch.cat(parts) for key, parts in found.items()}


def _read(model: Model, place: Place, row: Row, tokens: str) -> Sequence[int]:
    if in_encoder(model, place):
        return own_tokens(model, place.layer, row.ids)
    return (row.lookup,) if tokens == SUBJECT else row.read


def in_encoder(model: Model, place: Place) -> bool:
    """Whether a matrix is in the encoder of a model that has one.

    Args:
        model: the model.
        place: the matrix.
    """
    return bool(model.stacks) and stack_of(model, place.layer) == "encoder"


def check_tokens(model: Model, places: Sequence[Place], tokens: str) -> None:
    """Pass if every matrix has factors at the tokens that an edit is made of.

    Args:
        model: to be edited.
        places: the matrices.
        tokens: one of `TOKENS`.

    Raises:
        TracerError: a matrix in a stack that these tokens are not in.
    """
    for place in places if model.stacks and tokens != ALL else ():
        encoder = in_encoder(model, place)
        if encoder != (tokens == SUBJECT):
            here, other = ("encoder", SUBJECT) if encoder else ("decoder", PREDICTING)
            raise EncoderDecoderError(
                f"{place.key} is in the {here} of {model.name}, which has no tokens that are {tokens!r}; give "
                f"tokens={other!r} or {ALL!r}, or name layers of the other stack"
            )


@dataclass(frozen=True, eq=False)
class _Seen:
    """Of one forward at one matrix: inputs, outputs in the graph, and what puts either into [rows, tokens, width]."""

    x: Tensor
    left: Tensor
    wide: Callable[[Tensor], Tensor]


@contextmanager
def _watched(model: Model, places: Sequence[Place], rows: int) -> Iterator[dict[str, _Seen]]:
    """Context of a forward over so many rows in which what is seen at places is kept by key."""
    seen: dict[str, _Seen] = {}

    def keeping(place: Place) -> Any:
        def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            left = output if output.requires_grad else output.detach().requires_grad_()  # where the graph begins
            seen[place.key] = _Seen(args[0].detach(), left, widened(model, place.layer, rows))
            return left.clone()  # some models go on in place

        return after

    with ExitStack() as stack:
        for place in places:
            hook = model.hf.get_submodule(place.path).register_forward_hook(keeping(place))
            stack.callback(hook.remove)
        yield seen


def _listed(model: Model, place: Place, seen: _Seen, delta: Tensor, rows: Sequence[Row], first: int) -> TokenFactors:
    """Tokens of a padded batch one after the other, those that the matrix sees."""
    x, delta = seen.wide(seen.x), seen.wide(delta)
    real = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    for line, row in zip(real, rows, strict=True):
        line[list(own_tokens(model, place.layer, row.ids))] = True
    row, position = real.nonzero(as_tuple=True)
    exact = torch.promote_types(x.dtype, torch.float32)
    return TokenFactors(x[real].to(exact), delta[real].to(exact), row + first, position)


def _joined(parts: Sequence[TokenFactors]) -> TokenFactors:
    fields = ("x", "delta", "row", "position")
    return TokenFactors(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))


def kept(found: TokenFactors, rows: Sequence[Row], tokens: str) -> TokenFactors:
    """Factors of some tokens.

    Args:
        found: factors of rows.
        rows: as given; their lookups are the subjects' last tokens.
        tokens: one of `TOKENS`. "all" leaves out those whose input or gradient is all zero.
    """
    if tokens == ALL:
        return found.where((found.x != 0).any(1) & (found.delta != 0).any(1))
    ends = [(row.lookup, row.lookup) if tokens == SUBJECT else (row.read[0], row.read[-1]) for row in rows]
    first, last = torch.tensor(ends, device=found.row.device)[found.row].T
    return found.where((found.position >= first) & (found.position <= last))
