"""Text of any kind as windows of token ids, streamed through a temporary file, with a hash over the ids.

Every text is tokenised by itself and cut into windows that follow one another; the last one may be shorter, and no
window holds parts of two texts. A window begins (and in masked models and encoders ends) with the special tokens that
the tokenizer itself puts there, as prompts do: nothing for GPT-2, BOS for Llama, [CLS] and [SEP] for BERT. The
published code never adds any; with GPT-2's tokenizer both are the same.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from tracer.checks import installed
from tracer.errors import CovarianceTextError, TracerError, out_of_memory
from tracer.facts.encoding import added_ids, body_ids
from tracer.factworld import training_articles, training_text
from tracer.model import Model, check_ids

Text = str | Path | Iterable[str]

DEFAULT = "FactWorld training text"
ENGLISH = "Python's help texts and sentences of facts"
TURN = 2000  # characters
FEW_WORDS = 5000
"""A smaller vocabulary is too small for English: FactWorld's text is read with it."""
PIECE = 1 << 20
"""Characters that are tokenised at once; longer texts are cut at line ends."""
LONG = 8
"""Characters of which a token is expected at the least, where few tokens of a text are wanted."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of token ids on disk.

    Attributes:
        ids: all windows one after the other, [tokens].
        ends: end of each window, [windows].
        name: description of the text, for the reader.
        hash: BLAKE3 over ids and ends.
    """

    ids: np.ndarray
    ends: np.ndarray
    name: str
    hash: str

    @property
    def tokens(self) -> int:
        """Tokens in all windows."""
        return int(self.ends[-1])

    def groups(self, size: int, marks: Iterable[int] = ()) -> list[tuple[int, int]]:
        """First window and the one after the last, of groups of about `size` tokens.

        Groups end with the window that reaches a multiple of `size` tokens, or one of the `marks`.
        """
        goals = sorted({*range(size, self.tokens, size), *marks, self.tokens})
        stops = np.unique(np.searchsorted(self.ends, goals)) + 1
        return [(int(a), int(b)) for a, b in zip([0, *stops[:-1]], stops, strict=True)]

    def rows(self, first: int, stop: int) -> list[np.ndarray]:
        """The ids of windows `first` up to `stop`."""
        starts = np.concatenate([[0], self.ends])[first:stop]
        return [np.array(self.ids[a:b]) for a, b in zip(starts, self.ends[first:stop], strict=True)]


@contextmanager
def windows(model: Model, text: Text | None, window: int, max_tokens: int | None) -> Iterator[Windows]:
    """A text as windows of token ids.

    The ids lie in a temporary file, four bytes a token, that is removed afterwards.

    Args:
        model: whose tokenizer is used.
        text: as in [`editing.estimate_covariance`][].
        window: most tokens of a window.
        max_tokens: most tokens in all.

    Raises:
        TracerError: no such file or data set, not a text, or a text without a token.
    """
    before, behind = added_ids(model.tokenizer)
    after = [] if model.style == "causal" else behind  # only where the text is read both ways
    body = window - len(before) - len(after)
    if body < 1:
        least = window + 1 - body
        raise CovarianceTextError(
            f"a window of {window} tokens is full of special tokens; give one of at least {least}"
        )
    name, texts = _texts(model, text)
    digest, ends, total = blake3(), [], 0
    with tempfile.TemporaryFile(prefix="tracer-tokens-") as file:
        for ids in _bodies(model, texts, body, max_tokens):
            if max_tokens is not None:
                room = max_tokens - total - len(before) - len(after)
                if room < 1:
                    break
                ids = ids[:room]
            row = np.asarray([*before, *ids, *after], dtype=np.int32)
            total += len(row)
            ends.append(total)
            digest.update(row.tobytes())
            file.write(row.tobytes())
        if not total:
            raise CovarianceTextError(f"{name} holds no token to gather keys from; give a text, or a larger max_tokens")
        file.flush()
        places = np.asarray(ends)
        digest.update(places.tobytes())
        yield Windows(np.memmap(file, dtype=np.int32, mode="r"), places, name, digest.hexdigest())


def reads_english(model: Model) -> bool:
    """Whether a model's vocabulary is large enough for plain English."""
    return len(model.tokenizer) >= FEW_WORDS


def _bodies(model: Model, texts: Iterable[Iterable[str]], size: int, most: int | None) -> Iterator[list[int]]:
    """Token ids without special tokens, at most `size` at a time, never of two texts; at least `most` if there are."""
    for blocks in texts:
        rest: list[int] = []
        for found in _ids(model, blocks, None if most is None else most + size):
            check_ids(model, found)
            rest += found
            whole = len(rest) - len(rest) % size
            yield from (rest[start : start + size] for start in range(0, whole, size))
            rest = rest[whole:]
        if rest:
            yield rest


