"""Facts and their tokens: the subject's tokens against an oracle that counts bytes, targets, masks, and bad input."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GPT2Tokenizer

from tracer.errors import TracerError
from tracer.facts.encoding import body_ids, encode
from tracer.facts.fact import Alignment, Fact, token_text
from tracer.facts.spacing import spaced
from tracer.model import Model

FAMILIES = tuple(checkpoints.TOKENIZERS)
CAUSAL = tuple(family for family in FAMILIES if family != "wordpiece")


@lru_cache
def tokenizer(family: str) -> Any:
    return checkpoints.TOKENIZERS[family]()


def published_token_range(toks: Any, ids: tuple[int, ...], subject: str) -> tuple[int, int]:
    """The subject's tokens as the published code finds them: decode each, join, look for the subject."""
    pieces = [toks.decode([i]) for i in ids]
    at = "".join(pieces).index(subject)
    start, end, position = None, None, 0
    for i, piece in enumerate(pieces):
        position += len(piece)
        if start is None and position > at:
            start = i
        if end is None and position >= at + len(subject):
            end = i + 1
            break
    assert start is not None and end is not None
    return start, end


# --- the oracle: where each token lies in the text, counted from the vocabulary's own pieces, without offsets --------
def _byte_table() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character; this is the table back."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    table = {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(moved)}
    assert set(table) == set(ByteLevel.alphabet())
    return table


