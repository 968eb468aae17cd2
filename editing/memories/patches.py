"""Edits of weights that are switched on per row: what a method would write, for the prompts it is meant for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.engine.acts import Hook
from tracer.engine.sites import WIDE
from tracer.errors import MemoryMisfit

from .checks import check_parts
from .melo import adapted
from .routed import Own, RoutedKind

if TYPE_CHECKING:
    from tracer.engine.frame import Frame
    from tracer.model import Model

    from .memory import Memory


class Patches(RoutedKind):
    """Adds (x A^T) B at every token of a row to what a projection gives for x, with the A and B of the row's entry.

    That is what a change A^T B of the weight would do, for this row alone; rows of a batch may have different ones.
    The header says `places`, one [layer, kind of site that enters, kind that leaves] for each projection p; tensors are
    `a.p` [ranks, width that enters], `b.p` [ranks, width that leaves], rows of all entries one behind the other, and
    `counts` [n, places], how many of them each entry has there.
    """

    def sites(self, memory: Memory) -> Sequence[tuple[str, int]]:
        """Those that are read and written, place by place."""
        return [(kind, layer) for layer, *kinds in memory.header["places"] for kind in kinds]

    def own(self, memory: Memory) -> list[Own]:
        """A and B of each entry, by place."""
        counts = memory.tensors["counts"]
        parts = {
            f"{side}.{place}": memory.tensors[f"{side}.{place}"].split(counts[:, place].tolist())
            for place in range(len(memory.header["places"]))
            for side in ("a", "b")
        }
        return [{name: each[entry] for name, each in parts.items()} for entry in range(len(counts))]

    def stacked(self, own: Sequence[Own], header: Mapping[str, Any]) -> dict[str, Tensor]:
        """All As and Bs, and how many each entry has; an entry without any at a place has none there."""
        places = range(len(header["places"]))
        names = [f"{side}.{place}" for place in places for side in ("a", "b")]
        widths = {f"{side}.{place}": header["widths"][place][at] for place in places for at, side in enumerate("ab")}
        tensors = {
            name: torch.cat([torch.zeros(0, widths[name]), *(one[name] for one in own if name in one)])
            for name in names
        }
        counts = [[len(one.get(f"a.{place}", ())) for place in places] for one in own]
        return {**tensors, "counts": torch.tensor(counts, dtype=torch.long).reshape(len(own), len(places))}

    def hooks(self, memory: Memory, model: Model, frame: Frame) -> Sequence[Hook]:
        """What the rows' entries add to projections, where they have something there."""
        counts = memory.tensors["counts"]
        firsts = counts.cumsum(0) - counts
        decided = frame.decided[memory.name]
        acting = {each.entry for each in decided if each is not None}

        def act(place: int, x: Tensor, y: Tensor, frame: Frame) -> Tensor | None:
            rows, own = frame.rows(len(y)), counts[:, place].tolist()
            hits = [at for at, row in enumerate(rows) if decided[row] is not None and own[decided[row].entry]]
            if not hits:
                return None
            most = max(own[decided[rows[at]].entry] for at in hits)
            entries = torch.tensor([decided[rows[at]].entry for at in hits])
            ranks = torch.arange(most)
            real = ranks < counts[entries, place].unsqueeze(1)  # [hits, most]
            picked = (firsts[entries, place].unsqueeze(1) + ranks).where(real, 0)
            index, real = torch.tensor(hits, device=y.device), real.unsqueeze(-1)
            a = memory.tensor(f"a.{place}", x)[picked.to(x.device)] * real.to(x)
            b = memory.tensor(f"b.{place}", y)[picked.to(y.device)] * real.to(y)
            return y.index_copy(0, index, y[index] + adapted(x[index.to(x.device)], a, b, 1.0))

        def hook(place: int) -> Hook:
            layer, enters, leaves = memory.header["places"][place]
            return Hook((leaves, layer), lambda x, y, frame: act(place, x, y, frame), (enters, layer))

        used = [place for place in range(counts.shape[1]) if any(int(counts[entry, place]) for entry in acting)]
        return [hook(place) for place in used]

    def control(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """What is added in random directions of the same lengths, at the same keys."""
        outputs = {name: tensor for name, tensor in rows.items() if name.startswith("b.")}
        return {**rows, **super(RoutedKind, self).control(outputs, generator)}

    def check(self, memory: Memory, model: Model) -> None:
        """That A, B and counts belong together, and are as wide as the sites.

        Raises:
            TracerError: they do not.
        """
        check_parts(memory, ("keys", "about", "counts"), ("places", "widths"))
        places, counts = memory.header["places"], memory.tensors["counts"]
        check_parts(memory, [f"{side}.{place}" for place in range(len(places)) for side in ("a", "b")], ())
        super().check(memory, model)
        fits = counts.dim() == 2 and list(counts.shape) == [len(memory.tensors["keys"]), len(places)]
        for place, (_, *kinds) in enumerate(places):
            for side, kind in zip("ab", kinds, strict=True):
                tensor, width = memory.tensors[f"{side}.{place}"], model.d_mlp if kind in WIDE else model.d_model
                if tensor.dim() != 2 or tensor.shape[-1] != width:
                    raise MemoryMisfit(
                        f"the tensor '{side}.{place}' of the memory {memory.name!r} is {list(tensor.shape)}; expected "
                        f"a last dimension of {width}, as wide as {kind!r} of {model.name}. Make it on this model"
                    )
                fits = fits and len(tensor) == int(counts[:, place].sum())
        if not fits:
            raise MemoryMisfit(
                f"the memory {memory.name!r} has {len(memory.tensors['keys'])} entries whose counts "
                f"{list(counts.shape)} do not claim every row of its tensors once; make it again"
            )
