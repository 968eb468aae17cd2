"""Running text of the model's own, whose distributions an edit is to leave alone.

Editors that learn to keep answers to questions alone may still ruin how a model goes on from plain text: a third of the
edits by a MEND that was trained so raised SmolLM2's perplexity by more than a fifth. Text that a model writes itself is
there for any model, and shows what it would have gone on with.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import torch

from editing.methods.value.context_templates import context_templates
from editing.prepared.work import Work
from tracer.engine.batch import Row
from tracer.facts.encoding import encode
from tracer.facts.fact import SLOT

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

COUNT, TOKENS = 40, 32  # texts that a model writes, and their length
READ = 4  # places of a text that are read in a step, so that it does not outweigh questions


def passages_of(model: Model, wanted: bool, work: Work) -> tuple[Ids, ...]:
    """Texts that the model writes by itself, in tokens; none of a model that does not go on after a text.

    Args:
        model: to be edited.
        wanted: whether there are to be any.
        work: seed and checkpoint.
    """
    if not wanted or not model.causal or model.stacks:
        return ()
    kept = work.checkpoint.load("passages")
    if kept is None:
        seed = int(torch.randint(1 << 31, (1,), generator=work.draws(-5)))
        texts = context_templates(model, [(TOKENS, COUNT)], seed=seed)[1]
        ids = [encode(model.tokenizer, text.removesuffix(f". {SLOT}"), True)[0] for text in texts]
        able = [each for each in ids if READ < len(each) <= model.n_ctx and max(each) < model.n_tokens]
        tensors = {str(place): torch.tensor(each) for place, each in enumerate(able)}
        work.checkpoint.save(tensors, {}, "passages")
        kept = tensors, {}
    return tuple(tuple(kept[0][name].tolist()) for name in sorted(kept[0], key=int))


def drawn_row(passages: Sequence[Ids], draw: Random) -> Row:
    """A text that is read at some of its tokens.

    Args:
        passages: texts.
        draw: random numbers.
    """
    ids = draw.choice(passages)
    return Row(ids, len(ids) - 1, tuple(sorted(draw.sample(range(1, len(ids)), READ))))


def whole_row(ids: Ids, every: int = 1) -> Row:
    """A text that is read at every token but its first, or at every so many.

    Args:
        ids: the text.
        every: distance of the tokens.
    """
    return Row(ids, len(ids) - 1, tuple(range(1, len(ids), every)))
