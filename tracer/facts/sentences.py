"""Ends of sentences, and of answers, in a text that may still be being written.

A mark ends a sentence unless it belongs to a word: to an initial ("J. K. Rowling"), an abbreviation ("U.S. Army", "St.
Louis", "No. 5"), a number ("3.5", "10.30", "1. Paris"), or a name that goes on in small letters ("Yahoo! is"). Where an
abbreviation ends the sentence as well, the next word tells ("the U.S. The ..."). Unknown words are taken to go on: a
text that is too long holds its answer, one that is too short does not. An end that was found stays where it is however
the text goes on.
"""

from __future__ import annotations

from collections.abc import Iterator

import regex

from .spacing import unspaced

_FLAGS = regex.V1
_CLOSING = r"[\p{Pe}\p{Pf}\p{Pi}\"'*_]*+(?:\[\d+\])*+"
# marks that end whatever they stand behind (。！？। ؟ ...), those that may be part of a word, and ends of lines
_MARK = regex.compile(
    rf"(?P<sure>(?:[[\p{{STerm}}།༎]--[.!?․‼⁇⁈⁉‽．]]|．(?!\p{{N}}))++{_CLOSING})(?=.)"
    rf"|(?P<mark>[.!?․‼⁇⁈⁉‽…]++){_CLOSING}(?=(?P<next>.))|\n",
    _FLAGS | regex.DOTALL,
)
_NEXT = regex.compile(
    r"\s++[\p{Ps}\p{Pi}\"'*_¿¡]*+(?P<word>\p{L}[\p{L}\p{M}'’-]*+|[^\s\ufffd])(?P<behind>.?)", _FLAGS | regex.DOTALL
)
_WORD = regex.compile(r"[^\s\p{Ps}\p{Pi}\"'/]*+\Z", _FLAGS)
_LETTERS = regex.compile(r"(?:\p{L}\p{M}*\.-?)*\p{L}\p{M}*", _FLAGS)  # J, J.-P, U.S, e.g
_DOTTED = regex.compile(r"(?:\p{L}{1,3}\.)+\p{L}{1,3}", _FLAGS)  # also Ph.D, B.Sc
_CLAUSE = regex.compile(r"[,;:](?=\s++(?:\p{Ll}|[\"'\p{P}]))|[;:](?=\s)|[，；：،؛]|,(?=\s++\p{Lo})", _FLAGS)
_LINE = regex.compile(r"(?:\A|\n)[^\S\n]*\d{1,3}\Z", _FLAGS)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# before a name: a sentence does not end here
_TITLES = _set(
    "mr mrs ms mx dr prof rev hon mt gen col lt capt cmdr cdr sgt cpl maj adm gov sen rep pres msgr supt messrs fr hr "
    "frl sig dott mlle mme sra dra srta dña chr wm geo chas thos jos ch th yu vs cf viz approx ca г ул им гр тов"
)
# behind a name or a list: a sentence may end here
_ENDINGS = _set(
    "sr jr esq inc corp co ltd llc plc bros cie gmbh etc al dept univ assn est ave blvd rd st ft hwy pl sq bldg apt ed "
    "eds trans ext tel bzw usw др пр fed ala ariz ark calif colo conn fla ill ind kan ky mass mich minn miss mont neb "
    "nev okla ore pa penn tenn tex va vt wash wis wyo"
)
# before a number
_COUNTED = _set(
    "no nos nr nº rs fig figs art arts vol vols sec chap p pp op c bk pt ver v § jan feb mar apr jun jul aug sep sept "
    "oct nov dec табл рис стр"
)
# words that begin a sentence far more often than they follow an abbreviation
_STARTS = _set(
    "The A An It He She They We You I This That These Those There Here In On At By For From With As When While After "
    "Before But And Or If So Then His Her Its Their Our My Your What Who Where Why How Is Was Are However Although "
    "Since During Not No Yes All Some Many Most One Another Both Each Он Она Они Оно Это В На Но И А"
)
_MONTHS = _set("januar jänner februar märz april mai juni juli august september oktober november dezember jahrhundert")


