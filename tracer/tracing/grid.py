"""The exact grid: every cell (token, layer) of a trace from two recorded runs and a branched sweep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tracer.engine.hooks import Replace, Site, as_ids
from tracer.engine.sweep import Base, record, sweep
from tracer.errors import TraceSettingError
from tracer.facts.prompt import source_length
from tracer.facts.readout import Readout

from .case import Case, Setting
from .corruption import Corruption, GaussianNoise

if TYPE_CHECKING:
    from tracer.facts.fact import Alignment, Fact
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Grid:
    """The recorded runs of a case.

    Attributes:
        case: the case.
        clean: the clean run.
        corrupted: the corrupted run.
        frozen: the run whose outputs severed modules keep: `corrupted` itself, but for published noise.
    """

    case: Case
    clean: Base
    corrupted: Base
    frozen: Base

    @classmethod
    def run(
        cls,
        model: Model,
        fact: Fact,
        alignment: Alignment,
        setting: Setting,
        corruption: Corruption,
        published_noise: bool,
        max_rows: int | None,
    ) -> Grid:
        """Make the clean run and the corrupted ones."""
        readout = Readout.of(model, alignment)
        ids, span = as_ids(model, readout.ids)[0], alignment.subject_range
        rows = corruption.corrupt(model, ids, span, fact)
        kinds = (setting.kind, setting.sever) if setting.sever else (setting.kind,)
        both = record(model, rows.ids, rows.interventions, read=readout.read, kinds=kinds, max_rows=max_rows)
        case = Case.of(model, fact, alignment, setting, both.logits, rows.settings)
        corrupted = frozen = both.rows(slice(1, None))
        if setting.sever and published_noise:
            if not isinstance(corruption, GaussianNoise):
                name = type(corruption).__name__
                raise TraceSettingError(f"published_noise is about draws of noise, and {name} draws none; leave it out")
            second = corruption.corrupt(model, ids, span, skip=1).interventions
            again = record(model, rows.ids, second, read=readout.read, kinds=(setting.kind,), max_rows=max_rows)
            corrupted = again.rows(slice(1, None))
        return cls(case, both.rows(slice(0, 1)), corrupted, frozen)

    def known(self, token: int, layer: int) -> np.ndarray | None:
        """The scores of a cell where they follow without a run."""
        model, setting = self.case.model, self.case.setting
        last = setting.restored(layer)[0] == model.n_layers - 1
        if last and setting.kind == "hidden" and self.clean.read == (token,):
            return self.case.clean  # all that the unembedding sees
        if self.frozen is not self.corrupted:
            return None
        if model.style == "causal" and token < self.case.alignment.subject_range[0]:
            return self.case.corrupted  # before the subject nothing was corrupted
        if last and token not in self.clean.read:
            return self.case.corrupted  # no later block carries it to where the answer is read
        return None

    def scores(self, tokens: tuple[int, ...], layers: tuple[int, ...], max_rows: int | None) -> np.ndarray:
        """Scores [tokens, layers, metrics] after restoring, mean over the corrupted run's rows."""
        case = self.case
        scores = np.full((len(tokens), len(layers), len(case.metrics)), np.nan)
        after, first = self.after_first(), case.alignment.subject_range[0]
        cells: dict[bool, list[tuple[int, int]]] = {False: [], True: []}  # True: those that start from after
        for row, column in np.ndindex(len(tokens), len(layers)):
            known = self.known(tokens[row], layers[column])
            if known is None:
                cells[after is not None and tokens[row] == first].append((row, column))
            else:
                scores[row, column] = known
        for inside, base in ((False, self.corrupted), (True, after)):
            if base is None or not cells[inside]:
                continue
            branches = self.branches([(tokens[row], layers[column]) for row, column in cells[inside]], base)
            title = f"restoring {case.setting.kind}"
            found = sweep(case.model, base, branches, case.measure, max_rows=max_rows, description=title)
            for cell, values in zip(cells[inside], found.double().mean(1).numpy(), strict=True):
                scores[cell] = values
        return scores

    def branches(self, cells: list[tuple[int, int]], base: Base) -> list[list[Replace]]:
        """The interventions of each cell. Cells share their objects, so that runs are shared as long as they agree."""
        setting, model, ids = self.case.setting, self.case.model, self.clean.ids[0].tolist()
        items: dict[tuple[str, int, int], Replace] = {}
        branches = []
        for token, layer in cells:
            keys = [(setting.kind, number, token) for number in setting.restored(layer)]
            for key in keys:
                if key not in items and base is self.corrupted:
                    items[key] = Replace(Site(*key), self.clean.states[key[:2]][0, token])
                elif key not in items:  # the restored token is done: join at the next one as it is
                    items[key] = Replace(Site(key[0], key[1], token + 1), base.entering[key[1] + 1][:, token + 1])
            if setting.sever:
                # with the same noise, outputs up to the restored layer are what they are kept at
                start = layer + 1 if self.frozen is self.corrupted else setting.within.start
                severed = [(setting.sever, number, token) for number in range(start, setting.within.stop)]
                if setting.sever == "cross" and setting.stack == "encoder":  # the only way out of the encoder
                    steps = range(source_length(model, ids), len(ids))
                    severed = [("cross", number, step) for number in model.stacks["decoder"] for step in steps]
                for key in severed:
                    items.setdefault(key, Replace(Site(*key), self.frozen.states[key[:2]][:, key[2]]))
                keys = severed + keys
            branches.append([items[key] for key in keys])
        return branches

    def after_first(self) -> Base | None:
        """The corrupted run, but with the subject's first token and those before it as in the clean run.

        Once its hidden state is restored, the first corrupted token is clean for good: it sees only tokens that were
        never corrupted. So its row of the grid needs only the tokens after it. Not where its modules are severed, or
        where blocks may receive something else that is made from the corrupted token.
        """
        setting, alignment = self.case.setting, self.case.alignment
        before, prefix = self.clean.prefix, self.corrupted.prefix
        if not self.corrupted.grows:
            return None
        if setting.kind != "hidden" or setting.sever or before is None or prefix is None:
            return None
        if alignment.subject_range[0] + 1 == len(alignment.input_ids):
            return None
        rows = len(self.corrupted.ids)
        return replace(
            self.corrupted, prefix=tuple((k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in before)
        )
