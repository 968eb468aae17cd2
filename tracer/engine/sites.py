"""Sites in a model, and interventions at them; the kinds of sites are explained in [`tracer.hooks`][]."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracer.errors import SiteError

if TYPE_CHECKING:
    from tracer.model import Model

KINDS = ("hidden", "mlp", "attn", "cross", "mlp_in", "key", "pre", "value", "embed")
WIDE = ("key", "pre")  # kinds that are d_mlp wide
INNER = (*WIDE, "value", "mlp_in")  # kinds inside the MLP, or at its door


@dataclass(frozen=True)
class Site:
    """A place in a model.

    Whether a model has that layer is checked where the site is used.

    Attributes:
        kind: one of `KINDS`.
        layer: the layer; None for "embed".
        token: negative from the end of the tokens in the forward at hand; None: every token.

    Raises:
        TracerError: an unknown kind, or a layer that is missing or out of place.
    """

    kind: str
    layer: int | None = None
    token: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SiteError(f"site kind {self.kind!r} is unknown; expected one of {', '.join(KINDS)}")
        if (self.kind == "embed") != (self.layer is None):
            expected = "no layer" if self.kind == "embed" else "a layer number"
            raise SiteError(f"a site of kind {self.kind!r} needs {expected}, not layer={self.layer!r}")


@dataclass(frozen=True, eq=False)
class Replace:
    """Put a value at a site.

    Attributes:
        site: the site.
        value: [width], [rows, width] or, for a site without token, [..., tokens, width].
    """

    site: Site
    value: Tensor

    def __call__(self, current: Tensor, value: Tensor | None = None) -> Tensor:
        """The new state for `current`; `value` takes the place of `self.value` when only some rows are run."""
        new = self.value if value is None else value
        return new.to(device=current.device, dtype=current.dtype).expand_as(current)


@dataclass(frozen=True, eq=False)
class Add:
    """Add a value at a site, in the wider of the two dtypes, then cast back.

    Attributes:
        site: the site.
        value: shapes as in `Replace`.
    """

    site: Site
    value: Tensor

    def __call__(self, current: Tensor, value: Tensor | None = None) -> Tensor:
        """The new state for `current`; `value` takes the place of `self.value` when only some rows are run."""
        new = self.value if value is None else value
        return (current + new.to(current.device)).to(current.dtype)


@dataclass(frozen=True, eq=False)
class Units:
    """Make some units of a site `factor * current + value`; the others are untouched.

    A unit that the site does not have is noticed where the site is used.

    Attributes:
        site: the site.
        index: which units, k whole numbers, each once.
        factor: a number; 0 means `value` alone, whatever was there.
        value: [k], [rows, k] or, for a site without token, [..., tokens, k].

    Raises:
        TracerError: an invalid index.
    """

    site: Site
    index: tuple[int, ...]
    factor: float
    value: Tensor

    def __post_init__(self) -> None:
        try:
            index = tuple(operator.index(unit) for unit in self.index)
        except TypeError:
            index = ()
        if not index or min(index) < 0 or len(set(index)) < len(index):
            raise SiteError(f"units {self.index!r} of {self.site}: expected whole numbers from 0 on, each once")
        object.__setattr__(self, "index", index)

    def check_width(self, width: int) -> None:
        """Check that a state of `width` has these units.

        Raises:
            TracerError: it has not.
        """
        if max(self.index) >= width:
            raise SiteError(f"unit {max(self.index)} of {self.site} is out of range: it has units 0 to {width - 1}")

    def __call__(self, current: Tensor, value: Tensor | None = None) -> Tensor:
        """The new state for `current`; `value` takes the place of `self.value` when only some rows are run."""
        self.check_width(current.shape[-1])
        index = torch.tensor(self.index, device=current.device)
        kept = current.index_select(-1, index)
        new = (self.value if value is None else value).to(device=current.device, dtype=current.dtype).expand_as(kept)
        if self.factor:  # an infinite activation times zero would be no number
            new = self.factor * kept + new
        return current.index_copy(-1, index, new)


Intervention = Replace | Add | Units


def check_site(model: Model, site: Site, tokens: int | None = None) -> None:
    """Check that a model has the site.

    Raises:
        TracerError: `model` has no such layer or, given `tokens`, a prompt of that length no such token.
    """
    if site.layer is not None and not 0 <= site.layer < model.n_layers:
        raise SiteError(
            f"layer {site.layer} of site {site} is out of range: {model.name} has layers 0 to {model.n_layers - 1}"
        )
    if tokens is not None and site.token is not None and not -tokens <= site.token < tokens:
        one = "; text written with a cache has one token per forward: take -1 or None, or use_cache=False"
        raise SiteError(
            f"token {site.token} of site {site} is out of range: there are {tokens} tokens" + one * (tokens == 1)
        )
