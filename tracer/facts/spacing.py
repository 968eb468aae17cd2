"""Spaces between a prompt and what follows it: one rule, from the two texts alone.

There is one between words, and none between the parts of a word, a number or a formula, nor in scripts that are written
without spaces. Where the texts do not tell ("in down" + "town") a space is taken; `Fact(..., space=False)` overrides
it.
"""

from __future__ import annotations

import regex

_SCRIPTS = "".join(rf"\p{{scx={name}}}" for name in ("Han", "Hiragana", "Katakana", "Bopomofo", "Yi"))
_SOUTHERN = "".join(rf"\p{{scx={name}}}" for name in ("Tibetan", "Javanese", "Balinese", "Tai_Le"))
_EAST = rf"[[{_SCRIPTS}\p{{ea=F}}]&&[\p{{L}}\p{{M}}\p{{N}}]]"  # also full-width letters and digits
_SOUTH = rf"[[\p{{lb=SA}}{_SOUTHERN}]&&[\p{{L}}\p{{M}}]]"  # Thai, Lao, Khmer, Burmese, ...
_WIDE = r"[[\p{ea=W}\p{ea=F}\p{ea=H}]&&\p{P}]"
_SIGNS = r"=<>^|&/×÷·≤≥≈→−–—_@\\\-"  # also in a row: "->", "=="
_ODD = r'\A[^"]*(?:"[^"]*"[^"]*)*'  # before a straight quote that opens, behind which the next closes

# Pairs without a space between them: the prompt's end, and the target's beginning.
_SEAMS = (
    # parts of a character, and joins that cannot be seen
    (r"", r"[\p{M}\u200b-\u200d\u2060]"),
    (r"[\u200b-\u200d\u2060]", r""),
    # scripts without spaces, and their punctuation
    (_EAST, _EAST),
    (rf"{_SOUTH}|་", _SOUTH),
    (_WIDE, r""),
    (r"", rf"[{_WIDE}--[\p{{Ps}}\p{{Pi}}]]"),
    # brackets and quotes that have just opened, or that close now
    (r"[\p{Ps}¿¡]", r""),
    (rf'{_ODD}(?<!\d)"', r""),
    (r"(?:\A|[\s\p{Ps}\p{Pd}=])(?<!«[^»]*)[\p{Pi}\p{Pf}'`]", r""),
    (r"", r"\p{Pe}"),
    (rf'{_ODD}"[^"]*', r'"'),
    (r"", r"[[\p{Pi}\p{Pf}'`]--«](?=\Z|[\s.,;:!?)\]])"),
    # marks that end a word or a sentence; those of ".NET", ".5" and ":)" do not
    (r"", r"[[\p{lb=EX}\p{lb=IS}\p{STerm}…]--[.:;]]|[:;](?!-?[()DP])|\.(?![\p{Lu}\d])"),
    # short forms: 's, n't, d'Artagnan, O'Brien; a plural or a closed quote (dogs', 'water') is not one
    (r"[\p{L}\d]", r"['’](?:s(?!-)|t(?!\s\p{Lu})|re|ve|ll|d|m)\b|n['’]t\b"),
    (r"(?:(?<!\p{L})\p{L}|[\p{L}--s])['’](?<!(?:\A|[\s\p{Ps}])['‘][^'‘’]*['’])", r"\p{L}"),
    # numbers; "1." at the beginning of a line and "1, 2," count things, and a year is a number of its own
    (r"[\d.,]\d{2}|[.,]\d", r"\d"),
    (r"\d", r"(?![12]\d{3}\b)\d|[.,:/–-]\d|(?:st|nd|rd|th|s)\b|\p{Sc}(?!\s*\d)|\p{lb=PO}"),
    (r"(?<!\d|^\s*)\d{1,3}\.", r"\d"),
    (r"(?<![\d,]|,\s*)\d{1,3},", r"\d{3}(?!\d)"),
    (r"\d,\d{1,2},", r"\d"),
    (r"\d:", r"\d\d(?!\d)"),
    (r"(?<!\d\s?)\p{Sc}", r""),
    (r"(?:\p{L}{2}|[=<>:,(])\s*[-−+±]", r"\d"),
    # formulae, compounds and markup: behind a sign as before it
    (rf"[^\s!:~{_SIGNS}][!:~{_SIGNS}]*[{_SIGNS}](?<!</[^<>]*>)", r""),
    (r"[^\s+]\+", r"[\d(\[√π]|\p{L}(?!\p{L})"),
    (r"[^\s*]\*", r"[\d(\[√π]|\p{L}(?!\p{L})"),
    (r"[\d)\]]|(?<!\p{L})\p{L}", r"[=^×÷*/+<>](?=\S)"),
    (r"(?:\A|[\s\p{Ps}])[#@~\\]", r""),
    (r"(?:\A|(?<![\d)\]])\s)[*_]+", r""),
    (r"\bwww\.", r"\w"),
    (r"[\p{L}\d]", r"[-‐‑](?=\p{L})|_(?=\w)|\.(?=\p{Ll})"),
    (r"\p{Lu}", r"&(?=\p{L})"),
)
_FLAGS = regex.V1 | regex.MULTILINE  # sets of characters can be intersected and subtracted
_ENDS = tuple(regex.compile(rf"(?:{left})\Z", _FLAGS) for left, _ in _SEAMS)
_STARTS = tuple(regex.compile(right, _FLAGS) for _, right in _SEAMS)
_plain_words = regex.compile(r"[A-Za-z] [A-Za-z][^'’]?")
_east = regex.compile(_EAST, _FLAGS)
_unspaced = regex.compile(rf"{_EAST}|{_SOUTH}", _FLAGS)
_words = regex.compile(rf"[\p{{L}}--{_EAST}]+", _FLAGS)


def space_between(prompt: str, target: str) -> bool:
    """Whether a space is missing between them; it is not where either brings its own.

    What follows a prompt in Chinese or Japanese follows at once, in any script. Thai, Lao, Khmer, Burmese and their
    like have no space between words of their own, but one before letters and digits of others. In all other scripts
    what follows is set apart, in any script: "is 東京", "is 🍎".
    """
    if not prompt or not target or prompt[-1].isspace() or target[0].isspace():
        return False
    if _plain_words.fullmatch(f"{prompt[-1]} {target[:2]}"):  # nearly always, and quickly told
        return True
    if any(start.match(target) and end.search(prompt) for end, start in zip(_ENDS, _STARTS, strict=True)):
        return False
    word = prompt.split()[-1]
    if _east.match(prompt[-1]):
        return not (_words.search(word) or _mostly_eastern(prompt))
    if prompt[-1].isalnum():
        return not (_east.match(target) and (_east.search(word) or _mostly_eastern(prompt)))
    return not _mostly_eastern(prompt)


def spaced(prompt: str, target: str, space: bool | None = None) -> str:
    """The target as it follows the prompt.

    Args:
        prompt: the prompt.
        target: the target.
        space: whether there is one between them; None: by `space_between`.
    """
    if space is None:
        space = space_between(prompt, target)
    return f" {target}" if space and not (prompt[-1:].isspace() or target[0].isspace()) else target


def unspaced(text: str) -> bool:
    """Whether a text begins with a letter of a script that is written without spaces."""
    return _unspaced.match(text) is not None


def _mostly_eastern(text: str) -> bool:
    """Whether it has at least as many Chinese or Japanese letters as words in other scripts."""
    letters = len(_east.findall(text))
    return letters > 0 and letters >= len(_words.findall(text))
