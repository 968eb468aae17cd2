"""Text from elsewhere, made safe to show."""

from __future__ import annotations

import unicodedata

VISIBLE = {"\n": "⏎", "\r": "⏎", "\u2028": "⏎", "\u2029": "⏎", "\t": "⇥"}
# control characters, halves of surrogate pairs and non-characters: not allowed in SVG or not in UTF-8
FORBIDDEN = {"Cc", "Cs", "Cn"}
TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # would reorder the text around them


def printable(text: str) -> str:
    """``text`` in one line, with characters replaced that cannot be seen, shown, or trusted in a terminal."""
    return "".join(VISIBLE.get(c) or ("�" if c in TURNING or unicodedata.category(c) in FORBIDDEN else c) for c in text)
