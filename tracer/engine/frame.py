"""Where hooks act: the modules behind sites, and what the rows and columns of the forward at hand are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tracer.errors import UnknownArchitecture

from .layout import in_rows

if TYPE_CHECKING:
    from tracer.model import Model

INPUTS = ("key", "mlp_input", "mlp_in", "entering")  # kinds at the input of their module


@dataclass
class Frame:
    """Shape of the forward at hand; some modules see rows and tokens flattened into one dimension.

    Where memories are attached it also knows each row's prompt, whatever is padded, on whichever side, and however
    many tokens of the row are in a cache. A forward whose batch grows has its rows as often as it is larger.

    Attributes:
        tokens: tokens per row.
        starts: which of its row's own tokens, counted from 0, stands in the first column; negative: padding does.
        ends: the last token of each row's prompt, counted likewise.
        lengths: tokens that each row has at the end of this forward; those behind are padding.
        decided: by memory, what it decided for each row's prompt; None: it stays out of it.
    """

    tokens: int = 0
    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    decided: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def at(self, tokens: int, starts: Sequence[int] = (), lengths: Sequence[int] = ()) -> Frame:
        """The same prompts in another forward, by default from each row's first token on and without padding."""
        starts = tuple(starts) or (0,) * len(self.ends)
        return replace(self, tokens=tokens, starts=starts, lengths=tuple(lengths) or tuple(s + tokens for s in starts))

    def select(self, rows: Sequence[int]) -> Frame:
        """The frame of some of the rows, in this order."""
        kept = {name: tuple(getattr(self, name)[row] for row in rows) for name in ("starts", "ends", "lengths")}
        decided = {name: tuple(each[row] for row in rows) for name, each in self.decided.items()}
        return replace(self, **kept, decided=decided)

    def rows(self, count: int) -> list[int]:
        """Which of the frame's rows each of `count` rows of a state is."""
        return [row % len(self.ends) for row in range(count)]

    def since(self, count: int, device: torch.device | None = None) -> Tensor:
        """Tokens since the prompt's end, [count, tokens]: 0 at its last token, 1 at the first of the answer."""
        return self.columns(count, device) - self._each(self.ends, count, device)

    def real(self, count: int, device: torch.device | None = None) -> Tensor:
        """Which places are tokens rather than padding, [count, tokens] bool."""
        columns = self.columns(count, device)
        return (columns >= 0) & (columns < self._each(self.lengths, count, device))

    def columns(self, count: int, device: torch.device | None = None) -> Tensor:
        """Which of its row's own tokens each is, counted from 0, [count, tokens]; negative: padding in front."""
        return self._each(self.starts, count, device) + torch.arange(self.tokens, device=device)

    def _each(self, values: Sequence[int], count: int, device: torch.device | None) -> Tensor:
        return torch.tensor([values[row] for row in self.rows(count)], device=device).unsqueeze(1)


def attach(
    model: Model,
    kind: str,
    layer: int | None,
    edit: Callable[[Tensor], Tensor | None],
    frame: Frame,
    *,
    prepend: bool = False,
) -> RemovableHandle:
    """Call `edit(state [rows, tokens, width])` whenever the site is computed; what it returns, if not None, goes on.

    All other hooks here and in [`tracer.sweep`][] are made with it. Remove the handle yourself. With `prepend` it is
    called before the hooks that are there.
    """
    module, factor = model.module(kind, layer), model.multiplier(kind)
    edit = in_rows(model, layer, edit)

    def edited(state: Tensor) -> Tensor | None:
        if state.dim() > 3:
            raise UnknownArchitecture(
                f"{type(model.hf).__name__} keeps several streams of states side by side, {list(state.shape)} at "
                f"{kind!r}, where one [rows, tokens, width] was expected; trace and edit another model"
            )
        shaped = state if state.dim() == 3 else state.view(-1, frame.tokens, state.shape[-1])
        new = edit(shaped if factor == 1 else shaped * factor)
        if new is None:
            return None
        new = new if factor == 1 else new / factor
        return new if state.dim() == 3 else new.reshape(-1, new.shape[-1])  # there may be more rows than before

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = edited(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        new = edited(output if isinstance(output, Tensor) else output[0])
        if new is None or isinstance(output, Tensor):
            return new
        return type(output)((new, *output[1:]))

    if kind in INPUTS:
        return module.register_forward_pre_hook(before, prepend=prepend, with_kwargs=True)
    return module.register_forward_hook(after, prepend=prepend)


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Turn dropout off inside; afterwards every module has its own training flag again."""
    training = [module for module in model.hf.modules() if module.training]
    try:  # from here on, so that an interruption of the switching is undone too
        model.hf.eval()
        yield
    finally:
        for module in training:
            module.training = True
