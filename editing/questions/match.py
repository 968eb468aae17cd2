"""Match of generated text with an answer, and of two questions as wordings of one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from tracer.facts.sentences import goes_on
from tracer.facts.spacing import unspaced
from tracer.text import plain

ARTICLES = ("the", "a", "an")
OPENING = " \t\r\n\"'“”‘’«»„([*_:,-–—"  # what may stand before an answer
CAPITALS = 3  # wordings of at most so many letters keep their capitals
_ARTICLE = rf"(?:(?i:{'|'.join(ARTICLES)})\s+)?"


def says(text: str, answers: Sequence[Sequence[str]], *, anywhere: bool = False) -> bool:
    """Whether a text names every thing of the answers in one of its wordings.

    Meant for generation that ends where the model ends its sentence, or some tokens after the answer would: teacher
    forcing, and text cut to the answer's length, both hide the rest of what the model says (Yang et al., "The Mirage of
    Model Editing", 2025).

    A single thing has to come first: the text begins with it, after spaces, quotes and brackets at most. Where several
    have to be named, or with `anywhere`, each may stand anywhere; that a sentence denies what it names is not seen.

    A wording is there if its letters are, whatever their case and the spaces between them, with or without an article
    in front, and if the name ends with it: no letter, digit or hyphenated part follows at once, and no capitalised word
    or number behind a space alone or the mark of an abbreviation. "Paris, France", "Paris is" and "Paris's" say
    "Paris"; "Parisian", "Paris-Sorbonne" and "Paris Hilton" do not, nor "3.5" "3", "U.S. Army" "U.S.", "St. Louis"
    "St". Where a lower-case word makes it another thing ("basketball coach") this is not seen, and scripts written
    without spaces have no such end. Quotes, dashes and composed letters count as they look.

    A wording of at most three letters keeps its capitals: "IN", "US", "IT" and "NO" are not the words in, us, it, no.

    Args:
        text: a free continuation of a prompt.
        answers: wordings of each thing to be named.
        anywhere: the answer may stand anywhere (a question is answered in a sentence).
    """
    text = _shown(text)
    if anywhere or len(answers) > 1:
        return bool(answers) and all(any(_ends(text, wording, None) for wording in one) for one in answers)
    start = len(text) - len(text.lstrip(OPENING))
    return any(_ends(text, wording, start) for one in answers for wording in one)


def _ends(text: str, wording: str, start: int | None) -> bool:
    """Whether a wording stands at `start` (None: anywhere) and the name ends with it."""
    words = _shown(wording).split()
    if len(words) > 1 and words[0].casefold() in ARTICLES:
        words = words[1:]
    if not words:
        return False
    short = sum(map(str.isalpha, "".join(words))) <= CAPITALS
    letters = [_as_written(word) if short else f"(?i:{re.escape(word)})" for word in words]
    pattern = re.compile(_ARTICLE + r"\s+".join(letters))
    if start is not None:
        found = pattern.match(text, start)
        return found is not None and _over(text, found.end())
    return any(_begins(text, found.start()) and _over(text, found.end()) for found in pattern.finditer(text))


def _shown(text: str) -> str:
    """A text as it looks; line breaks are kept, which end a name."""
    return "\n".join(plain(line) for line in unicodedata.normalize("NFKC", text).split("\n"))


def _as_written(word: str) -> str:
    """A pattern in which capitals stand for themselves, and other letters for either."""
    return "".join(re.escape(char) if char.isupper() else f"(?i:{re.escape(char)})" for char in word)


def _begins(text: str, place: int) -> bool:
    """Whether a word begins here."""
    before = text[:place][-1:]
    return unspaced(text[place]) or not (before.isalnum() or before in ("-", "‐"))


def _over(text: str, place: int) -> bool:
    """Whether the name that ends here goes no further."""
    last, rest = text[place - 1], text[place:]
    if not rest or unspaced(last):
        return True
    if rest[0].isalnum() or re.match(r"-\w|'(?!s\b)\w", rest):
        return False
    if last.isdigit() and re.match(r"[.,:]\d", rest):
        return False
    if last.isalnum() and re.match(r"[&@_]\w|[+#]", rest):  # AT&T, C++
        return False
    if rest[0] == "." and (goes_on(text, place) or _inside(text, place)):
        return False
    behind = rest.lstrip(" ")
    if last == ".":  # of an abbreviation, if the sentence does not end there
        return not goes_on(text, place - 1)
    goes = len(behind) < len(rest) and last.isalnum() and (behind[:1].isupper() or behind[:1].isdigit())
    return not goes


def _inside(text: str, place: int) -> bool:
    """Whether a full stop is part of a word: of "U.S." or "Node.js", not of "Paris.It"."""
    following = text[place + 1 : place + 2]
    single = place < 2 or not text[place - 2].isalnum()
    return following.islower() or following.isdigit() or (following.isalpha() and single)
