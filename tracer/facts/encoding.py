"""Text to token ids, the one way it is done: with the tokenizer's own special tokens, each of them once."""

from __future__ import annotations

from typing import Any

from tracer.errors import EmptyText

Offsets = list[tuple[int, int]]


def encode(tokenizer: Any, text: str, causal: bool = True) -> tuple[list[int], Offsets]:
    """Ids of a text and the characters of each, with the tokenizer's own special tokens.

    A text that brings them itself (one in a chat template begins with BOS) does not get them a second time. For a
    causal model, special tokens that the tokenizer adds behind the text are left out: they would end what is to go on.

    Raises:
        TracerError: half a character in the text.
    """
    check_whole(text, "text")
    encoding = tokenizer(
        text,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        truncation=False,
        padding=False,
        verbose=False,
    )
    ids, offsets = list(encoding["input_ids"]), [(int(a), int(b)) for a, b in encoding["offset_mapping"]]
    added = [bool(special) and a == b for special, (a, b) in zip(encoding["special_tokens_mask"], offsets, strict=True)]
    front = added.index(False) if False in added else 0
    back = added[::-1].index(False) if False in added else 0
    stop = len(ids) - back
    doubled = ids[stop - back : stop] == ids[stop:] and stop - back >= front
    if back and (causal or doubled):
        del ids[stop:], offsets[stop:]
    if front and ids[front : 2 * front] == ids[:front]:
        del ids[:front], offsets[:front]
    return ids, offsets


def added_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Special tokens that the tokenizer puts before and behind every text."""
    encoding = tokenizer("a", return_special_tokens_mask=True)
    ids, special = list(encoding["input_ids"]), list(encoding["special_tokens_mask"])
    if 0 not in special:
        return [], []
    first, last = special.index(0), len(special) - special[::-1].index(0)
    return ids[:first], ids[last:]


def body_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text alone, without the special tokens before every text, be they its own."""
    check_whole(text, "text")
    ids = list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
    front, _ = added_ids(tokenizer)
    return ids[len(front) :] if front and ids[: len(front)] == front else ids


def check_whole(text: str, what: str) -> None:
    """Check that a text holds no half of a character: no tokenizer can read one, nor any file hold it.

    Raises:
        TracerError: it does; `what` names the text.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise EmptyText(
            f"the {what} {text[max(0, error.start - 20) : error.start + 20]!r} holds half a character, {half} at "
            f"{error.start}: it was cut or decoded wrongly; read it as UTF-8 again, or leave that out"
        ) from error
