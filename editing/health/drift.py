"""Side effects of edits on unrelated text: shift of next-token distributions, and perplexity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tracer.engine.batch import logits_of
from tracer.engine.hooks import evaluating
from tracer.engine.memories import acting, of_text
from tracer.engine.row_budget import default_rows, fitting
from tracer.engine.sweep import check_numbers
from tracer.errors import EncoderDecoderError, HealthTextError, MaskedModelError, TracerError
from tracer.facts.encoding import body_ids
from tracer.model import EMBEDDED, check_ids
from tracer.model.soundness import PASSAGE

if TYPE_CHECKING:
    from tracer.model import Model

TOKENS, WIDTH = 256, 128
BEGUN = (4, 8, 16, 32, 64)  # tokens of the beginnings that memories are asked about
LONG = 32  # characters, more than a token has
WORSE = 1.2  # of perplexity. Edits that hold change it by a few hundredths; those that break a model, by nearly two
KNOWN = 0.25  # of the vocabulary: a perplexity above it is that of a model that knows no language to begin with


@dataclass(frozen=True)
class Drifted:
    """Measurements of `Drift`.

    Attributes:
        kl: mean over tokens of KL(before || after), in nats.
        perplexity: of the text, exp of the mean loss per token.
        before: the same before any edit.
        words: size of the vocabulary, the perplexity of guessing.
        hits: share of beginnings of the text on which a memory of the model acts; nan for a model without memories.
    """

    kl: float
    perplexity: float
    before: float
    words: int
    hits: float = float("nan")

    @property
    def ruined(self) -> bool:
        """Whether perplexity grew by more than a fifth, in a model that had any language to lose."""
        return self.before < KNOWN * self.words and not self.perplexity <= WORSE * self.before  # also if it is nan


@dataclass(frozen=True, eq=False)
class Drift:
    """Next-token distributions of the unedited model over a text. Made by `recorded`.

    The distributions are kept whole, since a sum over the most probable tokens alone misses tokens that an edit raises
    from nothing: 4 bytes for each of N tokens and V entries of the vocabulary, 51 MB for GPT-2's 50,257 and 256 tokens.

    Attributes:
        ids: [rows, tokens], windows of the text.
        lead: number of special tokens in front of each window.
        before: [rows, tokens - lead, V] float32, log-probabilities after each token of the text; on the CPU.
    """

    ids: Tensor
    lead: int
    before: Tensor

    @classmethod
    def recorded(
        cls, model: Model, text: str | Sequence[str] | None = None, *, tokens: int = TOKENS, width: int = WIDTH
    ) -> Drift:
        """Run the first tokens of a text through the model as it is now.

        Args:
            model: a causal model.
            text: one, or several that are joined; None: FactWorld's held-out text for the embedded model, a passage of
                plain English for others.
            tokens: number of tokens read.
            width: tokens of a window.

        Raises:
            TracerError: no text, one of fewer than two tokens, settings out of range, a masked model, logits that are
                not numbers.
        """
        ids, lead = windows(model, text, tokens, width)
        parts = [log_probs.cpu() for _, log_probs in _run(model, ids, lead)]
        return cls(ids, lead, torch.cat(parts))

    def measure(self, model: Model) -> float:
        """Mean of KL(before || after) over the tokens, in nats.

        Args:
            model: as it is now.
        """
        return self.both(model).kl

    def both(self, model: Model) -> Drifted:
        """Drift and perplexity, from the same forward.

        Args:
            model: as it is now.

        Raises:
            TracerError: logits that are not numbers.
        """
        kl = 0.0
        loss = 0.0
        for rows, after in _run(model, self.ids, self.lead):
            before = self.before[rows].to(after.device)
            kl += float(F.kl_div(after, before, log_target=True, reduction="none").sum(-1).double().sum())
            loss += _loss(after, self.ids[rows], self.lead)
        count = self.before.shape[0] * self.before.shape[1]
        after = _perplexity(loss, self.ids, self.lead)
        return Drifted(kl / count, after, self.perplexity, self.before.shape[-1], self._hits(model))

    def _hits(self, model: Model) -> float:
        """Share of beginnings of the windows on which a memory acts."""
        if not model.memories:
            return float("nan")
        begun = [row[: self.lead + length] for row in self.ids.tolist() for length in BEGUN if length < len(row)]
        return float(torch.tensor(acting(model, begun or self.ids.tolist())).float().mean())

    @property
    def perplexity(self) -> float:
        """Perplexity of the text, before."""
        return _perplexity(_loss(self.before, self.ids, self.lead), self.ids, self.lead)

    def read(self, model: Model) -> Drifted:
        """As `both`; infinite where the logits are not numbers any more.

        Args:
            model: as it is now.
        """
        try:
            return self.both(model)
        except TracerError:
            return Drifted(float("inf"), float("inf"), self.perplexity, self.before.shape[-1])


def perplexity(
    model: Model, text: str | Sequence[str] | None = None, *, tokens: int | None = None, width: int = WIDTH
) -> float:
    """Perplexity per token of a text: exp of the mean loss of all tokens but the first of each window.

    Errors as of [`editing.evaluation.Drift.recorded`][].

    Args:
        model: a causal model.
        text: one, or several that are joined; None: as for `Drift.recorded`.
        tokens: number of tokens read; None: the whole text.
        width: tokens of a window.
    """
    ids, lead = windows(model, text, tokens, width)
    loss = sum(_loss(log_probs, ids[rows], lead) for rows, log_probs in _run(model, ids, lead))
    return _perplexity(loss, ids, lead)


def windows(model: Model, text: str | Sequence[str] | None, tokens: int | None, width: int) -> tuple[Tensor, int]:
    """Ids [rows, lead + width] of a text's windows, and the lead; tokens that fill no window at the end are left out.

    The lead is the number of tokens that the tokenizer puts before every text.

    Args:
        model: whose tokenizer is used.
        text: one, several, or None for the default.
        tokens: number of tokens read; None: all.
        width: tokens of a window.
    """
    if not model.causal:
        raise MaskedModelError(f"{model.name} is a masked model, which predicts no next token; use one that does")
    if model.style == "seq2seq":
        raise EncoderDecoderError(
            f"{model.name} is an encoder-decoder model, which predicts no next token of running text; use a causal one"
        )
    if text is None:
        from tracer.factworld import held_out_text

        text = held_out_text() if model.name == EMBEDDED else PASSAGE
    for name, value in (("tokens", tokens), ("width", width)):
        if value is not None and value < 2:
            raise HealthTextError(f"{name} is {value}; expected at least 2")
    whole = text if isinstance(text, str) else "\n".join(text)
    ids = None
    if tokens is not None and len(whole) > (LONG + 1) * tokens:  # of a long text, far more than is read
        ids = body_ids(model.tokenizer, whole[: LONG * tokens])
    if ids is None or len(ids) < 2 * tokens:  # type: ignore[operator]
        ids = body_ids(model.tokenizer, whole)
    ids = ids[:tokens]
    if len(ids) < 2:
        raise HealthTextError(f"the text has {len(ids)} tokens, and nothing can be predicted in it; give a longer one")
    bos = model.tokenizer.bos_token_id
    first = list(model.tokenizer("a")["input_ids"])[:1]  # type: ignore[arg-type]
    front = [bos] if bos is not None and first == [bos] else []
    width = min(width, len(ids), model.n_ctx - len(front))
    check_ids(model, ids)
    rows = [[*front, *ids[start : start + width]] for start in range(0, len(ids) - width + 1, width)]
    return torch.tensor(rows), len(front)


def _run(model: Model, ids: Tensor, lead: int) -> Iterator[tuple[slice, Tensor]]:
    """Log-probabilities [some rows, width, V] float32 after each token of the text."""
    step, start = default_rows(model, ids.shape[1], ids.shape[1]), 0

    def read(most: int) -> tuple[slice, Tensor]:
        rows = slice(start, start + most)
        with torch.no_grad(), evaluating(model):
            found = check_numbers(model, logits_of(model, ids[rows], frame=of_text(model, ids[rows])))
        return rows, found[:, lead:].float().log_softmax(-1)

    while start < len(ids):
        rows, found = fitting(read, min(step, len(ids) - start))
        yield rows, found
        step = min(step, rows.stop - start)
        start = rows.stop


def _loss(log_probs: Tensor, ids: Tensor, lead: int) -> float:
    """Sum of the loss of every token of the text but each window's first."""
    wanted = ids[:, lead + 1 :].to(log_probs.device)
    return -float(log_probs[:, :-1].gather(-1, wanted.unsqueeze(-1)).double().sum())


def _perplexity(loss: float, ids: Tensor, lead: int) -> float:
    return float(torch.tensor(loss / (ids.shape[0] * (ids.shape[1] - lead - 1)), dtype=torch.float64).exp())
