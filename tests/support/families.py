"""The tokenizers of every family, made once, and texts of any kind."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import checkpoints
from hypothesis import strategies as st

from tracer.facts.fact import Alignment

FAMILIES = tuple(checkpoints.TOKENIZERS)
CAUSAL = tuple(family for family in FAMILIES if family != "wordpiece")


@lru_cache
def tokenizer(family: str) -> Any:
    return checkpoints.TOKENIZERS[family]()


# '▁' is how some vocabularies write a space, braces mark the slot, and a lone surrogate is no text
ANY = st.text(st.characters(codec="utf-8", exclude_characters="▁{}", exclude_categories=("Cs",)), max_size=12)
PICTURES = st.text(st.sampled_from("🗼👩‍👧🇫🇷é東京愛ÅŘ e\u0301\u0308абв한국 xy"), max_size=8)
WORDS = st.text(st.sampled_from("The Space Needle is in downtown Paris, trumpet."), max_size=16)
TEXT = st.one_of(ANY, PICTURES, WORDS)


def subject_tokens(found: Alignment) -> tuple[str, ...]:
    return found.tokens[slice(*found.subject_range)]
