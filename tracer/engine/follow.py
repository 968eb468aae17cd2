"""Many prompts at once: each is run once, and what follows it, given or written by the model, is read from there.

Texts given after a prompt are *forced*: token j is read after the prompt and the tokens before it. Of one prompt, all
that begin alike share a row, so that two answers of one token each cost no more than the prompt itself. Text that the
model writes goes on from the prompt's keys and values, and from those of forced tokens as far as the model would have
written them itself. Rows of similar length share a forward, filled up on the right, where a causal model never looks.

While text is written, rows of any length share forwards too: their keys and values are kept so that all end at the
same place, which leaves what lies before the shorter ones to be masked, as in every left-padded generation, and the
distance between any two tokens of a row as it is. Whether a model takes to this is tried on the shortest and the
longest row; if not, or where a model keeps no keys and values, the rows are run again for every token: slower, same
texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tracer.facts.chat import chat_of
from tracer.facts.prompt import SPAN_END
from tracer.progress import bar

from .acts import Ids
from .chosen import run
from .frame import Frame, evaluating
from .kv_cache import Kept
from .line import Followed, Line, reworded
from .row_budget import check_max_rows, default_rows, fitting
from .sweep import check_numbers
from .trial import slower, unlike

if TYPE_CHECKING:
    from tracer.model import Model

TOP_K = 5
FORWARD_TOKENS = 16, 2048  # fixed cost of a forward on a processor and on a GPU, in tokens, about


def follow(
    model: Model,
    lines: Sequence[Line],
    *,
    top_k: int = TOP_K,
    max_rows: int | None = None,
    description: str = "asking",
) -> list[Followed]:
    """Targets' probabilities and written text after each line's prompt, in the order given.

    Text ends with the tokenizer's or the model's end token, where a line is `done`, after its `tokens`, or where the
    context is full. The model is left as it was found.

    Args:
        model: the model.
        lines: the prompts.
        top_k: tokens to draw among.
        max_rows: most rows in a forward; None: by memory. Numbers do not depend on it beyond rounding; where two tokens
            are equally probable to rounding, the one that is written may.
        description: text of the progress bar.

    Raises:
        TracerError: logits that are not numbers.
    """
    check_max_rows(max_rows)
    found: list[Any] = [None] * len(lines)
    for answering, some, own, frame in reworded(model, lines):
        for place, one in zip(some, _followed(answering, own, frame, top_k, max_rows, description), strict=True):
            found[place] = one
    return found


def _chunks(model: Model, found: Sequence[_Found], max_rows: int | None, most: int | None = None) -> list[list[_Row]]:
    """The rows of all lines, the longest first, as many together as fit, but no more than `most`."""
    rows = sorted((row for each in found for row in each.rows(model)), key=lambda row: -len(row.ids))
    chunks: list[list[_Row]] = []
    while rows:
        room = len(rows[0].ids) + max(row.found.tokens for row in rows)
        # twice the tokens: their keys and values are kept as well
        limit = max_rows or default_rows(model, 2 * room, max(row.reads for row in rows))
        limit = min(limit, most or limit)
        chunks.append(rows[:limit])
        rows = rows[limit:]
    return chunks


def _followed(
    model: Model, lines: Sequence[Line], frame: Frame | None, top_k: int, max_rows: int | None, description: str
) -> list[Followed]:
    drawn = [line.draw.get_state() if line.draw is not None else None for line in lines]

    def fresh() -> list[_Found]:
        for line, state in zip(lines, drawn, strict=True):
            if line.draw is not None and state is not None:
                line.draw.set_state(state)
        rooms = [max(0, min(line.tokens, model.n_ctx - len(line.ids))) for line in lines]
        return [_Found(line, room, place) for place, (line, room) in enumerate(zip(lines, rooms, strict=True))]

    def followed(most: int) -> list[Followed]:
        found = fresh()
        chunks = _chunks(model, found, max_rows, most)
        total = sum(1 + row.found.tokens * row.writes for chunk in chunks for row in chunk)
        with bar(description, total) as progress, torch.no_grad(), evaluating(model):
            for chunk in chunks:
                _Chunk(model, chunk, top_k, partial(progress.advance, progress.task_ids[0]), frame).run()
        return [each.result() for each in found]

    return fitting(followed, max(map(len, _chunks(model, fresh(), max_rows)), default=1))


class _Found:
    """Readings of a line so far."""

    def __init__(self, line: Line, tokens: int, place: int) -> None:
        self.line, self.tokens, self.place = line, tokens, place
        self.log_probs: list[Any] = [None] * len(line.targets)
        self.best: list[Any] = [None] * len(line.targets)
        self.written: list[int] = []

    def rows(self, model: Model) -> list[_Row]:
        """As few rows as read every target; the one that text is written from comes first."""
        line = self.line
        if not model.causal:  # everything is there already
            return [_Row(self, line.ids, (), list(range(len(line.targets))), max(map(len, line.targets), default=1))]
        fed = list(dict.fromkeys(target[:-1] for target in line.targets)) or [()]
        longest = [one for one in fed if not any(other != one and other[: len(one)] == one for other in fed)]
        longest.sort(key=lambda one: one[: len(fed[0])] != fed[0])  # the one that the first target is in
        rows = [_Row(self, line.ids + one, one, [], len(one) + 1) for one in longest]
        for place, target in enumerate(line.targets):
            next(row for row in rows if row.fed[: len(target) - 1] == target[:-1]).targets.append(place)
        rows[0].writes = self.tokens > 0
        return rows

    def accept(self, token: int, ends: set[int]) -> bool:
        """Take the next token; whether text goes on after it."""
        if token in ends:
            return False
        self.written.append(token)
        done = self.line.done
        return len(self.written) < self.tokens and not (done is not None and done(self.written))

    def result(self) -> Followed:
        return Followed(tuple(self.log_probs), tuple(self.best), tuple(self.written))


@dataclass(eq=False)
class _Row:
    """One row of a forward: `ids`, whose end `fed` is forced; `reads` places are read."""

    found: _Found
    ids: Ids
    fed: Ids
    targets: list[int]
    reads: int
    writes: bool = False
    place: int = 0  # among the rows that text is written from
    kept: int = 0  # tokens whose keys and values are good to go on from
    check: tuple[float, float] = (0.0, 0.0)  # largest logit and normaliser after these

    @property
    def first(self) -> int:
        line = self.found.line
        return len(line.ids) - 1 if line.first is None else line.first

    @property
    def read(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.first + self.reads))


class _Chunk:
    """Rows that are in memory together, the longest first."""

    def __init__(
        self, model: Model, rows: Sequence[_Row], top_k: int, advance: Callable[[int], None], frame: Frame | None
    ) -> None:
        self.model, self.rows, self.top_k, self.advance = model, rows, top_k, advance
        self.frame = frame  # of all lines
        self.writers = [row for row in rows if row.writes]
        self.ends = end_ids(model) if self.writers else set()
        for place, row in enumerate(self.writers):
            row.place = place
        self.kept: Kept | None = None
        if self.writers:
            more = max(row.found.tokens for row in self.writers)
            self.kept = Kept(len(self.writers), max(len(row.ids) for row in self.writers), more)

    def run(self) -> None:
        going: list[_Row] = []
        for some in _parts(self.model, self.rows):
            keeps = self.kept is not None and any(row.writes for row in some)
            logits, cache = run(self.model, [(row.ids, row.read) for row in some], keeps, self._of(some))
            logits = check_numbers(self.model, logits).float()
            start = 0
            self._forced(some, logits)
            for place, row in enumerate(some):
                part = logits[start : start + row.reads]
                start += row.reads
                if row.writes and self._begun(row, part):
                    going.append(row)
                if row.writes and self.kept is not None:
                    self.kept = self.kept.take(row.place, cache, place, row.kept)
            self.advance(len(some))
        self._write(going)

    def _of(self, rows: Sequence[_Row]) -> Frame | None:
        """The frame of some rows."""
        return self.frame and self.frame.select([row.found.place for row in rows])

    def _forced(self, rows: Sequence[_Row], logits: Tensor) -> None:
        """Note what is read at targets; logits [places of all rows, V]."""
        total, best = logits.logsumexp(-1), logits.argmax(-1).cpu().numpy()
        starts = np.cumsum([0, *(row.reads for row in rows)])
        wanted = [
            (row.found, place, int(start)) for row, start in zip(rows, starts, strict=False) for place in row.targets
        ]
        places = [start + j for found, place, start in wanted for j in range(len(found.line.targets[place]))]
        tokens = [token for found, place, _ in wanted for token in found.line.targets[place]]
        at = torch.tensor(places, device=logits.device, dtype=torch.long)
        values = logits[at, torch.tensor(tokens, device=logits.device, dtype=torch.long)].double() - total[at].double()
        done = 0
        numbers = values.cpu().numpy()
        for found, place, start in wanted:
            count = len(found.line.targets[place])
            found.log_probs[place] = numbers[done : done + count]
            found.best[place] = best[start : start + count]
            done += count

    def _begun(self, row: _Row, logits: Tensor) -> bool:
        """Take what is known already of a row's text; whether it goes on. logits: [reads, V]."""
        draw = row.found.line.draw
        chosen = [self._chosen([row], logits[:1])[0]] if draw is not None else logits.argmax(-1).tolist()
        for place, token in enumerate(chosen):
            row.kept = len(row.found.line.ids) + place
            row.check = float(logits[place].max()), float(logits[place].logsumexp(-1))
            if not row.found.accept(token, self.ends):
                return False
            if row.fed[place : place + 1] != (token,):
                break
        return True

    def _chosen(self, rows: Sequence[_Row], logits: Tensor) -> list[int]:
        """The next token of each row; drawn on the CPU, so that every device draws alike."""
        chosen = logits.argmax(-1).tolist()
        drawn = [(i, row.found.line.draw) for i, row in enumerate(rows) if row.found.line.draw is not None]
        if drawn:
            top = logits[[i for i, _ in drawn]].float().cpu().topk(min(self.top_k, logits.shape[-1]))
            shares = top.values.softmax(-1)
            for line, (i, draw) in enumerate(drawn):
                chosen[i] = int(top.indices[line, torch.multinomial(shares[line], 1, generator=draw)])
        return chosen

    def _write(self, rows: list[_Row]) -> None:
        """Let the rows write, token by token, until all have ended."""
        kept = self.kept
        if kept is not None and rows:
            kept.select([row.place for row in rows])
            kept = kept if self._takes(kept, rows) else None
        while rows:
            if kept is None:
                texts = [(*row.found.line.ids, *row.found.written) for row in rows]
                logits, _ = run(self.model, [(ids, (len(ids) - 1,)) for ids in texts], False, self._of(rows))
            else:
                logits = kept.step(self.model, [row.found.written[-1] for row in rows], self._of(rows))
            chosen = self._chosen(rows, check_numbers(self.model, logits))
            self.advance(len(rows))
            stay = [i for i, row in enumerate(rows) if row.found.accept(chosen[i], self.ends)]
            if len(stay) < len(rows):
                rows = [rows[i] for i in stay]
                if kept is not None:
                    kept.select(stay)

    def _takes(self, kept: Kept, rows: Sequence[_Row]) -> bool:
        """Whether the last token of the shortest and the longest row gives the same numbers after what is kept."""
        lengths = [row.kept for row in rows]
        if len(set(lengths)) == 1:  # nothing to mask
            return True
        ends = [lengths.index(min(lengths)), lengths.index(max(lengths))]

        def again() -> Tensor:
            trial, some = kept.without_last(ends), [rows[i] for i in ends]
            tokens = [row.ids[row.kept - 1] for row in some]
            logits = trial.step(self.model, tokens, self._of(some)).float()
            return torch.stack([logits.amax(-1), logits.logsumexp(-1)], 1)

        why = unlike(torch.tensor([rows[i].check for i in ends]), again, self.model.dtype)
        if why:
            slower(self.model, f"rows of other lengths cannot share the step that writes a token: {why}")
        return not why


