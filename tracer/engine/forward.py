"""One forward of the untouched model in which the batch grows: the hooks that let it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tracer.errors import TracerError

from .branches import Plan, change, rows_of
from .frame import Frame, attach
from .hooks import INNER, Intervention, keep_logits
from .kv_cache import Cached, Prefix
from .memories import acts_inside, forward, resting

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Base:
    """A recorded run of R rows over T tokens, from which branches start.

    Attributes:
        ids: [R, T].
        entering: one tensor [R, T, d] per block, the state that enters it, and a last one that leaves the last block.
        prefix: keys and values [R, heads, T, width] per layer; None if branches have to run over all tokens.
        scaled: block arguments that count rows (see `BlockArguments`).
        grows: whether the batch can grow inside the model. Where it cannot, every row runs from its own tokens on.
        read: the positions whose logits were kept.
        logits: these logits [R, len(read), V].
        states: by kind and layer, the outputs [R, T, width] of further sites that were asked for.
        interventions: what the run was made with; branches have it too.
        frame: of the run, where the model has memories; branches keep what these decided.
        note: why branches cannot be run the fastest way; empty if they can.
        encoded: what leaves the last block of an encoder [R, T, d]; another state enters the block behind it.
    """

    ids: Tensor
    entering: tuple[Tensor, ...]
    prefix: Cached | None
    scaled: frozenset[tuple]
    grows: bool
    read: tuple[int, ...]
    logits: Tensor
    states: dict[tuple[str, int], Tensor]
    interventions: tuple[Intervention, ...] = ()
    frame: Frame | None = None
    note: str = ""
    encoded: Tensor | None = None

    def entered(self, layer: int, after: bool, encoder: range | None) -> Tensor:
        """What enters block `layer` or, with `after`, what leaves it; `encoder` is the layers of one, if there is."""
        if after and encoder and layer == encoder[-1] and self.encoded is not None:
            return self.encoded
        return self.entering[layer + after]

    def rows(self, some: slice) -> Base:
        """This run with `some` of its rows only."""
        return replace(
            self,
            ids=self.ids[some],
            entering=tuple(state[some] for state in self.entering),
            encoded=None if self.encoded is None else self.encoded[some],
            prefix=self.prefix and tuple((keys[some], values[some]) for keys, values in self.prefix),
            logits=self.logits[some],
            states={place: state[some] for place, state in self.states.items()},
            interventions=tuple(replace(item, value=rows_of(item, len(self.ids), some)) for item in self.interventions),
            frame=self.frame and self.frame.select(range(*some.indices(len(self.ids)))),
        )


class Forward:
    """One forward over the tokens from `first` on, in which the branches of `plan` join and part."""

    def __init__(self, model: Model, base: Base, first: int, plan: Plan, some: slice) -> None:
        self.model, self.base, self.first, self.plan = model, base, first, plan
        self.all_rows, self.some = len(base.ids), some
        self.rows = len(range(*some.indices(self.all_rows)))  # of each branch
        # branches that have parted so far; 0: only the row that carries the shapes
        self.groups = 0 if base.grows else len(plan.leaves)

    def run(self, stop: bool = False) -> Tensor:
        """Logits [groups * rows, len(read), V]; with `stop` the forward ends before them, and the result is empty."""
        model, plan = self.model, self.plan
        arguments: dict[str, Any] = {}
        if self.base.prefix is not None:
            prefix = Prefix(self.base.prefix, self.first, self.some) if self.first > 0 else None
            arguments = {"past_key_values": prefix, "use_cache": prefix is not None}  # or keys and values pile up
        tokens = self.base.ids.shape[1] - self.first
        frame = Frame(tokens)
        if self.base.frame is not None:
            own = self.base.frame.select(range(*self.some.indices(self.all_rows)))
            frame = own.at(tokens, [self.first] * self.rows)
        with ExitStack() as stack:
            stack.callback(keep_logits(model, [position - self.first for position in self.base.read]).remove)
            last = model.n_layers - 1
            with suppress(TracerError):  # no such site: nothing to save
                if plan.kinds(2 * last).isdisjoint(INNER) and not acts_inside(model, last):
                    keep = torch.zeros(self.base.ids.shape[1] - self.first, dtype=torch.bool)
                    keep[[position - self.first for position in self.base.read]] = True
                    for handle in narrow(model.module("mlp_input", last), Kept(keep)):
                        stack.callback(handle.remove)
            for item in self.base.interventions:  # before the branches' own
                if item.site.token is None or item.site.token % self.base.ids.shape[1] >= self.first:
                    stack.callback(attach(model, item.site.kind, item.site.layer, self.repeater(item), frame).remove)
            for layer in range(model.n_layers):
                split = self.splitter(2 * layer) if 2 * layer in plan.steps else None
                if model.stacks:
                    if split is not None:
                        stack.callback(attach(model, "entering", layer, split, frame).remove)
                else:
                    entry = BlockArguments(split, self.base.scaled if self.base.grows else frozenset())
                    stack.callback(entry.attach(model.module("hidden", layer)).remove)
                if 2 * layer + 1 in plan.steps:
                    stack.callback(attach(model, "hidden", layer, self.splitter(2 * layer + 1), frame).remove)
                for kind in plan.kinds(2 * layer):
                    stack.callback(attach(model, kind, layer, self.changer(2 * layer, kind), frame).remove)
            if stop:
                stack.callback(model.module("unembed").register_forward_pre_hook(Stop.here).remove)
            try:
                ids = self.base.ids[self.some, self.first :].repeat(self.groups, 1)
                ids = ids if self.groups else self.base.ids[:1, self.first :]
                return forward(model, ids, frame, **arguments).logits
            except Stop:
                return self.base.logits[:0]

    def splitter(self, time: int) -> Callable[[Tensor], Tensor]:
        """A hook on what enters or leaves a block, where branches join or part."""
        layer, after = divmod(time, 2)
        recorded = self.base.entered(layer, bool(after), self.model.stacks.get("encoder"))

        def edit(state: Tensor) -> Tensor:
            step = self.plan.steps[time]
            base = recorded[self.some, self.first :].to(state.device)
            if step.sources != tuple(range(self.groups)):
                parts = state.split(self.rows) if self.groups else ()
                state = torch.cat([base if source < 0 else parts[source] for source in step.sources])
                self.groups = len(step.sources)
            return self.changer(time, "hidden")(state)

        return edit

    def changer(self, time: int, kind: str) -> Callable[[Tensor], Tensor]:
        """A hook that makes the branches' interventions at sites of one kind."""

        def edit(state: Tensor) -> Tensor:
            return change(state, self.plan.steps[time].actions, kind, self.first, self.all_rows, self.some)

        return edit

    def repeater(self, item: Intervention) -> Callable[[Tensor], Tensor | None]:
        """A hook that makes an intervention of the base run in every group of rows there is so far."""
        tokens = self.base.ids.shape[1]

        def edit(state: Tensor) -> Tensor | None:
            if not self.groups:
                return None
            value, where = rows_of(item, self.all_rows, self.some), item.site.token
            if where is None and value.dim() > 1:
                value = value[..., self.first :, :]
            if len(value) == self.rows and value.dim() == (3 if where is None else 2):
                value = value.repeat(self.groups, *[1] * (value.dim() - 1))
            place = (slice(None),) if where is None else (slice(None), where % tokens - self.first)
            state = state.clone()
            state[place] = item(state[place], value)
            return state

        return edit


