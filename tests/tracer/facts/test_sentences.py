"""Where sentences and answers end: by hand over abbreviations, numbers and scripts, and what holds for any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.facts.sentences import answer_of, first_sentences, goes_on, sentence_end, sentence_ends, sentences_in

FIRST = [  # a text, and its first sentence
    ("Paris. It is", "Paris."),
    ("Paris! It is", "Paris!"),
    ("Paris? It is", "Paris?"),
    ("Paris... It is", "Paris..."),
    ("Paris?! It is", "Paris?!"),
    ('he said "no." Then', 'he said "no."'),
    ("(in Paris.) Then", "(in Paris.)"),
    ("**Paris.** It is", "**Paris.**"),
    ("Paris.[1] It is", "Paris.[1]"),
    ("\n\nParis\nRome", "\n\nParis"),
    ("Paris.\nRome. It", "Paris."),
    # initials and abbreviations
    ("the U.S. Army. And so", "the U.S. Army."),
    ("in the U.S. The next", "in the U.S."),
    ("the U.S. A", "the U.S. A"),  # the word is not over: it may be "Army"
    ("J. K. Rowling. She wrote", "J. K. Rowling."),
    ("J.R.R. Tolkien, who wrote it. He", "J.R.R. Tolkien, who wrote it."),
    ("J. A. Smith. He", "J. A. Smith."),
    ("J.-P. Sartre. He", "J.-P. Sartre."),
    ("George W. Bush. He", "George W. Bush."),
    ("А. С. Пушкин. Он", "А. С. Пушкин."),
    ("Dr. No. It is", "Dr. No."),
    ("Mr. Smith. He", "Mr. Smith."),
    ("St. Louis. It", "St. Louis."),
    ("Mt. Everest. It", "Mt. Everest."),
    ("Martin Luther King Jr. Day. It", "Martin Luther King Jr. Day."),
    ("Martin Luther King Jr. He was", "Martin Luther King Jr."),
    ("Apple Inc. was founded. It", "Apple Inc. was founded."),
    ("Warner Bros. Pictures. It", "Warner Bros. Pictures."),
    ("Washington, D.C. It is", "Washington, D.C."),
    ("a Ph.D. student. He", "a Ph.D. student."),
    ("at 5 p.m. on Monday. Then", "at 5 p.m. on Monday."),
    ("at 5 p.m. Then he", "at 5 p.m."),
    ("fruit, e.g. Apples. Then", "fruit, e.g. Apples."),
    ("approx. five. Then", "approx. five."),
    ("St. Petersburg, Fla. Governor. It", "St. Petersburg, Fla. Governor."),
    ("Rs. 500. It", "Rs. 500."),
    ("Who is it? Mr. and Mrs. Smith. They", "Who is it?"),
    ("vitamin C. It is", "vitamin C."),
    ("No. 5. It", "No. 5."),
    ("No. It is", "No."),
    ("the Sun. It", "the Sun."),
    ("Op. 27 No. 2. It", "Op. 27 No. 2."),
    ("on Jan. 5. It", "on Jan. 5."),
    ("z.B. Berlin. Es", "z.B. Berlin."),
    ("am 5. Oktober 1990. Es", "am 5. Oktober 1990."),
    ("im 19. Jahrhundert. Es", "im 19. Jahrhundert."),
    ("г. Москва. Он", "г. Москва."),
    ("Yahoo! is old. It", "Yahoo! is old."),
    ("Well... it is. It", "Well... it is."),
    # numbers and times
    ("3.5 million. It", "3.5 million."),
    ("in 1945. The war", "in 1945."),
    ("at 10.30 or 10:30. Then", "at 10.30 or 10:30."),
    ("1. Paris. It", "1. Paris."),
    ("Python 3.11.2 is. It", "Python 3.11.2 is."),
    ("www.example.com. It", "www.example.com."),
    # other scripts
    ("東京。そして", "東京。"),
    ("東京！そして", "東京！"),
    ("東京？そして", "東京？"),
    ("「東京。」そして", "「東京。」"),
    ("東京です．次", "東京です．"),
    ("約３．５万。次", "約３．５万。"),
    ("是巴黎!它是", "是巴黎!"),
    ("是巴黎.它是", "是巴黎."),
    ("यह दिल्ली है। और", "यह दिल्ली है।"),
    ("کیا یہ؟ ہاں", "کیا یہ؟"),
    ("یہ ہے۔ اور", "یہ ہے۔"),
    ("هي باريس. وهي", "هي باريس."),
    ("ሰላም ነው። እና", "ሰላም ነው።"),
    ("Երևան է։ Իսկ", "Երևան է։"),
    ("နေပြည်တော်။ ပြီး", "နေပြည်တော်။"),
    ("ភ្នំពេញ។ ហើយ", "ភ្នំពេញ។"),
    ("ལྷ་ས། དེ", "ལྷ་ས།"),
]


@pytest.mark.parametrize(("text", "first"), FIRST)
def test_the_first_sentence(text: str, first: str) -> None:
    assert first_sentences(text) == first
    assert first_sentences(f"\n {text}") == f"\n {first.lstrip()}" if text[0] != "\n" else True
    assert sentences_in(first) == 1


def test_several_sentences() -> None:
    text = " Paris. J. K. Rowling lives there!\nIt is 3.5 km. And"
    assert [text[:place] for place in sentence_ends(text)][1] == " Paris. J. K. Rowling lives there!"
    assert first_sentences(text, 3) == " Paris. J. K. Rowling lives there!\nIt is 3.5 km."
    assert first_sentences(text, 4) == text
    assert sentence_end(text, 4) is None
    assert sentences_in(text) == 4
    assert [sentences_in(one) for one in ("", "Paris", "Paris.", "Yahoo! Inc.", "a\nb", "Ciudad Cdad. Real")] == [
        1, 1, 1, 2, 2, 2
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Seattle.", " Seattle"),
        (" Seattle. It", " Seattle"),
        (" Seattle, which is", " Seattle"),
        (" Seattle, Washington, and", " Seattle, Washington"),
        (" Washington, D.C.", " Washington, D.C."),
        (" Washington, D.C. The city", " Washington, D.C."),
        (" U.S. Army", " U.S. Army"),
        (" U.S. Army. It", " U.S. Army"),
        (" 3.5 million", " 3.5 million"),
        (" 3.5", " 3.5"),
        (" 1,000 people", " 1,000 people"),
        (" 1,000,000.", " 1,000,000"),
        (" 10:30 a.m.", " 10:30 a.m."),
        (" J. K. Rowling, the author", " J. K. Rowling"),
        (" July 4, 1776.", " July 4, 1776"),
        (" Dr. Seuss; he", " Dr. Seuss"),
        (" Paris: the city", " Paris"),
        (" Apple Inc.", " Apple Inc."),
        (" vitamin C.", " vitamin C"),
        (' "Paris."', ' "Paris"'),
        (" Yahoo! is", " Yahoo! is"),
        (" Paris!", " Paris"),
        (" Paris...", " Paris"),
        (" Paris\nRome", " Paris"),
        ("東京。そ", "東京"),
        ("東京、大阪。", "東京、大阪"),
        ("东京，是", "东京"),
        ("दिल्ली।", "दिल्ली"),
        (" باريس، وهي", " باريس"),
        (".", "."),
        (", and", ", and"),
        ("", ""),
    ],
)
def test_an_answer_goes_as_far_as_its_clause(text: str, answer: str) -> None:
    assert answer_of(text) == answer


@pytest.mark.parametrize(
    ("text", "place", "on"),
    [
        ("St. Louis is", 2, True),
        ("J. K. Rowling", 1, True),
        ("U.S. Army", 3, True),
        ("Paris. It", 5, False),
        ("Paris. it", 5, False),
        ("Paris", 5, False),
        ("Paris! It", 5, False),
        ("St.", 2, False),
    ],
)
def test_names_go_on_behind_their_marks(text: str, place: int, on: bool) -> None:
    assert goes_on(text, place) is on


WORDS = ("Paris", "the", "U", "S", "J", "Mr", "St", "Inc", "No", "The", "A", "It", "5", "19", "Mai", "東")
PARTS = (*WORDS, *'...!?…,:   \n"”)(*。」।．', "[1]", "\ufffd")


@given(st.lists(st.sampled_from(PARTS), max_size=14).map("".join), st.integers(0, 40))
def test_an_end_stays_however_the_text_goes_on(text: str, cut: int) -> None:
    ends, before = list(sentence_ends(text)), list(sentence_ends(text[:cut]))
    assert ends[: len(before)] == before
    assert ends == sorted({*ends})
    assert all(0 < place <= len(text) for place in ends)
    assert all(text[a:b].strip() for a, b in zip([0, *ends], ends, strict=False))


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_text(text: str) -> None:
    assert text.startswith(first_sentences(text))
    assert text.startswith(answer_of(text)[:1])
    assert len(answer_of(text)) <= len(text)
    assert sentences_in(text) >= 1
    assert bool(answer_of(text).strip()) or not text.strip()
