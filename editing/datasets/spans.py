"""Records as encoder-decoder models are asked them: with the mark of a span where the answer belongs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from editing.questions.negation import is_question
from editing.questions.question import Question
from editing.questions.record import EditRecord, Rewrite
from tracer.errors import EncoderDecoderError
from tracer.facts.prompt import mark_in, marked

from .load import records_of

if TYPE_CHECKING:
    from tracer.model import Model


def in_spans(model: Model, records: Iterable[Any]) -> list[EditRecord]:
    """Records with the mark of a span behind every prompt that is to be gone on from.

    Questions, and prompts with a mark, stay as they are, and so do texts that are continued or read by themselves
    (`generate`, `references`, `essence`).

    Args:
        model: an encoder-decoder model, whose mark it is.
        records: [`editing.datasets.EditRecord`][], or mappings in a layout that is known.

    Raises:
        TracerError: a model of one stack, which goes on from prompts as they are; a tokenizer without a mark.
    """
    listed = list(records)
    known = [each for each in listed if isinstance(each, EditRecord)]
    return [_marked(model, record) for record in (known if len(known) == len(listed) else records_of(listed))]


def as_span(model: Model, prompt: str) -> str:
    """A prompt with the mark of a span behind it; a question, and a prompt with a mark, as it is.

    Args:
        model: an encoder-decoder model.
        prompt: with its subject or `{}`.

    Raises:
        TracerError: a model of one stack; a tokenizer without a mark.
    """
    if model.style != "seq2seq":
        raise EncoderDecoderError(
            f"{model.name} is no encoder-decoder model and goes on from prompts as they are; give it the records "
            "themselves"
        )
    return prompt if is_question(prompt) or mark_in(model, prompt) is not None else marked(model, prompt)


def _marked(model: Model, record: EditRecord) -> EditRecord:
    text = partial(as_span, model)

    def rewritten(rewrite: Rewrite) -> Rewrite:
        return rewrite.model_copy(update={"prompt": text(rewrite.prompt), "space": None})

    def asked(one: Question) -> Question:
        needs = tuple(text(need) if isinstance(need, str) else need for need in one.needs)
        return one.model_copy(update={"prompt": text(one.prompt), "needs": needs, "space": None})

    own = {"rewrites": tuple(map(rewritten, record.rewrites)), "asks": tuple(map(asked, record.asks))}
    return record.model_copy(update=own)
