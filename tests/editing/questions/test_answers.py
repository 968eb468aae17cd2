"""Answers equal those of a plain loop on every architecture, whatever is asked beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import ARCHITECTURES
from hypothesis import given
from hypothesis import strategies as st

from editing.questions import asking as module
from editing.questions.answer import Answer, CaseAnswers
from editing.questions.asked import OWN, SPARE, SPARE_IN_SENTENCE
from editing.questions.asking_records import ask_records
from editing.questions.question import Question
from editing.questions.record import EditRecord, Rewrite
from tracer import Fact, Model, TracerError, load
from tracer.engine import follow as decoding
from tracer.engine import kv_cache as keyvalues
from tracer.engine.generation import written_text
from tracer.facts.readout import answer_text

CAUSAL = [name for name in ARCHITECTURES if name != "bert"]
NEEDLE = "The Space Needle is in"


def asked(
    kind: Any, prompt: str, answer: str | tuple | None = None, against: str | None = None, **more: Any
) -> Question:
    accepted = () if answer is None else ((answer,),) if isinstance(answer, str) else answer
    return Question(kind=kind, prompt=prompt, answers=accepted, against=against, **more)


FIRST = EditRecord(
    case_id="first",
    source="made",
    rewrites=(Rewrite(prompt="{} is in", subject="The Space Needle", target_new="Paris", target_true="Seattle"),),
    asks=(
        asked("paraphrase", "x", "Paris", "Seattle"),
        asked("neighbour", "The Eiffel Tower is in the heart of", "Paris", "downtown Seattle"),
        asked("attribute", NEEDLE, "downtown Seattle", "Paris"),  # the rewrite's prompt again
        asked("same_subject", "Miles Davis plays the"),
        asked("one_hop", "Where is Paris?", "France", either=0),
        asked("forgetfulness", "The capitals are", (("Paris", "the city of Paris"), ("Uppsala",)), either=0),
    ),
    generate=(NEEDLE, "Miles Davis plays", NEEDLE),
)
SECOND = EditRecord(
    case_id="second",
    source="made",
    rewrites=(Rewrite(prompt="The mother tongue of {} is", subject="Yo-Yo Ma", target_new="Spanish"),),
    asks=(asked("neighbour", NEEDLE, "Sweden, France"), asked("multi_hop", "東京 is the capital of", "日本", "Россия")),
    generate=("x",),
)


def spelled(cases: list[CaseAnswers]) -> str:
    """As text, in which nan is equal to nan and numbers differ by more than rounding."""
    short = [
        [tuple(round(x, 4) if isinstance(x, float) else x for x in astuple(one)) for one in case.answers]
        for case in cases
    ]
    return repr((short, [(case.case_id, case.texts) for case in cases]))


def forced(model: Model, prompt: str, target: str) -> tuple[float, list[int], list[int]]:
    """nll, ids and argmax ids, in a forward of their own."""
    found = Fact("{}", prompt, target).align(model)
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([[*found.input_ids, *found.target_ids]])).logits[0].double()
    rows = logits.log_softmax(-1)[len(found.input_ids) - 1 : -1]
    ids = list(found.target_ids)
    return -float(rows[range(len(ids)), ids].mean()), ids, rows.argmax(-1).tolist()


def written(model: Model, prompt: str, tokens: int) -> str:
    """Greedy text, whole forwards and one token at a time, to the end of its sentence."""
    ids = list(Fact("{}", prompt).align(model).input_ids)
    new: list[int] = []
    while len(new) < tokens and len(ids) + len(new) < model.n_ctx:
        with torch.no_grad():
            token = int(model.hf(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        new.append(token)
    return written_text(model, new, 1).strip()


def room(model: Model, one: Question) -> int:
    """Tokens that a question lets the model write."""
    if not one.answers:
        return OWN
    longest = [max(wordings, key=len) for wordings in one.answers]
    more = SPARE_IN_SENTENCE if len(longest) > 1 or one.prompt.endswith("?") else SPARE
    ids: list[Any] = [model.tokenizer(f" {each.strip()}", add_special_tokens=False).input_ids for each in longest]
    return more + sum(map(len, ids))


@pytest.mark.parametrize(("name", "max_rows"), [*((name, None) for name in CAUSAL), ("llama", 2), ("bloom", 3)])
def test_equal_to_a_plain_loop(tiny: Callable[[str], Model], name: str, max_rows: int | None) -> None:
    model = tiny(name)
    records = [FIRST, SECOND] if name in ("gpt2", "llama") else [replace_asks(FIRST, *FIRST.asks[:4])]
    weights = model.fingerprint()
    cases = ask_records(model, records, texts=False, max_rows=max_rows)
    for record, case in zip(records, cases, strict=True):
        assert case.case_id == record.case_id
        for one, answer in zip(record.questions(), case.answers, strict=False):
            assert (answer.kind, answer.prompt) == (one.kind, one.prompt)
            assert answer.answer == (one.answer and one.answer.strip())
            assert answer.generated == written(model, one.prompt, room(model, one))
            if one.answer is None:
                assert math.isnan(answer.nll)
                assert math.isnan(answer.match)
                continue
            nll, ids, best = forced(model, one.prompt, one.answer)
            np.testing.assert_allclose(answer.nll, nll, atol=1e-5)
            assert answer.greedy == tuple(best)
            assert answer.accuracy == np.mean([a == b for a, b in zip(ids, best, strict=True)])
            assert answer.exact == (ids == best)
            if one.against is None:
                assert math.isnan(answer.nll_against)
            else:
                np.testing.assert_allclose(answer.nll_against, forced(model, one.prompt, one.against)[0], atol=1e-5)
    assert model.fingerprint() == weights


def test_scores_do_not_depend_on_what_is_generated(tiny: Callable[[str], Model]) -> None:
    cases = ask_records(tiny("gpt2"), [FIRST, SECOND], texts=False)
    for case, same in zip(cases, ask_records(tiny("gpt2"), [FIRST, SECOND], generate=False, texts=False), strict=True):
        np.testing.assert_allclose([a.nll for a in case.answers], [a.nll for a in same.answers], atol=1e-5)
        assert all(a.generated is None and math.isnan(a.match) for a in same.answers)
        assert [a.greedy for a in case.answers if a.answer] == [a.greedy for a in same.answers if a.answer]


def test_an_answer_depends_on_nothing_else_that_is_asked(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    state = torch.get_rng_state()
    both = ask_records(model, [FIRST, SECOND], seed=3)
    assert spelled(both) == spelled(ask_records(model, [FIRST], seed=3) + ask_records(model, [SECOND], seed=3))
    turned = ask_records(model, [SECOND, FIRST], seed=3, max_rows=1)
    assert spelled(both) == spelled(turned[::-1])
    assert torch.equal(torch.get_rng_state(), state)
    other = ask_records(model, [FIRST, SECOND], seed=4)
    assert [a.generated for a in other[0].answers] == [a.generated for a in both[0].answers]
    assert other[0].texts != both[0].texts
    assert both[0].texts[0] != both[0].texts[2]  # the same prompt at another place
    for record, case in zip((FIRST, SECOND), both, strict=True):
        for prompt, text in zip(record.generate, case.texts, strict=True):
            assert text.startswith(prompt)
    tokens = len(Fact("{}", NEEDLE).align(model).input_ids)
    (short,), (longer,) = (ask_records(model, [FIRST], generate=False, seed=3, text_tokens=tokens + n) for n in (2, 4))
    for one, two, whole in zip(short.texts, longer.texts, both[0].texts, strict=True):
        assert whole.startswith(two.rstrip("�"))  # the last character may be half of one
        assert two.startswith(one.rstrip("�"))
    assert len(NEEDLE) < len(short.texts[0]) < len(longer.texts[0]) < len(both[0].texts[0])


@pytest.mark.parametrize("lacking", ["keys and values", "positions", "the argument"])
def test_models_that_take_to_none_of_it_say_the_same(
    tiny: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    model = tiny("gpt2")
    expected = spelled(ask_records(model, [FIRST, SECOND]))
    steps: list[int] = []
    step = keyvalues.Kept.step

    def counted(self: Any, *given: Any) -> Any:
        steps.append(1)
        return step(self, *given)

    monkeypatch.setattr(keyvalues.Kept, "step", counted)
    ask_records(model, [FIRST], texts=False)
    usual, steps = len(steps), []
    if lacking == "keys and values":
        monkeypatch.setattr(keyvalues.Prefix, "read", lambda *_: None)
    elif lacking == "positions":  # so that the shorter rows would be read wrongly
        monkeypatch.setattr(keyvalues.inspect, "signature", lambda _: SimpleNamespace(parameters={}))
    else:
        forward = model.hf.forward

        def refuses(past_key_values: Any = None, **given: Any) -> Any:
            if past_key_values is not None:
                raise TypeError("no such argument")
            return forward(**given)

        monkeypatch.setattr(model.hf, "forward", refuses)
    assert spelled(ask_records(model, [FIRST, SECOND])) == expected
    assert len(steps) <= 2 < usual  # a trial of each forward's rows, if any


def test_prompts_run_once_and_logits_are_made_where_they_are_read(tiny: Callable[[str], Model]) -> None:
    model = tiny("llama")
    words = [*"abcdefghijklmnopqrstuvwxyz", "the", "is", "in", "of", "and", "capital", "plays"]
    words = [word for word in words if len(Fact("{}", NEEDLE, word).align(model).target_ids) == 1]
    assert len(words) > 3
    rows: list[int] = []
    places: list[int] = []
    some = [asked("neighbour", NEEDLE, one, other) for one, other in pairwise(words)]
    record = replace_asks(FIRST, *some, asked("attribute", NEEDLE, words[0]))
    counted = model.module("hidden", 0).register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    made = model.module("unembed").register_forward_hook(lambda _, args, output: places.append(output.shape[1]))
    try:
        (case,) = ask_records(model, [record], generate=False, texts=False)
    finally:
        counted.remove()
        made.remove()
    assert len(case.answers) == len(some) + 3
    # the prompt and the denied prompt, each with those of the rewrite's answers that take more than a token
    longer = {tuple(ids[:-1]) for ids in (forced(model, NEEDLE, text)[1] for text in ("Paris", "Seattle"))}
    alone = [one for one in longer if not any(other != one and other[: len(one)] == one for other in longer)]
    assert sum(rows) == 2 * len(alone)
    assert sum(places) == 2 * sum(len(one) + 1 for one in alone)
    assert not model.module("unembed")._forward_pre_hooks


def replace_asks(record: EditRecord, *asks: Question) -> EditRecord:
    return record.model_copy(update={"asks": asks})


def test_what_is_nowhere_given_is_what_was_said_before() -> None:
    model = load()
    prompts = ("The Space Needle is in downtown", "Seattle is a city in")
    record = replace_asks(FIRST, *(asked("same_subject", prompt) for prompt in prompts))
    (before,) = ask_records(model, [record], texts=False)
    old = before.answers[1:3]
    assert [one.generated for one in old] == ["Seattle.", "the United States."]
    assert [one.answer for one in old] == [None, None]
    assert [answer_text(model, one.greedy) for one in old] == [" Seattle", " the United States"]
    (after,) = ask_records(model, [record], texts=False, before=[before])
    for one, was in zip(after.answers[1:3], old, strict=True):
        assert one.answer == (was.generated or "").rstrip(".")
        assert one.generated == was.generated
        assert (one.exact, one.accuracy, one.match) == (1, 1, 1)
        assert one.greedy == was.greedy
        assert one.nll < 0.1
    wrong = replace(before, answers=(before.answers[0], replace(old[0], greedy=old[1].greedy), *before.answers[2:]))
    (other,) = ask_records(model, [record], texts=False, before=[wrong])
    assert other.answers[1].answer == "the United States"
    assert (other.answers[1].exact, other.answers[1].match) == (0, 0)
    (unasked,) = ask_records(model, [record], texts=False, generate=False)
    (never,) = ask_records(model, [record], texts=False, before=[unasked])
    assert never.answers[1].answer is None  # nobody wrote it: still unknown
    with pytest.raises(TracerError, match="case first: `before` has no such case"):
        ask_records(model, [record], before=[replace(before, case_id="other")])
    with pytest.raises(TracerError, match="case first: `before` was asked other questions"):
        ask_records(model, [record], before=[replace(before, answers=before.answers[:2])])


def test_what_the_embedded_model_says() -> None:
    model = load()
    told = Rewrite(prompt="{} is in downtown", subject="The Space Needle", target_new="Paris", target_true="Seattle")
    record = EditRecord(
        case_id="a", source="made", rewrites=(told,), asks=(asked("neighbour", NEEDLE + " downtown", "Seattle"),)
    )
    (case,) = ask_records(model, [record])
    rewrite, neighbour, denial = case.answers
    assert (rewrite.match, rewrite.exact, rewrite.generated) == (0, 0, "Seattle.")
    assert rewrite.nll > rewrite.nll_against
    assert (neighbour.match, neighbour.exact) == (1, 1)
    assert (denial.kind, denial.prompt) == ("negation", "It is not true that The Space Needle is in downtown")
    assert denial.generated is None
    assert case.texts == ()


def test_bad_records_are_named(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    long = replace_asks(FIRST, asked("neighbour", "a " * 70, "b"))
    with pytest.raises(TracerError, match=r"case first: .*the context"):
        ask_records(model, [SECOND, long])
    with pytest.raises(TracerError, match="masked model, which writes nothing"):
        ask_records(tiny("bert"), [FIRST])
    with pytest.raises(TracerError, match="max_rows is 0"):
        ask_records(model, [FIRST], max_rows=0)
    assert ask_records(model, []) == []


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(0, 40))
def test_batches_cost_least(lengths: list[int], own: int) -> None:
    rows: Any = [SimpleNamespace(ids=(0,) * length) for length in sorted(lengths, reverse=True)]
    model: Any = SimpleNamespace(causal=True, device=torch.device("cpu"))

    def cost(parts: list[list[Any]]) -> int:
        return sum(own + len(part) * len(part[0].ids) for part in parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "FORWARD_TOKENS", (own, own))
        found: Any = decoding._parts(model, rows)
    assert [row for part in found for row in part] == rows
    cuts = range(2 ** (len(rows) - 1))
    every = [[i + 1 for i in range(len(rows) - 1) if cut >> i & 1] for cut in cuts]
    assert cost(found) == min(cost([rows[a:b] for a, b in pairwise([0, *places, len(rows)])]) for places in every)


def test_questions_are_answered_in_sentences(tiny: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(module, "says", lambda text, _, anywhere: not seen.append((text, anywhere)))
    (case,) = ask_records(tiny("gpt2"), [FIRST], texts=False)
    assert [anywhere for _, anywhere in seen] == [
        one.answer is not None and one.prompt[-1] == "?" for one in said(case)
    ]


def said(case: CaseAnswers) -> list[Answer]:
    return [one for one in case.answers if not math.isnan(one.match)]


# --- whole answers ---------------------------------------------------------------------------------------------------
@pytest.fixture
def scripted(tiny: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Model]:
    """A tiny model that writes a given text after every prompt, token by token."""
    model = tiny("gpt2")

    def writes(text: str) -> Model:
        ids = tuple(model.tokenizer(text)["input_ids"])

        def follow(_: Model, lines: Any, **__: Any) -> list[Any]:
            found = []
            for line in lines:
                count = next((n for n in range(1, len(ids)) if line.done and line.done(ids[:n])), len(ids))
                nothing = tuple(np.zeros(len(target)) for target in line.targets)
                found.append(decoding.Followed(nothing, nothing, ids[: min(count, line.tokens)]))
            return found

        monkeypatch.setattr(module, "follow", follow)
        return model

    return writes


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("U.S. Army", " U.S. Army. It"),
        ("St. Louis", " St. Louis, Missouri"),
        ("J. K. Rowling", " J. K. Rowling. She is"),
        ("3.5 million", " 3.5 million people"),
        ("Dr. Seuss", " Dr. Seuss"),
        ("Yahoo! Inc.", " Yahoo! Inc. was"),
        ("Ciudad Cdad. Real", " Ciudad Cdad. Real, a"),  # an abbreviation that nobody knows
        ("東京。大阪", "東京。大阪"),
        ("It is one. It is two.", " It is one. It is two."),
    ],
)
def test_an_answer_with_marks_is_said_when_it_is_written(
    scripted: Callable[[str], Model], target: str, text: str
) -> None:
    told = Rewrite(prompt="{} is", subject="Rome", target_new=target)
    (case,) = ask_records(scripted(text), [EditRecord(case_id="a", source="made", rewrites=(told,))], texts=False)
    assert case.answers[0].match == 1


@pytest.mark.parametrize(
    ("text", "answer", "other"),
    [
        (" U.S. Army. It", " U.S. Army", " U.S. Navy. It"),
        (" 3.5 million.", " 3.5 million", " 3.7 million."),
        (" J. K. Rowling.", " J. K. Rowling", " J. R. Tolkien."),
        (" D.C., a city", " D.C.", " D.H. Lawrence"),
        ("東京。そ", "東京", "東大。そ"),
    ],
)
def test_the_unedited_models_own_answer_is_whole(
    scripted: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch, text: str, answer: str, other: str
) -> None:
    monkeypatch.setattr(module, "OWN", 24)  # of a small vocabulary
    record = replace_asks(FIRST, asked("same_subject", "Miles Davis plays the"))
    (before,) = ask_records(scripted(text), [record], texts=False)
    model = scripted(text)
    assert answer_text(model, before.answers[1].greedy) == answer
    (same,) = ask_records(model, [record], texts=False, before=[before])
    assert (same.answers[1].answer, same.answers[1].match) == (answer.strip(), 1)
    (changed,) = ask_records(scripted(other), [record], texts=False, before=[before])
    assert changed.answers[1].match == 0


def test_an_own_answer_without_an_end_has_whole_words(scripted: Callable[[str], Model]) -> None:
    record = replace_asks(FIRST, asked("same_subject", "Miles Davis plays the"))
    text = " one and two and three and four and five and six"
    model = scripted(text)
    (before,) = ask_records(model, [record], texts=False)
    kept = answer_text(model, before.answers[1].greedy)
    assert len(kept) > 4 and text.startswith(f"{kept} ")
    (after,) = ask_records(model, [record], texts=False, before=[before])
    assert (after.answers[1].answer, after.answers[1].match) == (kept.strip(), 1)
