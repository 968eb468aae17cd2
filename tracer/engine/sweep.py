"""The branched sweep: many interventions in one forward, the batch growing as layers are passed.

A *base* run is recorded once (`record`). A *branch* is the base run with interventions at some sites. It differs
from the base run only from its first layer and, in a causal model, its first token on, so nothing before is computed
again: branches that begin at one token share a forward over the tokens from there on, which attends to the base
run's keys and values of earlier tokens; the forward starts with one row that only carries the shapes, and each branch
joins it as copies of the base run's state where its first intervention is made. Branches that begin with the same
interventions (the same objects) share rows until they part.

The model is untouched: rows join in hooks on its blocks. Arguments that every block receives (masks, positions,
rotary tables) come with one row and broadcast; those whose leading dimension counts rows times something else (an
ALiBi bias) are found by comparing a run of one row with a run of two, and repeated. Every base run tries out, with the
work of a few tokens and on a row that differs from the first, whether its model takes to this. Where it does not
(blocks that receive something made from a row's own embeddings, or keys and values of an earlier block), every row
runs from its own tokens and the first layer on; if there are no keys and values to attend to (a model that is not
causal, say), all tokens run: slower, same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.errors import NotFinite, SiteError, out_of_memory
from tracer.progress import track

from .branches import Moment, Plan, make_plan, rows_of, timeline
from .forward import Base, BlockArguments, Forward
from .frame import Frame, attach, evaluating
from .hooks import WIDE, Intervention, Units, as_ids, check_site, intervene, keep_logits
from .kv_cache import recorded
from .memories import forward, read_at
from .row_budget import check_max_rows, default_rows, fitting, note_halved
from .trial import fastest, slower

if TYPE_CHECKING:
    from tracer.model import Model

FORWARD_COST = 1e8  # fixed cost of a forward, in operations

Branch = Sequence[Intervention]
Measure = Callable[[Tensor], Tensor]


def check_numbers(model: Model, logits: Tensor) -> Tensor:
    """The `logits`, checked.

    Raises:
        TracerError: one of them is not a number, or infinite.
    """
    highest = logits.amax()  # passes NaN on, and is quick; a token that is ruled out may have minus infinity
    if torch.isnan(highest) or highest == torch.inf:
        raise NotFinite(
            f"{model.name} returns logits that are not numbers: its weights hold NaN or overflow in {model.dtype}; "
            "check the checkpoint, or load it with dtype=torch.float32"
        )
    return logits


def record(
    model: Model,
    ids: str | Sequence[int] | Tensor,
    interventions: Sequence[Intervention] = (),
    *,
    read: Sequence[int] = (-1,),
    kinds: Sequence[str] = (),
    max_rows: int | None = None,
) -> Base:
    """Run `ids` with `interventions` and keep what branches start from.

    A forward over the last tokens of one row tries out whether branches can start from the keys and values recorded;
    where rows differ, it is one that does from the first, from there on. Follows torch's grad mode.

    Args:
        model: the model.
        ids: [R, T], or a text.
        interventions: made in the run; values may differ by row.
        read: the positions whose logits matter; a causal model's prompts end at the first, and what comes behind is
            an answer that its memories do not see.
        kinds: kinds of sites kept for every layer as well: "mlp", "attn", "key", "pre", "value", "mlp_input".
        max_rows: most rows that run at once.

    Raises:
        TracerError: as [`tracer.hooks.intervene`][], and for NaN.
    """
    check_max_rows(max_rows)
    ids = as_ids(model, ids)
    rows, tokens = ids.shape
    positions = tuple(position % tokens for position in read)
    limit = max_rows or default_rows(model, tokens, len(positions))
    frame = read_at(model, ids, positions)

    def recorded(most: int) -> list[Base]:
        parts = []
        for start in range(0, rows, most):
            some = slice(start, start + most)
            items = [replace(item, value=rows_of(item, rows, some)) for item in interventions]
            own = frame and frame.select(range(*some.indices(rows)))
            parts.append(_record(model, ids[some], items, positions, tuple(kinds), own))
        return parts

    parts = fitting(recorded, min(rows, limit))
    base = parts[0] if len(parts) == 1 else _joined(parts)
    base = replace(base, interventions=tuple(interventions), frame=frame)
    if model.style == "seq2seq":  # what the encoder's rows become is read by as many rows of the decoder
        return replace(base, grows=False)
    base = fastest(model, replace(base, scaled=BlockArguments.scaled(model, ids[:1])), limit)
    if base.note:
        slower(model, base.note)
    return base


def _joined(parts: Sequence[Base]) -> Base:
    prefix = None
    prefixes = [part.prefix for part in parts if part.prefix is not None]
    if len(prefixes) == len(parts):
        layers = zip(*prefixes, strict=True)
        prefix = tuple((torch.cat([keys for keys, _ in rows]), torch.cat([v for _, v in rows])) for rows in layers)
    return Base(
        ids=torch.cat([part.ids for part in parts]),
        entering=tuple(torch.cat(layer) for layer in zip(*(part.entering for part in parts), strict=True)),
        prefix=prefix,
        scaled=parts[0].scaled,
        grows=parts[0].grows,
        read=parts[0].read,
        logits=torch.cat([part.logits for part in parts]),
        states={place: torch.cat([part.states[place] for part in parts]) for place in parts[0].states},
        encoded=None if parts[0].encoded is None else torch.cat([p.encoded for p in parts if p.encoded is not None]),
        note=next((part.note for part in parts if part.note), ""),
    )


def _record(
    model: Model,
    ids: Tensor,
    items: Sequence[Intervention],
    read: tuple[int, ...],
    kinds: tuple[str, ...],
    frame: Frame | None,
) -> Base:
    run = partial(_run, model, ids, items, read, kinds, frame)
    base, prefix, why = recorded(model, run, ids.shape[1])
    return replace(base, prefix=prefix, note=why)


def _run(
    model: Model,
    ids: Tensor,
    items: Sequence[Intervention],
    read: tuple[int, ...],
    kinds: tuple[str, ...],
    frame: Frame | None,
    arguments: dict[str, Any],
) -> Base:
    entering: dict[int, Tensor] = {}
    encoded: list[Tensor] = []
    states: dict[tuple[str, int], Tensor] = {}

    starts = {0, *(layers[0] for layers in model.stacks.values())}  # of the stacks

    def keep(kind: str, layer: int) -> Callable[[Tensor], None]:
        def edit(state: Tensor) -> None:
            if kind == "hidden":
                entering[layer + 1] = state.clone()
                if layer + 1 in starts:  # where another state enters than leaves here
                    encoded.append(entering[layer + 1])
            if kind in kinds:
                states[kind, layer] = entering[layer + 1] if kind == "hidden" else state.clone()

        return edit

    def enter(layer: int) -> Callable[[Tensor], None]:
        return lambda hidden: entering.__setitem__(layer, hidden.clone())

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(intervene(model, items))
        stack.callback(keep_logits(model, read).remove)
        frame = frame or Frame(ids.shape[1])
        for start in starts:
            stack.callback(attach(model, "entering", start, enter(start), frame).remove)
        for layer in range(model.n_layers):
            crossed = layer in model.stacks.get("decoder", ())
            for kind in {"hidden", *kinds} - (set() if crossed else {"cross"}):
                stack.callback(attach(model, kind, layer, keep(kind, layer), frame).remove)
        logits = check_numbers(model, forward(model, ids, frame, **arguments).logits)
    leaving = tuple(entering[i] for i in range(model.n_layers + 1))
    return Base(ids, leaving, None, frozenset(), True, read, logits, states, encoded=encoded[0] if encoded else None)


def sweep(
    model: Model,
    base: Base,
    branches: Sequence[Branch],
    measure: Measure,
    *,
    max_rows: int | None = None,
    description: str | None = None,
) -> Tensor:
    """`measure` of every branch, [branches, R, ...] on the CPU, in the order given.

    Of the interventions active around a sweep only those without a token make sense: a forward begins at any token.

    Args:
        model: the model.
        base: the recorded run.
        branches: each a sequence of interventions with a token each, at kinds other than "embed" (that belongs into the
            base run); values are [width] or [R, width] (of `Units`: [units] or [R, units]).
        measure: `measure(logits [n, len(base.read), V]) -> [n, ...]`, called once per forward; it may call `backward`
            where gradients of many values are wanted without keeping every graph.
        max_rows: most rows in a forward (default: by free memory); the numbers do not depend on it.
        description: shows a progress bar.

    Raises:
        TracerError: sites out of range, empty branches, and NaN.
    """
    check_max_rows(max_rows)
    rows, tokens = base.ids.shape
    timelines = [_checked(model, branch, rows, tokens) for branch in branches]
    distinct = {tuple(line): line for line in timelines}
    forwards = _forwards(model, base, list(distinct.values()), max_rows)
    found: dict[tuple, list[Tensor]] = {key: [] for key in distinct}
    with evaluating(model):
        for forward in forwards if description is None else track(forwards, description):
            for plan, some, logits in _fitted(model, base, *forward):
                parts = measure(check_numbers(model, logits)).to("cpu").split(len(range(*some.indices(rows))))
                for line, part in zip(plan.leaves, parts, strict=True):
                    found[tuple(line)].append(part)
    return torch.stack([torch.cat(found[tuple(line)]) for line in timelines])


def _fitted(model: Model, base: Base, first: int, plan: Plan, some: slice) -> Iterator[tuple[Plan, slice, Tensor]]:
    """Logits of a forward; where memory runs out, of its parts: half of its branches, or of the rows of one, each."""
    todo, whole, most = [(plan, some)], 0, 0
    while todo:
        plan, some = todo.pop()
        start, stop, _ = some.indices(len(base.ids))
        count = len(plan.leaves) * (stop - start)
        try:
            logits = Forward(model, base, first, plan, some).run()
        except Exception as error:
            if count == 1 or not out_of_memory(error):
                raise
            whole = whole or count
        else:
            most = max(most, count)
            yield plan, some, logits
            continue
        if len(plan.leaves) > 1:
            half = (len(plan.leaves) + 1) // 2
            lines = plan.leaves[half:], plan.leaves[:half]
            todo += [(make_plan([list(line) for line in part], share=base.grows), some) for part in lines]
        else:
            middle = (start + stop + 1) // 2
            todo += [(plan, slice(middle, stop)), (plan, slice(start, middle))]
    if whole:
        note_halved(whole, most)


def _checked(model: Model, branch: Branch, rows: int, tokens: int) -> list[Moment]:
    for item in branch:
        check_site(model, item.site, tokens)
        if item.site.kind == "embed" or item.site.token is None:
            raise SiteError(f"a branch cannot change {item.site}: name a token, and put 'embed' into the base run")
        width = model.d_mlp if item.site.kind in WIDE else model.d_model
        if isinstance(item, Units):
            item.check_width(width)
            width = len(item.index)
        if item.value.shape not in ((width,), (1, width), (rows, width)):
            raise SiteError(
                f"a value of shape {list(item.value.shape)} does not fit {item.site} of a base run with {rows} rows: "
                f"expected [{width}] or [{rows}, {width}]"
            )
    if not branch:
        raise SiteError("a branch without interventions is the base run itself; read base.logits")
    return timeline(branch, tokens)


def _forwards(
    model: Model, base: Base, lines: list[list[Moment]], max_rows: int | None
) -> list[tuple[int, Plan, slice]]:
    """The forwards to make: first token, plan of the branches in it, rows of the base run."""
    rows, tokens = base.ids.shape
    groups: dict[int, list[list[Moment]]] = {}
    order: dict[Intervention, int] = {}  # those met first come first, so that every run takes the same course
    for item in (item for line in lines for _, items in line for _, item in items):
        order.setdefault(item, len(order))
    for line in lines:
        touched = min(token for _, items in line for token, _ in items)
        groups.setdefault(min(touched, *base.read) if base.prefix is not None else 0, []).append(line)
    forwards = []
    for first, members in _merged(model, groups, rows):
        limit = max_rows or default_rows(model, tokens - first, len(base.read))
        width = min(rows, limit)
        members.sort(key=lambda line: [(time, [order[item] for _, item in items]) for time, items in line])
        for start in range(0, len(members), limit // width):
            plan = make_plan(members[start : start + limit // width], share=base.grows)
            forwards += [(first, plan, slice(row, min(row + width, rows))) for row in range(0, rows, width)]
    return forwards


def _merged(model: Model, groups: dict[int, list[list[Moment]]], rows: int) -> list[tuple[int, list[list[Moment]]]]:
    """`groups` of branches by first token; some run from an earlier token, where that saves more than it costs."""
    per_token = 24 * model.d_model**2 * model.n_layers  # operations of one token in one row, about
    merged: list[tuple[int, list[list[Moment]]]] = []
    for first, members in sorted(groups.items()):
        # half, because branches join on the way
        if merged and (first - merged[-1][0]) * len(members) * rows * per_token / 2 < FORWARD_COST:
            merged[-1][1].extend(members)
        else:
            merged.append((first, list(members)))
    return merged
