"""What counts as saying an answer, and prompts denied: tables by hand."""

from __future__ import annotations

import pytest

from editing import EditRequest
from editing.questions.match import says
from editing.questions.negation import denied, is_question


@pytest.mark.parametrize(
    ("text", "answers", "anywhere", "expected"),
    [
        ("Paris", "Paris", False, True),
        (" Paris, France.", "Paris", False, True),
        ("Paris is old", "Paris", False, True),
        ("Paris's mayor", "Paris", False, True),
        ("“Paris”", "Paris", False, True),
        ("paris.", " Paris", False, True),
        ("Paris\nHilton", "Paris", False, True),
        ("Paris Hilton", "Paris", False, False),  # somebody else
        ("Parisian", "Paris", False, False),
        ("Paris-Sorbonne", "Paris", False, False),
        ("Boeing 747", "Boeing", False, False),
        ("1914.5", "1914", False, False),
        ("1914. In", "1914", False, True),
        ("O'Brien", "O", False, False),
        ("the United States", "United States", False, True),
        ("United States", "the United States", False, True),
        ("The  United\nStates of", "the United States", False, True),
        ("in Paris", "Paris", False, False),  # not first
        ("in Paris", "Paris", True, True),
        ("She lives in Paris Hilton's house", "Paris", True, False),
        ("comparis", "paris", True, False),
        ("", "Paris", False, False),
        ("Ångström", "Ångström", False, True),  # in other code points
        ("東京都", "東京", False, True),
        ("これは東京です", "東京", True, True),
        ("(c++", "c++", False, True),
        ("A", "a", False, True),
        ("an apple", "a", False, False),
        # marks inside a name
        ("U.S. Army", "U.S. Army", False, True),
        ("U.S. Army", "U.S.", False, False),
        ("U.S. Army", "U", False, False),
        ("U.S. is", "U.S.", False, True),
        ("U.S. The next", "U.S.", False, True),
        ("U.S., which", "U.S.", False, True),
        ("J. K. Rowling", "J", False, False),
        ("J. K. Rowling. She", "J. K. Rowling", False, True),
        ("St. Louis, Missouri", "St. Louis", False, True),
        ("St. Louis", "St", False, False),
        ("Amazon.com", "Amazon", False, False),
        ("Paris.It is", "Paris", False, True),
        ("Paris. it is", "Paris", False, True),
        ("10:30 a.m.", "10", False, False),
        ("3.5 million", "3", False, False),
        ("1,000", "1", False, False),
        ("AT&T", "AT", True, False),
        ("C++ and", "C", False, False),
        ("**Paris**", "Paris", True, True),
        # look-alikes
        ("O’Brien", "O'Brien", False, True),
        ("O'Brien", "O’Brien", False, True),
        ("Jean‑Paul", "Jean-Paul", False, True),
        ("New\u00a0York", "New York", False, True),
        ("Paris’s mayor", "Paris", False, True),
        # short wordings in capitals are not the words
        ("It is in Paris", "IN", True, False),
        ("In Paris", "IN", False, False),
        ("He lives in IN", "IN", True, True),
        ("tell us", "US", True, False),
        ("the US", "US", False, True),
        ("the US", "the US", False, True),
        ("It is", "IT", False, False),
        ("No, it is", "NO", False, False),
        ("she is up", "Up", True, False),
        ("UP", "Up", True, True),
        ("USA", "usa", False, True),
        ("usa", "USA", False, False),
        ("rome", "ROME", False, True),
        ("ROME", "Rome", False, True),
    ],
)
def test_what_counts_as_said(text: str, answers: str, anywhere: bool, expected: bool) -> None:
    assert says(text, ((answers,),), anywhere=anywhere) is expected


def test_every_thing_has_to_be_named_in_one_of_its_wordings() -> None:
    both = (("Paris", "the French capital"), ("Rome",))
    assert says("Rome and the French capital", both)
    assert says("the cities of Paris and Rome", both)
    assert not says("Paris", both)
    assert says("French capital", both[:1])
    assert not says("Paris", ())


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("{} is in", "The Space Needle", "It is not true that The Space Needle is in"),
        ("The mother tongue of {} is", "Yo-Yo Ma", "It is not true that the mother tongue of Yo-Yo Ma is"),
        ("BBC's {} airs on", "Sherlock", "It is not true that BBC's Sherlock airs on"),
        ("Where is {}?", "Paris", None),
        ("“Where is {}?” ", "Paris", None),
    ],
)
def test_prompts_denied(prompt: str, subject: str, expected: str | None) -> None:
    assert denied(EditRequest(prompt, subject, "x")) == expected
    assert is_question(prompt) is (expected is None)