def token_spans(family: str, text: str, ids: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and last byte of each token in the UTF-8 text (last excluded; empty where it stands for none of it)."""
    toks, table, spans, position = tokenizer(family), _byte_table(), [], 0
    pieces = [toks.convert_ids_to_tokens(i) for i in ids]
    if family == "wordpiece":
        lowered = text.lower()
        for piece in pieces:
            if piece in toks.all_special_tokens and piece != "[MASK]":
                spans.append((position, position))
                continue
            while lowered[position].isspace():
                position += 1
            core = piece.removeprefix("##") if piece != "[MASK]" else "[mask]"
            assert lowered.startswith(core, position)
            spans.append((position, position + len(core)))
            position += len(core)
        return spans
    for piece in pieces:
        if piece in ("<s>", "</s>"):
            size = 0
        elif family.startswith("byte_level"):
            size = len(bytes(table[c] for c in piece))
        elif piece.startswith("<0x"):
            size = 1
        else:
            size = len(piece.replace("▁", " ").encode())
        spans.append((position, position + size))
        position += size
    added = position - len(text.encode())  # the space that some put in front
    assert added in (0, 1)
    return [(max(0, a - added), max(0, b - added)) for a, b in spans]


def expected_range(family: str, fact: Fact, ids: tuple[int, ...]) -> tuple[int, int]:
    """Every token that holds a byte of the subject (its outer spaces apart)."""
    text = fact.text
    start, end = fact.subject_span
    start += len(fact.subject) - len(fact.subject.lstrip())
    end -= len(fact.subject) - len(fact.subject.rstrip())
    first, last = len(text[:start].encode()), len(text[:end].encode())
    inside = [i for i, (a, b) in enumerate(token_spans(family, text, ids)) if max(a, first) < min(b, last)]
    return inside[0], inside[-1] + 1


# '▁' is how some vocabularies write a space, braces mark the slot, and a lone surrogate is no text
ANY = st.text(st.characters(codec="utf-8", exclude_characters="▁{}", exclude_categories=("Cs",)), max_size=12)
PICTURES = st.text(st.sampled_from("🗼👩‍👧🇫🇷é東京愛ÅŘ e\u0301\u0308абв한국 xy"), max_size=8)
WORDS = st.text(st.sampled_from("The Space Needle is in downtown Paris, trumpet."), max_size=16)
TEXT = st.one_of(ANY, PICTURES, WORDS)


@pytest.mark.parametrize("family", ["byte_level", "byte_level_nfc", "metaspace"])
@settings(max_examples=150)
@given(before=TEXT, subject=TEXT, after=TEXT)
@example(before="In ", subject="🗼", after=" stands")
@example(before="", subject="東京", after="は")
@example(before="x", subject="e\u0301", after="y")
@example(before="", subject=" é ", after="")
@example(before="  ", subject="a", after="")
def test_subject_tokens_are_those_that_hold_its_bytes(family: str, before: str, subject: str, after: str) -> None:
    assume(subject.strip())
    fact = Fact(before + "{}" + after, subject)
    if family == "byte_level_nfc":  # bytes are to be counted before and after the normalizer alike
        assume(unicodedata.is_normalized("NFC", fact.text))
    found = fact.align(tokenizer(family))
    assert found.subject_range == expected_range(family, fact, found.input_ids)
    b, e = found.subject_range
    decoded = tokenizer(family).decode(found.input_ids[b:e])
    # a character that shares its first or last byte with a neighbour decodes to a replacement character
    assert subject.strip() in decoded or "\ufffd" in decoded
    assert 0 <= b < e <= len(found.input_ids) == len(found.tokens)
    assert found.answer_position == len(found.input_ids) - 1


@lru_cache
def known_text(family: str) -> st.SearchStrategy[str]:
    """Text whose every letter the vocabulary holds, in front of a word and inside one."""
    vocabulary = tokenizer(family).get_vocab()
    letters = [c for c in "aehiknorstTPS" if c.lower() in vocabulary and "##" + c.lower() in vocabulary]
    if family == "unigram":
        letters = [c for c in "aehiknorstTPS" if c in vocabulary]
    assert len(letters) > 5
    return st.text(st.sampled_from([*letters, " ", " "]), max_size=12)


@pytest.mark.parametrize("family", ["unigram", "wordpiece"])
@settings(max_examples=150)
@given(data=st.data())
def test_subject_tokens_are_those_that_hold_its_letters(family: str, data: st.DataObject) -> None:
    before, after = data.draw(known_text(family)), data.draw(known_text(family))
    subject = data.draw(known_text(family).filter(str.strip))
    fact = Fact(before + "{}" + after + (" [MASK]" if family == "wordpiece" else ""), subject)
    found = fact.align(tokenizer(family))
    assert tokenizer(family).unk_token_id not in found.input_ids  # the oracle counts letters
    assert found.subject_range == expected_range(family, fact, found.input_ids)


@settings(max_examples=150)
@given(before=TEXT, subject=TEXT, after=TEXT)
def test_any_text_through_a_composing_normalizer(before: str, subject: str, after: str) -> None:
    """Where the normalizer joins characters the oracle cannot count; the decoded span must still hold the subject."""
    compose = lambda text: unicodedata.normalize("NFC", text)  # noqa: E731
    subject = subject.strip()
    assume(subject)
    whole = compose(before + subject + after)
    assume(whole == compose(before) + compose(subject) + compose(after))  # no joining across the subject's edges
    found = Fact(before + "{}" + after, subject).align(tokenizer("byte_level_nfc"))
    decoded = tokenizer("byte_level_nfc").decode(found.input_ids[slice(*found.subject_range)])
    assert compose(subject) in decoded or "\ufffd" in decoded


# --- the published code's answer -----------------------------------------------------------------------------------
@pytest.mark.parametrize("case", ["museum", "birthplace", "capital"])
def test_published_alignment(case: str, golden: Path, golden_model: Model) -> None:
    published = np.load(golden / f"trace_{case}.npz")
    prompt, subject = str(published["prompt"]), str(published["subject"])
    found = Fact(prompt, subject, str(published["answer"])).align(golden_model)
    assert found.input_ids == tuple(published["input_ids"].tolist())
    assert found.tokens == tuple(published["input_tokens"].tolist())
    assert found.subject_range == tuple(published["subject_range"].tolist())
    assert found.target_ids == (int(published["answer_token"]),)


def test_published_range_on_golden_facts(golden: Path, golden_model: Model) -> None:
    facts = json.loads((golden / "facts.json").read_text())
    for fact in facts:
        for template in (fact["prompt"], fact["paraphrase"]):
            found = Fact(template, fact["subject"]).align(golden_model)
            assert found.subject_range == published_token_range(
                golden_model.tokenizer, found.input_ids, fact["subject"]
            )
    assert len(facts) == 400


def test_published_range_on_known_facts(data: Path) -> None:
    """GPT-2's own vocabulary, over a thousand real prompts."""
    vocabulary = json.loads((data / "gpt2_tokenizer" / "encoder.json").read_text())
    merges: Any = [
        tuple(line.split())
        for line in (data / "gpt2_tokenizer" / "vocab.bpe").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#version")
    ]
    gpt2: Any = GPT2Tokenizer(vocab=vocabulary, merges=merges)
    assert gpt2("The Space Needle is in downtown")["input_ids"] == [464, 4687, 10664, 293, 318, 287, 9436]
    compared = split = twice = 0
    for fact in json.loads((data / "known_1000" / "known_1000.json").read_text()):
        subject = fact["subject"]
        if fact["prompt"].count(subject) > 1:
            twice += 1
            continue
        found = Fact(fact["prompt"], subject, fact["attribute"]).align(gpt2)
        assert gpt2.decode(found.target_ids) == " " + fact["attribute"]
        try:
            expected = published_token_range(gpt2, found.input_ids, subject)
        except ValueError:  # a character over several tokens, which the published code cannot find
            assert any("\ufffd" in token for token in found.tokens[slice(*found.subject_range)])
            split += 1
            continue
        assert found.subject_range == expected, fact
        compared += 1
    assert compared > 1150 and split + twice < 50, (compared, split, twice)


# --- by hand -------------------------------------------------------------------------------------------------------
def subject_tokens(found: Alignment) -> tuple[str, ...]:
    return found.tokens[slice(*found.subject_range)]


@pytest.mark.parametrize(
    ("family", "prompt", "subject", "tokens"),
    [
        ("byte_level", "{} is in", "The Space Needle", ("The", " Sp", "ac", "e", " N", "e", "ed", "le")),
        ("byte_level", "The Space Needle is in", "Space Needle", (" Sp", "ac", "e", " N", "e", "ed", "le")),
        ("byte_level", "We saw the {}", "Needle", (" N", "e", "ed", "le")),  # at the prompt's end
        ("byte_level", "In {} it", "🗼", ("\ufffd",) * 4),  # the space before it is a token of its own
        ("byte_level_nfc", "{} is in", "The Space Needle", ("The", " Sp", "ac", "e", " N", "e", "ed", "le")),
        ("metaspace", "{} is in", "The Space Needle", (" The", " Sp", "ace", " N", "eed", "le")),  # BOS is not in it
        ("metaspace", "{} is in", "xyz", ("x", "y", "z")),  # nor the space put before the text
        ("unigram", "{} is in", "The Space", (" T", "he", " Spa", "ce")),
        ("wordpiece", "{} is in [MASK].", "The Space Needle", ("the", "space", "needle")),
        ("wordpiece", "[MASK] holds {}", "Dvořák", ("dvorak",)),
    ],
)
def test_subject_by_hand(family: str, prompt: str, subject: str, tokens: tuple[str, ...]) -> None:
    assert subject_tokens(Fact(prompt, subject).align(tokenizer(family))) == tokens


@pytest.mark.parametrize("family", CAUSAL)
def test_a_slot_and_the_written_subject_are_one(family: str) -> None:
    slot, written = Fact("In {} there is", "Paris"), Fact("In Paris there is", "Paris")
    assert slot.align(tokenizer(family)) == written.align(tokenizer(family))
    assert slot.text == written.text and slot.subject_span == written.subject_span == (3, 8)


@pytest.mark.parametrize("family", CAUSAL)
def test_the_slot_says_which_of_two(family: str) -> None:
    first = Fact("{} and Paris are", "Paris").align(tokenizer(family))
    second = Fact("Paris and {} are", "Paris").align(tokenizer(family))
    assert first.input_ids == second.input_ids
    assert first.subject_range[1] <= second.subject_range[0]
    with pytest.raises(TracerError, match=r"'Paris' occurs more than once in prompt .*put \{\}"):
        Fact("Paris and Paris are", "Paris")
    with pytest.raises(TracerError, match=r"more than once"):
        Fact("an anana", "ana")  # overlapping


def test_other_braces_are_plain_text() -> None:
    fact = Fact('{"name": "{}", {0} {x!r} }{ %s', "The {subject}")
    assert fact.text == '{"name": "The {subject}", {0} {x!r} }{ %s'
    assert subject_tokens(fact.align(tokenizer("byte_level")))[0] == "The"
    assert Fact("{x} Paris {", "Paris").text == "{x} Paris {"
    with pytest.raises(TracerError, match=r"has 2 times \{\}; leave one"):
        Fact("{} is in {}", "Paris")


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