def _ids(model: Model, blocks: Iterable[str], enough: int | None) -> Iterator[list[int]]:
    """Token ids of a text, piece by piece; only of its beginning where that alone gives `enough` of them."""
    if enough is not None and enough * LONG < PIECE:
        size, held, blocks = enough * LONG, "", iter(blocks)
        while len(held) <= size and (block := next(blocks, None)) is not None:
            held += block
        cut = _cut(held, size) if len(held) > size else size
        if cut < size:  # between words, and so with the tokens that it has in the whole text
            found = body_ids(model.tokenizer, held[:cut])
            if len(found) >= enough:
                yield found
                return
        blocks = chain([held], blocks)
    yield from (body_ids(model.tokenizer, piece) for piece in pieces(blocks))


def pieces(blocks: Iterable[str], size: int = PIECE) -> Iterator[str]:
    """`blocks` joined and cut into pieces of at most `size` characters (a little more if need be).

    Cuts lie where tokenizers cut too: behind a single line end between words, else before a space.
    """
    held = ""
    for block in blocks:
        held += block
        while len(held) > size:
            cut = _cut(held, size)
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _cut(text: str, size: int) -> int:
    for pattern in (r"(?<=\S\n)(?=\S)", r"(?<=\S)(?= \S)"):
        *_, last = (None, *re.finditer(pattern, text[: size + 1]))
        if last is not None and last.start():
            return last.start()
    return size


def name_of(model: Model, text: Text | None) -> str:
    """A name for a text, for the reader.

    Args:
        model: to read it.
        text: as in [`editing.estimate_covariance`][].

    Raises:
        TracerError: no such file, or not a text.
    """
    return _texts(model, text)[0]


def _texts(model: Model, text: Text | None) -> tuple[str, Iterator[Iterable[str]]]:
    """A name for the text, and every text of it as blocks that follow one another."""
    if text is None and reads_english(model):
        return ENGLISH, iter([_english()])
    if text is None:
        return DEFAULT, (
            (" " * (i > 0) + each for i, each in enumerate(training_articles(2000, seed))) for seed in count()
        )
    if isinstance(text, Path) or (isinstance(text, str) and is_path(text)):
        path = Path(text)
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no file"
            raise CovarianceTextError(
                f"{str(path)!r} is {what}; give a text file, a data set's name, or a list of texts"
            )
        return path.name, iter([_read(path)])
    if isinstance(text, str):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[^\s:]+){0,2}", text):
            raise CovarianceTextError(
                f"{text[:40]!r} names no file and no data set; pass the text itself in a list: text=[text]"
            )
        return text, _data_set(text)
    if not isinstance(text, Iterable) or isinstance(text, bytes):
        raise CovarianceTextError(f"a file, a data set's name or texts were expected, got {type(text).__name__}")
    return "texts given", _given(text)


def _english() -> Iterator[str]:
    """English available on every machine: explanations and facts by turns, the latter without an end.

    Of either alone, keys are narrower, and edits of pretrained models spill over to more neighbours.
    """
    from pydoc_data.topics import topics

    help_texts = "\n\n".join(topics.values())
    for place, seed in enumerate(count()):
        facts = training_text(2000, seed)
        for start in range(0, len(facts), TURN):
            yield facts[start : start + TURN] + "\n\n"
            begin = place * len(facts) + start
            yield help_texts[begin : begin + TURN] + "\n\n" if begin < len(help_texts) else ""


def is_path(text: str) -> bool:
    """Whether a text names something on disk."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a text too long for a name, or with a zero in it
        return False


def _given(texts: Iterable[Any]) -> Iterator[Iterable[str]]:
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise CovarianceTextError(f"text {place} is {type(text).__name__}; expected a string")
        yield [text]


def _read(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            while block := file.read(PIECE):
                yield block
    except UnicodeDecodeError as error:
        raise CovarianceTextError(
            f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); convert it"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise CovarianceTextError(
            f"{path} cannot be read ({reason}); give a text file that can, or a list of texts"
        ) from error


def _data_set(name: str) -> Iterator[Iterable[str]]:
    """Every row of `name:configuration:split`, streamed."""
    what = f"{name!r}, read as the name of a data set (give a text file, or a list of texts, if it is none),"
    datasets = installed("datasets", "datasets", what, kind=CovarianceTextError)
    path, configuration, split = [*name.split(":"), "", ""][:3]
    try:
        rows: Any = datasets.load_dataset(path, configuration or None, split=split or "train", streaming=True)
        for row in rows:
            yield [_column(row, name)]
    except Exception as error:  # the library and the network have many
        if isinstance(error, TracerError) or out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise CovarianceTextError(
            f"{name!r} names no file here, and cannot be read as a data set ({type(error).__name__}: {reason}). Names "
            "read 'owner/name:configuration:split', as in 'Salesforce/wikitext:wikitext-103-raw-v1:train', and need "
            "the network; without it, give a text file or a list of texts"
        ) from error


def _column(row: Any, name: str) -> str:
    texts = {key: value for key, value in row.items() if isinstance(value, str)}
    if "text" in texts:
        return texts["text"]
    if len(texts) == 1:
        return next(iter(texts.values()))
    raise CovarianceTextError(
        f"data set {name!r} has no column 'text', but {', '.join(row)}; pass the texts of one of them"
    )
