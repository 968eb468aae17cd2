"""What follows a prompt: targets and their spaces, special tokens, masks, look-alikes; bad facts, and the inspector."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import checkpoints
import pytest
from families import CAUSAL, FAMILIES, TEXT, subject_tokens, tokenizer
from hypothesis import assume, example, given, settings

from tracer.errors import TracerError
from tracer.facts.encoding import body_ids, encode
from tracer.facts.fact import Fact, token_text
from tracer.facts.spacing import spaced
from tracer.model import Model


# --- targets -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("target", ["Seattle", " Seattle", "the heart of Paris", " Seattle, Paris."])
def test_target_follows_the_prompt(family: str, target: str) -> None:
    toks = tokenizer(family)
    found = Fact("{} is in", "The Space Needle", target).align(toks)
    assert found.input_ids == Fact("{} is in", "The Space Needle").align(toks).input_ids
    assert len(found.target_ids) > 1
    whole = toks("The Space Needle is in " + target.strip())["input_ids"]
    assert [*found.input_ids, *found.target_ids] == whole


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("{} is in ", "Seattle", "Paris is in Seattle"),  # the prompt's space would merge with the target
        ("{} is in ", " Seattle", "Paris is in  Seattle"),
        ("{} is in down", "town", "Paris is in down town"),
        ("{} tro", " mpet", "Paris tro mpet"),
    ],
)
def test_no_character_of_a_target_is_lost(family: str, prompt: str, target: str, text: str) -> None:
    toks = tokenizer(family)
    fact = Fact(prompt, "Paris", target)
    found = fact.align(toks)
    assert found.input_ids == Fact(prompt, "Paris").align(toks).input_ids  # the prompt stays as it is
    assert toks.decode([*found.input_ids, *found.target_ids], skip_special_tokens=True) == text


@pytest.mark.parametrize("family", ["byte_level", "byte_level_nfc", "metaspace"])
@settings(max_examples=80)
@given(prompt=TEXT, target=TEXT)
@example(prompt="x ", target="y")
@example(prompt="東京は", target="日本")
def test_prompt_and_target_make_the_text(family: str, prompt: str, target: str) -> None:
    toks = tokenizer(family)
    assume(target.strip())
    text = "Paris" + prompt
    assume(unicodedata.is_normalized("NFC", text + target) and unicodedata.is_normalized("NFC", target))
    assume("Paris" not in prompt)
    found = Fact("{}" + prompt, "Paris", target).align(toks)
    whole = toks.decode([*found.input_ids, *found.target_ids], skip_special_tokens=True)
    assert whole == text + spaced(text, target)


@pytest.mark.parametrize("family", ["byte_level", "byte_level_nfc", "metaspace"])
@pytest.mark.parametrize(
    ("prompt", "target", "space", "text"),
    [
        ("{} is in", "19", None, "Paris is in 19"),
        ("{} is in", "19", False, "Paris is in19"),
        ("{} is in", " 19", False, "Paris is in 19"),  # a space that is written stays
        ("{} is in ", "19", True, "Paris is in 19"),
        ("{}, 18", "53", None, "Paris, 1853"),
        ("{}, 18", "53", True, "Paris, 18 53"),
        ("{} (", "France", None, "Paris (France"),
        ("{} is in down", "town", False, "Paris is in downtown"),
    ],
)
def test_a_space_as_written_or_as_said(family: str, prompt: str, target: str, space: bool | None, text: str) -> None:
    toks = tokenizer(family)
    found = Fact(prompt, "Paris", target, space).align(toks)
    assert toks.decode([*found.input_ids, *found.target_ids], skip_special_tokens=True) == text


def test_space_is_true_false_or_none() -> None:
    with pytest.raises(TracerError, match="space is 'no'; expected True, False or None"):
        Fact("{} is", "Paris", "x", space="no")  # type: ignore[arg-type]


# --- special tokens that a text brings itself ------------------------------------------------------------------------
def closed(family: str) -> Any:
    """A tokenizer that puts something before every text and behind it."""
    from tokenizers.processors import TemplateProcessing

    toks = checkpoints.TOKENIZERS[family]()
    if family == "metaspace":
        pair = [("<s>", 1), ("</s>", 2)]
        toks.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=pair)
    return toks


@pytest.mark.parametrize(("family", "first", "last"), [("metaspace", "<s>", "</s>"), ("wordpiece", "[CLS]", "[SEP]")])
def test_special_tokens_stand_once(family: str, first: str, last: str) -> None:
    toks = closed(family)
    text = "The Space Needle is in" + (" [MASK]" if family == "wordpiece" else "")
    plain, offsets = encode(toks, text, causal=False)
    assert plain.count(toks.convert_tokens_to_ids(first)) == plain.count(toks.convert_tokens_to_ids(last)) == 1
    for written in (f"{first}{text}", f"{text}{last}", f"{first}{text}{last}"):
        ids, found = encode(toks, written, causal=False)
        assert ids == plain, written
        assert [b - a for a, b in found[1:-1]] == [b - a for a, b in offsets[1:-1]]
    doubled = f"{first}{first}{text}"  # whoever writes two gets two
    assert encode(toks, doubled, causal=False)[0] == [plain[0], *plain]


def test_a_fact_in_a_chat_template_has_one_bos(tiny: Callable[[str], Model]) -> None:
    model = tiny("llama")
    bare = Fact("{} is in", "The Space Needle", "Paris").align(model)
    given = Fact("<s>{} is in", "The Space Needle", "Paris").align(model)
    assert given.input_ids.count(model.tokenizer.bos_token_id) == 1
    assert given == bare
    assert body_ids(model.tokenizer, "<s>The Space") == body_ids(model.tokenizer, "The Space")


# --- look-alikes and halves of characters ----------------------------------------------------------------------------
def test_what_looks_alike_is_told_apart() -> None:
    composed, parted = "Caf\u00e9", "Cafe\u0301"
    with pytest.raises(TracerError, match=r"\(it has 'Cafe\\u0301', which looks alike; the subject is 'Caf\\xe9'\)"):
        Fact(f"{parted} is in", composed)
    with pytest.raises(TracerError, match=r"\(it has 'O\\u2019Brien', which looks alike; the subject is \"O'Brien\"\)"):
        Fact("Patrick O’Brien is", "O'Brien")
    with pytest.raises(TracerError, match=r"it has 'New\\xa0York'"):
        Fact("In New\xa0York it", "New York")
    with pytest.raises(TracerError, match=r"\(it has 'paris'\)"):
        Fact("in paris", "Paris")
    with pytest.raises(TracerError, match=r"does not occur in prompt 'Rome'; put"):
        Fact("Rome", "Paris")
    with pytest.raises(TracerError, match="does not occur"):  # its e belongs to another letter
        Fact(f"{parted} is in", "Cafe")
    assert Fact(f"Cafe or {parted}", "Cafe").subject_span == (0, 4)


@pytest.mark.parametrize("field", ["prompt", "subject", "target"])
def test_half_a_character_is_named(field: str) -> None:
    texts: Any = {"prompt": "{} is in", "subject": "Paris", "target": "France"}
    texts[field] += " \ud83d!"
    message = rf"the {field} .* holds half a character, U\+D83D at {len(texts[field]) - 2}: .* read it as UTF-8 again"
    with pytest.raises(TracerError, match=message):
        Fact(**texts)
    with pytest.raises(TracerError, match=r"the text .* holds half a character"):
        encode(tokenizer("byte_level"), "\udcff")


def test_scripts_without_spaces_get_none() -> None:
    toks = tokenizer("byte_level")
    assert toks.decode(Fact("{}は", "東京", "日本").align(toks).target_ids) == "日本"
    assert toks.decode(Fact("{}는", "서울", "한국").align(toks).target_ids) == " 한국"  # Korean writes spaces


def test_unknown_target() -> None:
    with pytest.raises(TracerError, match=r"no tokens for target '🗼'"):
        Fact("{} is", "Paris", "🗼").align(tokenizer("unigram"))
    with pytest.raises(TracerError, match=r"no tokens for target '🗼'"):
        Fact("{} is [MASK].", "Paris", "🗼").align(tokenizer("wordpiece"))


# --- masked models -------------------------------------------------------------------------------------------------
def test_mask_is_the_answer_position(tiny: Callable[[str], Model]) -> None:
    model = tiny("bert")
    found = Fact("{} is in downtown [MASK].", "The Space Needle", "Seattle").align(model)
    assert found.tokens == ("[CLS]", "the", "space", "needle", "is", "in", "downtown", "[MASK]", ".", "[SEP]")
    assert (found.subject_range, found.answer_position, len(found.target_ids)) == ((1, 4), 7, 1)
    assert model.tokenizer.decode(list(found.target_ids)) == "seattle"


@pytest.mark.parametrize("prompt", ["{} is in [MASK].", "[MASK] is where {} is."])
def test_as_many_masks_as_target_tokens(prompt: str, tiny: Callable[[str], Model]) -> None:
    found = Fact(prompt, "Space Needle", "the heart of Paris").align(tiny("bert"))
    assert len(found.target_ids) == 4
    mask = tiny("bert").tokenizer.mask_token_id
    first = found.answer_position
    assert [i for i, token in enumerate(found.input_ids) if token == mask] == list(range(first, first + 4))
    assert subject_tokens(found) == ("space", "needle")
    one = Fact(prompt, "Space Needle").align(tiny("bert"))
    assert len(found.input_ids) == len(one.input_ids) + 3
    assert one.input_ids.count(mask) == 1 and one.target_ids == ()


@pytest.mark.parametrize(("prompt", "count"), [("{} is in Seattle", 0), ("{} is in [MASK] [MASK]", 2)])
def test_mask_errors(prompt: str, count: int, tiny: Callable[[str], Model]) -> None:
    with pytest.raises(TracerError, match=rf"mask token {count} times; write \[MASK\] once, where the answer belongs"):
        Fact(prompt, "Paris").align(tiny("bert"))


# --- bad input -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "Paris"), r"prompt is empty"),
        ((" \n", "Paris"), r"prompt is empty"),
        (("{} is", ""), r"subject is empty"),
        (("{} is", "  "), r"subject is empty"),
        (("{} is", "Paris", ""), r"target is empty.*leave it out"),
        ((3, "Paris"), r"prompt should be text, got int"),
        (("{} is", None), r"subject should be text, got NoneType"),
        (("Rome is", "Paris"), r"subject 'Paris' does not occur in prompt 'Rome is'; put \{\} where it belongs"),
        (("paris is", "Paris"), r"does not occur in prompt 'paris is' \(it has 'paris'\)"),
    ],
)
def test_bad_facts(arguments: tuple, message: str) -> None:
    with pytest.raises(TracerError, match=message):
        Fact(*arguments)


def test_context_is_named(tiny: Callable[[str], Model]) -> None:
    model = tiny("llama")  # one token for BOS
    words = 64 - len(Fact("{}", "The").align(model).input_ids)
    longest = Fact("{}" + " The" * words, "The")
    assert len(longest.align(model).input_ids) == model.n_ctx
    with pytest.raises(TracerError, match=r"prompt 'The The.* take 65 tokens.*n_ctx = 64; shorten"):
        Fact("{}" + " The" * (words + 1), "The").align(model)
    # every target token but the last is read by the model too
    assert len(Fact(longest.prompt, "The", "The").align(model).target_ids) == 1
    with pytest.raises(TracerError, match=r"prompt and target .* take 65 tokens"):
        Fact(longest.prompt, "The", "The The").align(model)


def test_slow_tokenizer() -> None:
    with pytest.raises(TracerError, match=r"gives no character offsets; use the fast tokenizer"):
        Fact("{} is", "Paris").align(SimpleNamespace(is_fast=False))  # type: ignore[arg-type]


def test_a_subject_that_the_tokenizer_drops() -> None:
    with pytest.raises(TracerError, match=r"no token for subject '\\x00'"):
        Fact("{} is [MASK]", "\x00").align(tokenizer("wordpiece"))


def test_a_closing_special_token_does_not_end_a_prompt_to_be_continued() -> None:
    from tokenizers.processors import TemplateProcessing

    toks = checkpoints.metaspace()
    plain = Fact("{} is in", "Paris", "France").align(toks)
    toks.backend_tokenizer.post_processor = TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    assert toks("Paris")["input_ids"][-1] == 2
    assert Fact("{} is in", "Paris", "France").align(toks) == plain


# --- the inspector -------------------------------------------------------------------------------------------------
def rows(shown: str) -> dict[str, list[str]]:
    return {
        parts[0]: parts[1:]
        for parts in (line.split() for line in shown.splitlines())
        if parts and parts[0].lstrip("+").isdigit()
    }


def test_inspect_shows_the_alignment(golden_model: Model) -> None:
    shown = Fact("{} is in downtown", "The Dipea Museum", "Shovea").inspect(golden_model)
    table = rows(str(shown))
    assert table["0"] == ["305", "The", "*"]
    assert table["1"][1:] == ["·Dipea", "*"]
    assert table["3"][1:] == ["·is"]
    assert table["5"][1:] == ["·downtown", "answer", "is", "read", "here"]
    assert table["+1"][1:] == ["·Shovea", "target"]
    assert repr(shown) == str(shown)


def test_inspect_shows_masks_and_odd_text_as_they_are(tiny: Callable[[str], Model]) -> None:
    table = rows(str(Fact("{} [bold]x[/bold] [MASK]", "Paris", "of France").inspect(tiny("bert"))))
    masks = [row for row in table.values() if row[1] == "[MASK]"]
    assert [row[-1] for row in masks] == ["of", "france"]
    shown = Fact("{}\n<script>\t", "Paris").inspect(tokenizer("byte_level"))
    assert "\\n" in str(shown) and "\\t" in str(shown)
    assert "<script>" not in shown._repr_html_() and "&lt;" in shown._repr_html_()


@pytest.mark.parametrize("family", FAMILIES)
def test_token_text_keeps_leading_spaces(family: str) -> None:
    toks = tokenizer(family)
    text = "The Space Needle is in Paris"
    ids = [i for i in toks(text)["input_ids"] if i not in toks.all_special_ids]
    joined = "".join(token_text(toks, i) for i in ids)
    assert joined.lstrip() == (text if family != "wordpiece" else joined)
    assert joined.count(" ") == (0 if family == "wordpiece" else 5 + joined.startswith(" "))