def sentence_ends(text: str) -> Iterator[int]:
    """Places behind the marks that end a sentence; line breaks in front of one are not counted."""
    begun = len(text) - len(text.lstrip())
    for found in _MARK.finditer(text, begun):
        if not text[begun : found.start()].strip():
            continue  # nothing since the last end
        if found["sure"] is None and found["mark"] is None:
            begun = found.start()  # a line's end
        elif _ends(text, found):
            begun = found.end()
        else:
            continue
        yield begun


def sentence_end(text: str, count: int = 1) -> int | None:
    """The end of sentence `count`; None where it does not end."""
    for number, place in enumerate(sentence_ends(text), 1):
        if number == count:
            return place
    return None


def first_sentences(text: str, count: int = 1) -> str:
    """`text` up to the end of so many sentences; all of it where fewer end."""
    return text[: sentence_end(text, count)]


def sentences_in(text: str) -> int:
    """Number of sentences of a whole text, a started one included."""
    text = text.strip()
    return 1 + sum(place < len(text) for place in sentence_ends(text))


def answer_of(text: str) -> str:
    """A text as far as its answer goes: to the end of its sentence or clause, without the mark.

    A comma ends an answer before a small letter ("Paris, which ..."), not inside a name or a date ("Washington, D.C.",
    "July 4, 1776"); of a list in small letters that leaves the first.
    """
    start = len(text) - len(text.lstrip())
    text = text[: sentence_end(text)]
    clause = _CLAUSE.search(text, start + 1)
    text = text[: clause.start() if clause else None].rstrip()
    bare = regex.sub(r"(?<=.)[\p{STerm}․…།༎]+(?P<closing>[\p{Pe}\p{Pf}\"']*)\Z", r"\g<closing>", text, flags=_FLAGS)
    if len(bare) == len(text) - 1 and text[len(bare)] == "." and _belongs(text, len(bare)):
        return text
    return bare


def goes_on(text: str, place: int) -> bool:
    """Whether the name that ends at `place` goes on behind a mark there: "St" in "St. Louis"."""
    found = _MARK.match(text, place)
    if found is None or found["mark"] != ".":
        return False
    following = _NEXT.match(text, found.end())
    return following is not None and not following["word"][0].islower() and not _ends(text, found)


def _ends(text: str, found: regex.Match) -> bool:
    """Whether a mark ends a sentence; False also while that is open."""
    if found["sure"] is not None:
        return text[found.end()] != "\ufffd"  # which may become what closes behind the mark
    if not found["next"].isspace():  # as in "3.5"; scripts without spaces need no space
        return unspaced(found["next"]) and unspaced(text[found.start() - 1])
    space = text[found.end() :]
    if "\n" in space[: len(space) - len(space.lstrip())]:
        return True
    following = _NEXT.match(text, found.end())
    if following is None or following["word"][0].islower():
        return False
    word, behind = following["word"], following["behind"]
    if found["mark"] != ".":
        return True
    before = _word(text, found.start())
    if before.isdecimal() and _LINE.search(text[: found.start()]):
        return False
    if before.isdecimal() and len(before) <= 2 and word[0].isalpha():  # German dates: 5. Oktober
        return not any(month.startswith(word.casefold()) for month in _MONTHS)
    name = before.casefold()
    if name in _TITLES or (name in _COUNTED and word[0].isnumeric()):
        return False
    if name in _ENDINGS or _LETTERS.fullmatch(before) or _DOTTED.fullmatch(before):
        return word in _STARTS and behind != "" and (behind.isspace() or behind in ",'’")
    return True


def _belongs(text: str, place: int) -> bool:
    """Whether the full stop that ends a text is part of its last word."""
    word = _word(text, place)
    return word.casefold() in _TITLES | _ENDINGS or _DOTTED.fullmatch(word) is not None


def _word(text: str, place: int) -> str:
    found = _WORD.search(text, 0, place)
    return found[0] if found else ""
