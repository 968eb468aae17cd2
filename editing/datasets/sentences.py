"""RippleEdits' sentences, cut into prompt, subject and target: its files name the two by number only.

Three sources are used, the surest first: wordings of the relation in the file's questions about other subjects; words
that the record's questions about the same subject share with the sentence; and the grammar of the builder's sentences,
in which a run of small words ("The name of the author of") leads up to the subject.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher

Wording = tuple[str, str]
"""Beginning and end of a relation's prompts, around the subject."""
ENDS = ("is followed by", "follows", "are", "is")  # the last words of a prompt
LEADS = ("of", "in", "by", "which", "award", "children")  # before a subject
TAILS = ("is", "are", "won", "has", "plays", "follows")  # after it
VERB = re.compile(" (?:is|are|was|has|plays) ")  # behind the subject of "which"
# the subject's end is where a verb follows, its begin the first word that is not small
GRAMMAR = (
    re.compile(r"(?P<subject>.+) (?:follows|is followed by)"),
    re.compile(r".+? which (?P<subject>.+?) (?:is|are|was|has|plays) .+"),
    re.compile(r"The (?:[a-z]+ )+?(?P<subject>(?![a-z]+ )\S.*) (?:won|has) is"),
    re.compile(r"The (?:[a-z]+ )+(?:of|in|by) (?P<subject>(?![a-z]+ )\S.*) (?:is|are)"),
    re.compile(r"The .+ (?:of|in|by) (?P<subject>.+) (?:is|are)"),
)


def shared(texts: Sequence[str]) -> str:
    """Common beginning of texts."""
    first, last = min(texts), max(texts)  # all others lie between these two
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def around(prompts: Sequence[str]) -> Wording:
    """Common beginning and end of texts, in whole words."""
    begin = shared(prompts)
    end = shared([prompt[::-1] for prompt in prompts])[::-1]
    return begin[: begin.rfind(" ") + 1], end[end.find(" ") :] if " " in end else ""


def prompt_of(sentence: str, former: str | None, wording: Wording | None, targets: Iterable[str]) -> str | None:
    """The sentence without its target.

    Args:
        sentence: the sentence.
        former: the sentence that was true before; it has the same prompt.
        wording: of the relation, where the file tells.
        targets: names that the new target may have.
    """
    worded = wording is not None and bool(wording[1]) and sentence.startswith(wording[0])
    ends = [wording[1]] if wording is not None and worded else [f" {end}" for end in ENDS]
    if former is not None:
        both = shared([sentence, former])
        # the last place that both share
        stop = max((both.rfind(f"{end} ") + len(end) for end in ends if f"{end} " in both), default=0)
        if stop:
            return sentence[:stop]
    named = [name for name in targets if name and sentence.endswith(f" {name}")]
    if named:
        return sentence[: -len(max(named, key=len))].rstrip()
    for end in ends:
        stop = sentence.find(f"{end} ", len(wording[0]) + 1) if wording and worded else sentence.rfind(f"{end} ")
        if stop > 0:
            return sentence[: stop + len(end)]
    return None


def subject_of(prompt: str, wording: Wording | None, others: Iterable[str]) -> tuple[int, int] | None:
    """Place of the subject in a prompt.

    Args:
        prompt: the prompt.
        wording: of the relation, where the file tells.
        others: prompts of other relations about the same subject.
    """
    if wording is not None:
        begin, end = wording
        if prompt.startswith(begin) and prompt.endswith(end) and len(begin) + len(end) < len(prompt):
            return len(begin), len(prompt) - len(end)
    found = next((found.span("subject") for pattern in GRAMMAR if (found := pattern.fullmatch(prompt))), None)
    runs = Counter(run for other in others if (run := _common(prompt, other)))
    if runs:
        most = max(runs.values())
        subject = max((run for run, count in runs.items() if count == most), key=len)
        start = prompt.rfind(subject)
        # more than the grammar sees are small words that belong to the name; less is another spelling elsewhere
        if found is None or start <= found[0] < found[1] <= start + len(subject):
            return start, start + len(subject)
    return found


def _common(prompt: str, other: str) -> str:
    """The last run of words that two prompts share, without the words around a subject."""
    one, two = prompt.split(" "), other.split(" ")
    for block in reversed(SequenceMatcher(None, one, two, autojunk=False).get_matching_blocks()):
        words = one[block.a : block.a + block.size]
        while words and words[0] in LEADS:
            del words[0]
        while words and words[-1] in TAILS:
            del words[-1]
        if words:
            run = " ".join(words)
            return VERB.split(run)[0] if " which " in prompt else run
    return ""


def wordings(asked: Mapping[str, Iterable[str]], edited: Mapping[str, Iterable[str]]) -> dict[str, Wording]:
    """Wording of each relation that is asked about two names or more; else from the edits.

    Args:
        asked: relation -> prompts of questions.
        edited: relation -> prompts of edits.
    """
    found = {}
    for relation in {*asked, *edited}:
        prompts = [*dict.fromkeys(asked.get(relation, ()))]
        if len(prompts) < 2:
            prompts = [*dict.fromkeys([*edited.get(relation, ()), *prompts])]
        if len(prompts) > 1:
            found[relation] = around(prompts)
    return found
