"""What a text's token windows depend on, told without tokenising it: the text, the tokenizer and the cuts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from tracer.facts.encoding import added_ids

from .text import Text, is_path, reads_english

if TYPE_CHECKING:
    from tracer.model import Model

MAKERS = ("facts.py", "corpus.py", "grammar.py", "plain.py", "world.py", "data/facts.tsv", "data/aliases.tsv")
"""Files of FactWorld that its training text is made from."""


def identity(model: Model, text: Text | None, window: int, max_tokens: int | None) -> str | None:
    """Hash of all that determines the token windows of a text; None where that cannot be told without reading it.

    A file is known by its content, the default text by the files that make it, and a tokenizer by everything it is made
    of. Data sets, and texts that can be read but once, are not known.

    Args:
        model: whose tokenizer is used.
        text: as in [`editing.estimate_covariance`][].
        window: most tokens of a window.
        max_tokens: most tokens in all.
    """
    inner: Any = getattr(model.tokenizer, "backend_tokenizer", None)
    source = _source(model, text)
    if inner is None or source is None:
        return None
    digest = blake3(inner.to_str().encode())
    kind = type(model.tokenizer).__name__
    own = [
        kind,
        len(model.tokenizer),
        model.n_tokens,
        model.style == "causal",
        added_ids(model.tokenizer),
        window,
        max_tokens,
    ]
    digest.update(json.dumps([*own, source]).encode())
    return digest.hexdigest()[:32]


def _source(model: Model, text: Text | None) -> list[str] | None:
    if text is None:
        english = reads_english(model)
        folder = files("tracer.factworld")
        made = [folder.joinpath(name).read_bytes() for name in MAKERS]
        if english:
            from pydoc_data.topics import topics

            made += [value.encode() for value in topics.values()]
        made.append((Path(__file__).parent / "text.py").read_bytes())
        return ["english" if english else "factworld", *(blake3(each).hexdigest() for each in made)]
    if isinstance(text, Path) or (isinstance(text, str) and is_path(text)):
        path = Path(text)
        if not path.is_file():
            return None
        digest = blake3()
        try:
            digest.update_mmap(path)
        except OSError:  # an error for whoever reads it
            return None
        return ["file", digest.hexdigest()]
    if isinstance(text, Sequence) and not isinstance(text, str | bytes) and all(isinstance(each, str) for each in text):
        digest = blake3()
        for each in text:
            own = each.encode("utf-8", "surrogatepass")
            digest.update(f"{len(own)}|".encode())
            digest.update(own)
        return ["texts", digest.hexdigest()]
    return None
