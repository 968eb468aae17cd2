"""A fact as text, and its alignment with a model's tokens: which tokens are the subject, what answers it, and where.

Everything goes by character offsets, never by tokenising pieces and hoping that they join up.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracer.errors import EmptyText, MaskedModelError, PromptTooLong, SubjectNotInPrompt, TextWithoutTokens
from tracer.model.vocabulary import check_ids
from tracer.text import look_alike

from .chat import Chat, framed
from .encoding import check_whole, encode
from .inspection import Alignment, Inspection
from .prompt import decoder_ids, mark_in, marked, source_ids
from .spacing import spaced

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tracer.model import Model

SLOT = "{}"


@dataclass(frozen=True)
class Fact:
    """A prompt about a subject, and optionally what should follow.

    Attributes:
        prompt: holds `{}` in the subject's place, or the subject itself, once. Other braces are plain text. For a
            masked model it also holds the tokenizer's mask token in the answer's place, and for an encoder-decoder
            model the mark of a span (`tracer.facts.prompt`), or none if it is a question.
        subject: who or what it is about.
        target: the text that should follow.
        space: whether there is a space between prompt and target. None: as the two are written. There is one between
            words, but not behind "1+1=", "19" before "45", an opening quote, or Chinese; a target that begins with a
            space keeps it, and behind a prompt that ends in one there is no other.

    Raises:
        TracerError: empty prompt, subject or target, or half a character in one; subject absent, or there twice with no
            `{}` to say which.
    """

    prompt: str
    subject: str
    target: str | None = None
    space: bool | None = None

    def __post_init__(self) -> None:
        for field in ("prompt", "subject", "target"):
            value = getattr(self, field)
            if value is None and field == "target":
                continue
            if not isinstance(value, str):
                raise EmptyText(f"the {field} should be text, got {type(value).__name__}")
            if not value.strip():
                repair = "leave it out" if field == "target" else "write it out"
                raise EmptyText(f"the {field} is empty ({value!r}); {repair}")
            check_whole(value, field)
        if self.space is not None and not isinstance(self.space, bool):
            raise EmptyText(f"space is {self.space!r}; expected True, False or None")
        self.subject_span  # noqa: B018  a bad fact fails where it is made

    @classmethod
    def chat(
        cls,
        model: Model | PreTrainedTokenizerBase,
        prompt: str,
        subject: str,
        target: str | None = None,
        *,
        system: str | None = None,
    ) -> Fact:
        """A fact that is asked in the chat template of a model, or of a bare tokenizer.

        Args:
            model: whose template it is.
            prompt: what the user says, with `{}` or with the subject.
            subject: who or what it is about.
            target: what the reply should begin with.
            system: the system message; None: the template's own, if it has one.

        Returns:
            A fact whose prompt is the whole text, from the template's beginning to that of the reply.

        Raises:
            TracerError: as for any fact; no chat template, or one that refuses the message.
        """
        start, stop = cls(prompt, subject).subject_span
        said = prompt if SLOT in prompt else f"{prompt[:start]}{SLOT}{prompt[stop:]}"
        return cls(framed(model, said, system), subject, target, Chat.of(model).space)

    @classmethod
    def span(cls, model: Model, prompt: str, subject: str, target: str | None = None) -> Fact:
        """A fact whose answer an encoder-decoder model fills in behind the prompt, as a span.

        Args:
            model: whose mark is put there: `<extra_id_0>` (T5) or its mask token (BART).
            prompt: what stands before the answer, with `{}` or with the subject.
            subject: who or what it is about.
            target: the text that should follow.

        Raises:
            TracerError: as for any fact; a tokenizer without such a mark.
        """
        return cls(marked(model, prompt), subject, target)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Characters of `text` that are the subject, half open."""
        prompt, subject = self.prompt, self.subject
        slots = prompt.count(SLOT)
        if slots > 1:
            raise SubjectNotInPrompt(f"prompt {prompt!r} has {slots} times {{}}; leave one, where the subject belongs")
        if slots == 1:
            start = prompt.index(SLOT)
            return start, start + len(subject)
        starts = _occurrences(prompt, subject)
        if not starts:
            written = look_alike(prompt, subject)
            hint = ""
            if written is not None:
                hint = f" (it has {written!r})"
                if written.casefold() != subject.casefold():
                    hint = f" (it has {written!a}, which looks alike; the subject is {subject!a})"
            where = f"{prompt!r}{hint}; put {{}} where it belongs"
            raise SubjectNotInPrompt(f"subject {subject!r} does not occur in prompt {where}")
        if len(starts) > 1:
            raise SubjectNotInPrompt(
                f"subject {subject!r} occurs more than once in prompt {prompt!r}; put {{}} for the one that is meant"
            )
        return starts[0], starts[0] + len(subject)

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        # not str.format: other braces are plain text
        return self.prompt.replace(SLOT, self.subject) if SLOT in self.prompt else self.prompt

    def align(self, model: Model | PreTrainedTokenizerBase) -> Alignment:
        """The fact in the tokens of a model (or of a bare tokenizer, which knows no context length).

        Raises:
            TracerError: prompt (with target) longer than the context, no mask or several for a masked model, a target
                the tokenizer cannot write, or a slow tokenizer.
        """
        tokenizer: Any = getattr(model, "tokenizer", model)
        if not getattr(tokenizer, "is_fast", False):
            raise TextWithoutTokens(
                f"{type(tokenizer).__name__} gives no character offsets; use the fast tokenizer (tokenizer.json)"
            )
        text = self.text
        mask = getattr(tokenizer, "mask_token", None)
        causal = getattr(model, "causal", not (mask and mask in text))
        stacked = getattr(model, "style", None) == "seq2seq"
        ids, offsets = source_ids(model, text) if stacked else encode(tokenizer, text, causal)  # type: ignore[arg-type]
        span = _token_range(tokenizer, text, ids, offsets, self.subject_span)
        if span is None:
            raise TextWithoutTokens(f"the tokenizer has no token for subject {self.subject!r} of {text!r}; reword it")
        target: list[int] = []
        if stacked:
            ids = ids + decoder_ids(model, text)  # type: ignore[arg-type]
        answer = len(ids) - 1
        if stacked and self.target is not None:
            target = self._written(model, text)  # type: ignore[arg-type]
        elif causal:
            if self.target is not None:
                target = _following(tokenizer, text, ids, spaced(text, self.target, self.space))
        else:
            answer = _mask_position(tokenizer, text, ids)
            if self.target is not None:
                target = _filling(tokenizer, text, ids, answer, self.target)
                extra = len(target) - 1  # as many masks as the target has tokens
                ids = ids[:answer] + [tokenizer.mask_token_id] * len(target) + ids[answer + 1 :]
                if span[0] > answer:
                    span = (span[0] + extra, span[1] + extra)
        self._check(model, tokenizer, len(ids) + (len(target[1:]) if causal else 0), target)
        if hasattr(model, "hf"):
            check_ids(model, [*ids, *target])  # type: ignore[arg-type]
        return Alignment(tuple(ids), tuple(token_text(tokenizer, i) for i in ids), span, tuple(target), answer)

    def _written(self, model: Model, text: str) -> list[int]:
        """Ids of the target as a decoder writes it: in the span's place, or as the whole answer of a question."""
        tokenizer: Any = model.tokenizer
        mark, target = mark_in(model, text), self.target or ""
        before = "" if mark is None else text.partition(mark)[0].rstrip()
        target = spaced(before, target, self.space) if before else target.lstrip()
        if mark is not None and mark == tokenizer.mask_token and before:
            front, _ = encode(tokenizer, before)
            return _following(tokenizer, before, front, target)
        return list(tokenizer(target, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    def _check(self, model: Any, tokenizer: Any, length: int, target: list[int]) -> None:
        n_ctx = getattr(model, "n_ctx", None)
        if n_ctx is not None and length > n_ctx:
            what = "prompt and target" if target else "prompt"
            raise PromptTooLong(
                f"{what} {self.text[:40]!r}... take {length} tokens, but the context of "
                f"{model.name} is n_ctx = {n_ctx}; shorten the prompt"
            )
        unknown = tokenizer.unk_token_id
        if unknown is not None and unknown in target and tokenizer.unk_token not in (self.target or ""):
            raise TextWithoutTokens(
                f"the tokenizer has no tokens for target {self.target!r}; choose one in its vocabulary"
            )

    def inspect(self, model: Model | PreTrainedTokenizerBase) -> Inspection:
        """The alignment as an object that prints as a table."""
        alignment = self.align(model)
        tokenizer: Any = getattr(model, "tokenizer", model)
        return Inspection(self.text, alignment, tuple(token_text(tokenizer, i) for i in alignment.target_ids))


def _occurrences(text: str, part: str) -> list[int]:
    """Places of `part` in a text, overlapping or not; never where an accent would be parted from its letter."""
    starts, at = [], text.find(part)
    while at >= 0:
        if not unicodedata.combining(text[at + len(part) :][:1] or " "):
            starts.append(at)
        at = text.find(part, at + 1)
    return starts


def bare_note(model: Model | PreTrainedTokenizerBase, text: str) -> str:
    """A remark if `text` is put to a chat model without its chat template, else "".

    A text in the template is told by a special token written out in it, such as `<|im_start|>`.
    """
    tokenizer: Any = getattr(model, "tokenizer", model)
    marks = [token for token in tokenizer.all_special_tokens if token.strip()]
    if not tokenizer.chat_template or any(mark in text for mark in marks):
        return ""
    return "a chat model, asked without its chat template (Fact.chat puts a question into it)"


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Text of one token with its leading space; a piece of a split character is the replacement character."""
    text = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
    raw = tokenizer.convert_ids_to_tokens(token_id)
    spaces = len(raw) - len(raw.lstrip("▁")) if isinstance(raw, str) else 0
    if spaces and "▁" not in text:  # Metaspace decoders drop the space of whatever comes first
        text = " " * spaces + text.lstrip(" ")
    return text


def _token_range(
    tokenizer: Any, text: str, ids: list[int], offsets: list[tuple[int, int]], span: tuple[int, int]
) -> tuple[int, int] | None:
    """Tokens that cover any character of `text[span]`, half open; None without any."""
    start, end = span
    while start < end and text[start].isspace():  # a space at the subject's edge is not a token by itself
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    found = [i for i, (a, b) in enumerate(offsets) if max(a, start) < min(b, end)]
    # a space that the tokenizer put before the text claims the first character's place: it is not the subject
    while found and token_text(tokenizer, ids[found[0]]).isspace():
        found.pop(0)
    while found and token_text(tokenizer, ids[found[-1]]).isspace():
        found.pop()
    return (found[0], found[-1] + 1) if found else None


def _following(tokenizer: Any, text: str, ids: list[int], target: str) -> list[int]:
    """Ids of the target after the prompt; the prompt's own tokens stay as they are."""
    whole, _ = encode(tokenizer, text + target)
    if len(whole) > len(ids) and whole[: len(ids)] == ids:
        return whole[len(ids) :]
    return _apart(tokenizer, ids, target)


def _filling(tokenizer: Any, text: str, ids: list[int], position: int, target: str) -> list[int]:
    """Ids of the target in the mask's place."""
    before, _, after = text.partition(tokenizer.mask_token)
    target = target.strip() if not before or before[-1].isspace() else target
    whole, _ = encode(tokenizer, before + target + after, causal=False)
    head, tail = ids[:position], ids[position + 1 :]
    middle = whole[position : len(whole) - len(tail)]
    if middle and whole == head + middle + tail:
        return middle
    return _apart(tokenizer, head, target)


def _apart(tokenizer: Any, ids: list[int], target: str) -> list[int]:
    """Ids of a target that would merge with the prompt's last token: by itself, no character lost or added."""

    def alone(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    candidates = [alone(target)]
    for anchor in ("\n", ".", "=", "0"):  # behind an anchor no space is put before the target
        head, both = alone(anchor), alone(anchor + target)
        if both[: len(head)] == head:
            candidates.append(both[len(head) :])

    def text(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    for loose in (False, True):
        for candidate in candidates:
            want, got = text(ids) + target, text(ids + candidate)
            if candidate and (got == want or (loose and _letters(got) == _letters(want))):
                return candidate
    raise TextWithoutTokens(
        f"the tokenizer cannot write target {target!r} after the prompt; leave out a space at its end"
    )


def _letters(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _mask_position(tokenizer: Any, text: str, ids: list[int]) -> int:
    mask = tokenizer.mask_token
    if mask is None:
        raise MaskedModelError("a masked model needs a tokenizer with a mask token; this one has none")
    count = ids.count(tokenizer.mask_token_id)
    if count != 1 or text.count(mask) != 1:
        raise MaskedModelError(
            f"prompt {text!r} holds the mask token {count} times; write {mask} once, where the answer belongs"
        )
    return ids.index(tokenizer.mask_token_id)
