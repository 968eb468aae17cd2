"""Between prompt and target: a table over scripts, signs and numbers, and what holds for any two texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.facts.spacing import space_between, spaced, unspaced

JOINED = [  # nothing between them
    # numbers and formulae
    ("1+1=", "2"),
    ("x=", "y"),
    ("World War II ended in 19", "45"),
    ("Pi is 3.", "14"),
    ("Pi is 3", ".14"),
    ("It has 1,", "000 rooms"),
    ("The train leaves at 12:", "30"),
    ("The train leaves at 12", ":30"),
    ("The war of 1914-", "1918"),
    ("The war of 1914–", "18"),
    ("The war of 1914", "–1918"),
    ("It costs $", "5"),
    ("It costs US$", "5"),
    ("It costs €", "5"),
    ("It costs £", "20 million"),
    ("It costs 5", "€"),
    ("It grew by 5", "%"),
    ("It is 20", "°C"),
    ("The 1", "st"),
    ("Pi is 3.1415", "2653"),
    ("It is 200", "1234"),
    ("[1,2,", "3"),
    ("C:\\", "Users"),
    ("The 19", "th century"),
    ("In the 1990", "s"),
    ("The answer is -", "5"),
    ("x^", "2"),
    ("f(x)", "=x"),
    ("2*", "3"),
    ("a+", "b"),
    ("(1+2)", "*3"),
    ("x==", "1"),
    ("A->", "B"),
    ("https://", "example"),
    # quotes and brackets
    ('She said "', "Hello"),
    ('"Yes", she said, "', "no"),
    ("She said “", "Hello"),
    ("She said '", "Hello"),
    ("The city (", "Paris"),
    ("He read [", "1"),
    ("Er sagte „", "Ja"),
    ("Il a dit «", "Oui"),
    ("Er sagte »", "Ja"),
    ("¿", "Quién"),
    ('href="', "page"),
    ('The song "Hello', '" is'),
    ("The song “Hello", "” is"),
    ("The city (Paris", ")"),
    ("The city [Paris", "] is"),
    # marks behind a word
    ("The capital is Paris", "."),
    ("The capital is Paris", ", which is"),
    ("Is it Paris", "?"),
    ("It is Paris", "!"),
    ("The capitals", ": Paris"),
    ("It is", "..."),
    ("It is", "…"),
    ("وهي باريس", "،"),
    ("हम जाते हैं", "।"),
    # parts of words
    ("The mayor of Paris", "'s wife"),
    ("The mayor of Paris", "’s wife"),
    ("They could", "n't"),
    ("Jean-", "Paul"),
    ("Coca", "-Cola"),
    ("Patrick O'", "Brien"),
    ("Le pays est l'", "Italie"),
    ("La capitale dell’", "Italia"),
    ("and/", "or"),
    ("https://", "example.com"),
    ("www.", "example.com"),
    ("amazon", ".com"),
    ("snake_", "case"),
    ("AT&", "T"),
    ("AT", "&T"),
    ("We are #", "1"),
    ("Follow @", "somebody"),
    ("The answer is **", "Paris"),
    ("The code is `", "x"),
    ("<b>", "Paris"),
    ("What?<|assistant|>", "Paris"),
    ("What?<｜Assistant｜>", "Paris"),
    ("cafe", "\u0301"),
    # scripts without spaces
    ("法国的首都是", "巴黎"),
    ("苹果公司成立于", "1976"),
    ("法国的首都是", "Paris"),
    ("Microsoft成立于", "1975"),
    ("他住在New York", "的"),
    ("他生于1945", "年"),
    ("法国的首都是", "🗼"),
    ("首都：", "Paris"),
    ("答案:", "巴黎"),
    ("他说“", "你好"),
    ("他说", "“你好”"),
    ("他说「", "你好"),
    ("日本の首都は", "東京"),
    ("フランスの首都は", "パリ"),
    ("スマ", "ー"),
    ("ประเทศไทยมีเมืองหลวงคือ", "กรุงเทพ"),
    ("ນະຄອນຫຼວງຂອງລາວແມ່ນ", "ວຽງຈັນ"),
    ("រាជធានីនៃកម្ពុជាគឺ", "ភ្នំពេញ"),
    ("မြန်မာနိုင်ငံ၏မြို့တော်မှာ", "နေပြည်တော်"),
    ("བོད་ཀྱི་རྒྱལ་ས་ནི་", "ལྷ་ས"),
    ("法国的首都是", "。"),
    ("It is in Paris", "。"),
]
APART = [
    ("The Space Needle is in", "Seattle"),
    ("The war ended in", "1945"),
    ("It costs", "$5"),
    ("It costs 5 €", "today"),
    ("In Q1", "2023"),
    ("On May 5", "1990"),
    ("He left in 2018.", "1953 was"),
    ("It has 5", "rooms"),
    ("It was sold for", "5%"),
    ("1 + 1 =", "2"),
    ("x =", "y"),
    ("5 -", "3"),
    ("5 *", "3"),
    ("The numbers are 1, 2,", "3"),
    ("The numbers are 1, 2, 3,", "100"),
    ("1.", "5 apples"),
    ("Temperatures fell to", "-5"),
    ("Q: Who?\nA:", "Paris"),
    ("The capital:", "Paris"),
    ("He came. Then", "he"),
    ("He said:", '"Hello"'),
    ("He said", '"Hello"'),
    ("He said", "“Hello”"),
    ("He said", "'Hello'"),
    ("Il a dit", "« Oui »"),
    ('The song "Hello"', "is"),
    ("The song “Hello”", "is"),
    ("The song 'Hello'", "is"),
    ("Das Wort „Ja“", "ist"),
    ("Le mot « oui »", "est"),
    ("The dogs'", "tails"),
    ("The city (Paris)", "is"),
    ("The city of Paris", "(France)"),
    ("He is the President,", "and"),
    ("He programs in", ".NET"),
    ("He programs in C++", "and"),
    ("He programs in C#", "and"),
    ("It is about", ".5"),
    ("He wrote", ":)"),
    ("Paris -", "the capital"),
    ("Paris —", "the capital"),
    ("France ->", "Paris"),
    ("France =>", "Paris"),
    ("x ==", "1"),
    ("x !=", "y"),
    ("x :=", "y"),
    ("<b>Paris</b>", "is"),
    ("[INST] Where? [/INST]", "Paris"),
    ("**Answer:**", "Paris"),
    ("It is called", "@home"),
    # other scripts with spaces
    ("Столица Франции —", "Париж"),
    ("Столица Франции", "Париж"),
    ("عاصمة فرنسا هي", "باريس"),
    ("בירת צרפת היא", "פריז"),
    ("फ्रांस की राजधानी", "पेरिस"),
    ("프랑스의 수도는", "파리"),
    ("프랑스의 수도는", "Paris"),
    ("프랑스의 수도는", "巴黎"),
    ("Η πρωτεύουσα της Γαλλίας είναι", "Παρίσι"),
    # and what follows in those without
    ("The Japanese capital is", "東京"),
    ("The capital of 日本 is", "東京"),
    ("In Japanese, Paris is", "パリ"),
    ("In Thai, Bangkok is", "กรุงเทพ"),
    ("The word for apple is", "🍎"),
    ("The sign for love is", "❤️"),
    ("I like 🍕", "and"),
    ("The book is called", "《红楼梦》"),
    ("The Chinese word 水", "means"),
    ("The Thai word สวัสดี", "means"),
    ("他住在New", "York"),
    ("เขาเกิดในปี", "1990"),
    ("เมืองหลวงของฝรั่งเศสคือ", "Paris"),
    ("ខ្ញុំកើតនៅឆ្នាំ", "1990"),
    ("ໃນພາສາຈີນແມ່ນ", "水"),
]


@pytest.mark.parametrize(("prompt", "target"), JOINED)
def test_nothing_between(prompt: str, target: str) -> None:
    assert not space_between(prompt, target)
    assert spaced(prompt, target) == target


@pytest.mark.parametrize(("prompt", "target"), APART)
def test_a_space_between(prompt: str, target: str) -> None:
    assert space_between(prompt, target)
    assert spaced(prompt, target) == f" {target}"


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
MIXED = st.text(st.sampled_from("aZ 9.,:;'\"“”«»()[]$%=+-*/<>_@#~é水ー。กา한🍎\u0301\u200b\n"), min_size=1, max_size=10)


@given(st.one_of(TEXT, MIXED), st.one_of(TEXT, MIXED))
def test_any_two_texts(prompt: str, target: str) -> None:
    found = spaced(prompt, target)
    assert found in (target, f" {target}")
    assert spaced(prompt, found) == found  # a space of its own stays the only one
    if prompt[-1].isspace() or target[0].isspace():
        assert found == target
    assert spaced(prompt, target, False) == target
    assert spaced(prompt, target, True) == (target if prompt[-1].isspace() or target[0].isspace() else f" {target}")


@given(st.text("abcdefghijklmnop", min_size=2, max_size=9), st.text("ABCDEFGHIJ", min_size=2, max_size=9))
def test_words_stand_apart(prompt: str, target: str) -> None:
    assert spaced(prompt, target) == f" {target}"


def test_letters_of_scripts_without_spaces() -> None:
    assert [unspaced(c) for c in "水かカｶ々〇กกကឃབＡ"] == [True] * 12
    assert [unspaced(c) for c in "a1é한я。🍎ा"] == [False] * 8