class Kept:
    """Some tokens of a forward; their places are looked up once, and no more while it runs.

    Args:
        mask: of the tokens to keep, [tokens], or [rows, tokens] if rows differ; on the CPU.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask, self.whole = mask, bool(mask.all())
        self._places: dict[tuple[torch.Size, torch.device], Tensor] = {}

    def of(self, size: torch.Size, device: torch.device) -> Tensor | None:
        """Places among [rows * tokens], on a device; None for rows or tokens of another number."""
        if self.mask.shape != size[-self.mask.dim() :]:
            return None
        if (size, device) not in self._places:
            self._places[size, device] = self.mask.expand(size).flatten().nonzero().flatten().to(device)
        return self._places[size, device]


def narrow(module: nn.Module, keep: Kept) -> tuple[RemovableHandle, RemovableHandle]:
    """Let a module that treats tokens one by one compute only some; its output is zero at the others.

    For MLPs, most of whose output is not read. Inputs of another shape pass.

    Args:
        module: the module.
        keep: the tokens to compute.
    """
    now: list[tuple[torch.Size, Tensor]] = []

    def before(_: nn.Module, args: tuple) -> tuple | None:
        now.clear()
        if not args or not isinstance(args[0], Tensor) or args[0].dim() != 3:
            return None
        size = args[0].shape[:2]
        at = keep.of(size, args[0].device)
        if at is None:
            return None
        now.append((size, at))
        return tuple(
            x.flatten(0, 1)[at].unsqueeze(0) if isinstance(x, Tensor) and x.shape[:2] == size else x for x in args
        )

    def after(_: nn.Module, args: tuple, output: Any) -> Any:
        if not now:
            return None
        size, at = now[0]
        state = output if isinstance(output, Tensor) else output[0]
        wide = state.new_zeros(size.numel(), state.shape[-1])
        wide[at] = state.flatten(0, -2)
        wide = wide.view(*size, -1)
        return wide if isinstance(output, Tensor) else type(output)((wide, *output[1:]))

    if keep.whole:
        return module.register_forward_pre_hook(lambda *_: None), module.register_forward_hook(lambda *_: None)
    return module.register_forward_pre_hook(before), module.register_forward_hook(after)


class Stop(Exception):
    """Ends a forward early."""

    @classmethod
    def here(cls, *_: Any) -> None:
        """A hook that ends the forward where it is registered."""
        raise cls


class BlockArguments:
    """A hook on what enters a block: changes the hidden states, and repeats arguments that count rows."""

    def __init__(self, edit: Callable[[Tensor], Tensor | None] | None, scaled: Set[tuple] = frozenset()) -> None:
        self.edit, self.scaled_paths = edit, scaled

    def attach(self, block: nn.Module) -> RemovableHandle:
        """Hook `block`."""
        return block.register_forward_pre_hook(self.before, with_kwargs=True)

    def before(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The hook: changed hidden states, and repeated arguments."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if self.edit is not None:
            new = self.edit(hidden)
            hidden = hidden if new is None else new
        rows = len(hidden)
        if rows > 1 and self.scaled_paths:
            args = _repeated(args, self.scaled_paths, rows, (0,))
            kwargs = _repeated(kwargs, self.scaled_paths, rows, (1,))
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    @staticmethod
    def scaled(model: Model, ids: Tensor) -> frozenset[tuple]:
        """Paths of block arguments whose leading dimension is a multiple of the rows, found by running one and two."""
        shapes: list[dict[tuple, torch.Size]] = []

        def look(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            shapes.append({path: x.shape for path, x in [*_tensors(args, (0,)), *_tensors(kwargs, (1,))]})
            raise Stop

        handle = model.module("hidden", 0).register_forward_pre_hook(look, with_kwargs=True)
        try:
            for rows in (1, 2):
                with suppress(Stop), resting(model):
                    forward(model, ids.expand(rows, -1))
        finally:
            handle.remove()
        one, two = shapes
        return frozenset(path for path, size in one.items() if size and size[0] > 1 and two[path][0] == 2 * size[0])


def _tensors(value: Any, path: tuple) -> Iterator[tuple[tuple, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict | tuple | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(item, (*path, key))


def _repeated(value: Any, paths: Set[tuple], rows: int, path: tuple) -> Any:
    if isinstance(value, Tensor):
        return value.repeat(rows, *[1] * (value.dim() - 1)) if path in paths else value
    if isinstance(value, dict):
        return {key: _repeated(item, paths, rows, (*path, key)) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_repeated(item, paths, rows, (*path, key)) for key, item in enumerate(value))
    return value
