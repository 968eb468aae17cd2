"""Text from elsewhere: made safe to show, and compared as a reader sees it."""

from __future__ import annotations

import unicodedata

import regex

VISIBLE = {"\n": "⏎", "\r": "⏎", "\u2028": "⏎", "\u2029": "⏎", "\t": "⇥"}
# control characters, halves of surrogate pairs and non-characters: not allowed in SVG or not in UTF-8
FORBIDDEN = {"Cc", "Cs", "Cn"}
TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # would reorder the text around them


def printable(text: str) -> str:
    """`text` in one line, with characters replaced that cannot be seen, shown, or trusted in a terminal."""
    return "".join(VISIBLE.get(c) or ("�" if c in TURNING or unicodedata.category(c) in FORBIDDEN else c) for c in text)


_LIKE = str.maketrans("‘’‚‛′ʼ“”„‟″‐‑‒–−", "''''''\"\"\"\"\"-----", "\u00ad\u200b\u2060\ufeff\ufe0f")


def plain(text: str) -> str:
    """The common form of texts that look alike.

    One for composed and combining letters, curly and straight quotes, dashes, kinds of spaces, and characters that are
    not seen; without spaces around it.
    """
    return " ".join(unicodedata.normalize("NFC", text).translate(_LIKE).split())


def look_alike(text: str, part: str) -> str | None:
    """The place in `text` that looks like `part`, whatever its capitals; None without one."""
    characters = regex.findall(r"\X", text)
    wanted = _folded(part)
    folded = [_folded(character) if character.strip() else " " for character in characters]
    at = "".join(folded).find(wanted) if wanted else -1
    ends = [0]
    for each in folded:
        ends.append(ends[-1] + len(each))
    if at not in ends or at + len(wanted) not in ends:
        return None
    return "".join(characters[ends.index(at) : ends.index(at + len(wanted))])


def _folded(text: str) -> str:
    return plain(unicodedata.normalize("NFKC", text)).casefold()