def _parts(model: Model, rows: Sequence[_Row]) -> list[Sequence[_Row]]:
    """Rows, the longest first, cut where filling up costs more than another forward does."""
    own = FORWARD_TOKENS[model.device.type != "cpu"]
    lengths = [len(row.ids) for row in rows]
    edges = [i for i in range(len(rows)) if i == 0 or lengths[i] != lengths[i - 1]] + [len(rows)]
    if not model.causal:  # it reads what it is filled up with
        return [rows[a:b] for a, b in pairwise(edges)]
    least, begin = [0], [0]
    for j in range(1, len(edges)):
        costs = [least[i] + own + (edges[j] - edges[i]) * lengths[edges[i]] for i in range(j)]
        least.append(min(costs))
        begin.append(costs.index(least[-1]))
    parts, end = [], len(edges) - 1
    while end:
        parts.append(rows[edges[begin[end]] : edges[end]])
        end = begin[end]
    return parts[::-1]


def end_ids(model: Model) -> set[int]:
    """Tokens that end a text, by the tokenizer, its chat template, and the model's generation config; or a span."""
    named = [model.tokenizer.eos_token_id, getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)]
    chat = chat_of(model)
    if chat is not None and chat.end:
        named.append(model.tokenizer.convert_tokens_to_ids(chat.end))
    spans = getattr(model.hf.config, "is_encoder_decoder", False)  # also of what answers in the place of such a model
    if spans and SPAN_END in model.tokenizer.get_vocab():
        named.append(model.tokenizer.convert_tokens_to_ids(SPAN_END))
    flat = [i for each in named for i in (each if isinstance(each, list | tuple) else [each])]
    return {i for i in flat if isinstance(i, int)}
