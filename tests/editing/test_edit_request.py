"""Requests: what every layout in use becomes, and what no edit can be made of."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from editing.request import EditRequest, EditWarning, as_requests, check_together
from tracer import factworld
from tracer.errors import TracerError
from tracer.model import Model

NEEDLE = EditRequest("{} is in downtown", "The Space Needle", " Paris", " Seattle")
QUESTION = EditRequest("Where is {}?", "The Space Needle", " Paris", " Seattle")
COUNTERFACT = {
    "relation_id": "P276",
    "prompt": "{} is in downtown",
    "subject": "The Space Needle",
    "target_new": {"str": "Paris", "id": "Q90"},
    "target_true": {"str": "Seattle", "id": "Q5083"},
}

# layout -> a record in it, the request it is
LAYOUTS: dict[str, tuple[Any, EditRequest]] = {
    "a request": (NEEDLE, NEEDLE),
    "own field names": (
        {"prompt": "{} is in downtown", "subject": "The Space Needle", "target_new": "Paris", "target_true": "Seattle"},
        NEEDLE,
    ),
    "no true target": (
        {"prompt": "{} is in downtown", "subject": "The Space Needle", "target_new": " Paris"},
        EditRequest("{} is in downtown", "The Space Needle", "Paris"),
    ),
    "CounterFact": ({"case_id": 1, "requested_rewrite": COUNTERFACT, "paraphrase_prompts": []}, NEEDLE),
    "a ROME request": (COUNTERFACT, NEEDLE),
    "a ROME request without the true target": (
        {"prompt": "{} is in downtown", "subject": "The Space Needle", "target_new": {"str": " Paris"}},
        EditRequest("{} is in downtown", "The Space Needle", "Paris"),
    ),
    "EasyEdit's CounterFact": (
        {
            "prompt": "The Space Needle is in downtown",
            "subject": "The Space Needle",
            "target_new": "Paris",
            "ground_truth": "Seattle",
            "rephrase_prompt": "To see the Space Needle, go to",
        },
        NEEDLE,
    ),
    "EasyEdit's zsRE": (
        {
            "prompt": "Where is The Space Needle?",
            "subject": "The Space Needle",
            "target_new": "Paris",
            "ground_truth": ["Seattle", "Seattle, Washington"],
        },
        QUESTION,
    ),
    "nested answers": (
        {
            "prompt": "Where is {}?",
            "subject": "The Space Needle",
            "target_new": ["Paris"],
            "ground_truth": [["Seattle"]],
        },
        QUESTION,
    ),
    "MEND's zsRE": (
        {
            "src": "Where is The Space Needle?",
            "subject": "The Space Needle",
            "pred": "Rome",
            "alt": "Paris",
            "answers": ["Seattle"],
            "loc": "nq question: who sang it?",
        },
        QUESTION,
    ),
    "no answers": (
        {"src": "Where is {}?", "subject": "The Space Needle", "alt": "Paris", "answers": []},
        EditRequest("Where is {}?", "The Space Needle", "Paris"),
    ),
    "a year": (
        {"prompt": "{} was built in", "subject": "It", "target_new": 1962, "ground_truth": 1961},
        EditRequest("{} was built in", "It", " 1962", " 1961"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_the_request(layout: str) -> None:
    given, expected = LAYOUTS[layout]
    assert EditRequest.of(given) == expected
    assert as_requests(given) == as_requests([given]) == as_requests(iter((given,))) == (expected,)
    assert expected.text == expected.prompt.replace("{}", expected.subject)


@pytest.mark.parametrize(
    ("prompt", "subject", "target", "kept"),
    [
        ("{} is in", "Rome", "Italy", ("{} is in", "Rome", " Italy")),
        ("Rome is in", "Rome", "  Italy ", ("{} is in", "Rome", " Italy")),
        ("a passage about Rome. ", "Rome", " Italy", ("a passage about {}. ", "Rome", "Italy")),  # no second space
        ("{}は", "ローマ", " 都市", ("{}は", "ローマ", "都市")),
        ("{}は", "ローマ", " Rome", ("{}は", "ローマ", "Rome")),
        ("{}+1=", "1", " 2", ("{}+1=", "1", "2")),
        ("{} ended in 19", "World War II", "45", ("{} ended in 19", "World War II", "45")),
        ("{} in Chinese is", "Rome", "罗马", ("{} in Chinese is", "Rome", " 罗马")),
        ("{} said “", "Rome", "Yes", ("{} said “", "Rome", "Yes")),
        (
            "What is Angora goat named after?",
            "Angora goat ",
            "Ankara",
            ("What is {} named after?", "Angora goat", " Ankara"),
        ),
        ("What is {} named after?", " Angora goat", "Ankara", ("What is {} named after?", "Angora goat", " Ankara")),
        ("In {a: 1} {} is [x]", "Rome", "{}", ("In {a: 1} {} is [x]", "Rome", " {}")),
    ],
)
def test_the_form_that_is_kept(prompt: str, subject: str, target: str, kept: tuple[str, str, str]) -> None:
    request = EditRequest(prompt, subject, target)
    assert (request.prompt, request.subject, request.target_new) == kept
    assert request == EditRequest(*kept)
    assert hash(request) == hash(EditRequest(*kept))


def test_a_space_is_as_said() -> None:
    glued = EditRequest("{} is in down", "Rome", " town", "hill", space=False)
    assert (glued.target_new, glued.target_true) == ("town", "hill")
    assert glued.fact.space is glued.about("x").space is False
    assert EditRequest(**asdict(glued)) == glued
    apart = EditRequest("{}+1=", "1", "2", space=True)
    assert apart.target_new == " 2"
    assert apart.after("1 plus 1 is", apart.target_new) == " 2"
    assert glued.after(glued.text, " x") == "x"
    assert glued.after("Rome is", glued.target_new) == " town"  # another prompt
    assert EditRequest.of({"prompt": "{}+1=", "subject": "1", "target_new": "2", "space": True}) == apart
    with pytest.raises(TracerError, match="space is 'no'; expected True, False or None"):
        EditRequest("{} is", "Rome", "x", space="no")  # type: ignore[arg-type]


def test_what_looks_alike_is_one() -> None:
    parted, composed = "Cafe\u0301", "Caf\u00e9"
    with pytest.raises(TracerError, match="are both"):
        EditRequest("{} is", "Rome", f"a {parted}", f"a {composed}")
    with pytest.raises(TracerError, match="are both"):
        EditRequest("{} is", "Rome", "O'Brien's", "O’Brien’s")
    same = [EditRequest("{} is in", name, place) for name, place in ((parted, "Côte"), (composed, "Co\u0302te"))]
    with pytest.warns(EditWarning, match="requests 0 and 1 share the subject"):
        check_together(same)
    with pytest.raises(TracerError, match="requests 0 and 1 contradict each other"):
        check_together([same[0], EditRequest("{} is in", composed, "Rome")])
    with pytest.raises(TracerError, match=r"the target .* holds half a character"):
        EditRequest("{} is", "Rome", "x\ud800")


def test_a_target_is_the_same_tokens_with_and_without_its_space(tiny: Callable[[str], Model]) -> None:
    for architecture in ("gpt2", "llama", "gemma2"):
        model = tiny(architecture)
        plain, spaced = (EditRequest("Rome is in", "Rome", target).fact.align(model) for target in ("Paris", " Paris"))
        assert plain == spaced
        assert "".join(str(model.tokenizer.decode(list(plain.target_ids))).split()) == "Paris"


# --- refused -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("It is in", "Rome", "Italy"), "subject 'Rome' does not occur in prompt 'It is in'; put {} where it belongs"),
        (("Rome and Rome are", "Rome", "one"), "occurs more than once"),
        (("{} and {} are", "Rome", "one"), "2 times {}; leave one"),
        (("{} is in", " ", "Italy"), "the subject is empty"),
        (("", "Rome", "Italy"), "the prompt is empty"),
        (("{} is in", "Rome", " "), "target_new of 'Rome is in' is ' '; write out what should follow"),
        (("{} is in", "Rome", 3), "target_new of 'Rome is in' is 3; write out"),
        (("{} is in", "Rome", None), "target_new of 'Rome is in' is None; write out"),
        (("{} is in", "Rome", "Italy", ""), "target_true of 'Rome is in' is ''; write out"),
        (("{} is in", "Rome", "Italy", " Italy"), "target_new and target_true of 'Rome is in' are both 'Italy'"),
        ((["{} is in"], "Rome", "Italy"), "the prompt should be text, got list"),
        (("{} is in", 7, "Italy"), "the subject should be text, got int"),
    ],
)
def test_what_is_no_request(fields: tuple, message: str) -> None:
    with pytest.raises(TracerError) as error:
        EditRequest(*fields)
    assert message in str(error.value)
    record = dict(zip(("prompt", "subject", "target_new", "target_true"), fields, strict=False))
    if isinstance(fields[2], str):  # a record's numbers are text, and what it lacks is named
        with pytest.raises(TracerError) as error:
            as_requests([NEEDLE, record])
        assert str(error.value).startswith("request 1: ")
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs prompt, subject, target_new; this record has nothing"),
        ({"prompt": "{} is", "attribute": "x"}, "needs subject, target_new; this record has prompt, attribute"),
        ({"requested_rewrite": {"prompt": "{} is", "subject": "x", "target_new": {}}}, "needs target_new; this record"),
        ({"requested_rewrite": "x"}, "requested_rewrite should be a mapping, got str"),
        (["{} is", "Rome", "x"], "request 0: an edit request is an EditRequest or a mapping, got str"),
        ("Rome is", "request 0: an edit request is an EditRequest or a mapping, got str"),
        (3, "expected an EditRequest, a record, or a list of them, got int"),
        (None, "expected an EditRequest, a record, or a list of them, got NoneType"),
        ([], "the list of requests is empty; give at least one"),
    ],
)
def test_what_is_no_list_of_requests(given: Any, message: str) -> None:
    with pytest.raises(TracerError) as error:
        as_requests(given)
    assert message in str(error.value)


# --- together ------------------------------------------------------------------------------------------------------
def test_contradictions_are_named() -> None:
    other = EditRequest("Miles plays the {}", "horn", "x")
    against = EditRequest(
        "The Space Needle is in downtown", "The Space Needle", "Rome"
    )  # the same text otherwise written
    with pytest.raises(
        TracerError,
        match="requests 0 and 2 contradict each other: 'The Space Needle is in downtown' cannot end in both "
        "'Paris' and 'Rome'; leave one of them out",
    ):
        as_requests([NEEDLE, other, against])
    # also if the text is the same about another subject
    with pytest.raises(TracerError, match="requests 0 and 1 contradict"):
        check_together([NEEDLE, EditRequest("The Space Needle is in {}", "downtown", "Rome")])


def test_a_shared_subject_is_warned_of_once() -> None:
    others = [EditRequest(f"{{}} has {part}", "The Space Needle", "x") for part in ("a lift", "stairs")]
    with pytest.warns(EditWarning, match="requests 0 and 1 share the subject 'The Space Needle': they write") as seen:
        assert len(as_requests([NEEDLE, others[0]])) == 2
    assert len(seen) == 1
    with pytest.warns(EditWarning, match="0 and 1 share the subject 'The Space Needle', as do 0 and 2: they") as seen:
        as_requests([NEEDLE, *others])
    assert len(seen) == 1
    assert as_requests([NEEDLE, EditRequest("{} is in downtown", "Miles", "Rome")])  # no warning, or it would fail


# --- real records --------------------------------------------------------------------------------------------------
def test_every_factworld_record_is_a_request() -> None:
    records = factworld.records("test")
    for record in records:
        request, rewrite = EditRequest.of(record), record["requested_rewrite"]
        assert request.target_true is not None
        assert (request.prompt, request.subject) == (rewrite["prompt"], rewrite["subject"])
        assert (request.target_new.strip(), request.target_true.strip()) == (
            rewrite["target_new"]["str"],
            rewrite["target_true"]["str"],
        )
    assert len(records) > 100


# file -> records, those whose new target is the true one, those whose prompt does not name the subject
FILES = {
    "counterfact/counterfact-edit.json": (10_000, 0, 0),
    "counterfact/counterfact-train.json": (10_000, 0, 0),
    "counterfact/counterfact-val.json": (1_919, 0, 0),
    "counterfact/counterfact_portability_gpt4.json": (1_031, 0, 0),
    "counterfact/counterfact_subject_replace.json": (213, 0, 0),
    "zsre/zsre_mend_eval_portability_gpt4.json": (1_037, 29, 0),
    "zsre/zsre_subject_replace.json": (293, 29, 4),
    "zsre/zsre_inverse_relation.json": (385, 3, 5),
}


@pytest.mark.parametrize("file", FILES)
def test_public_records_become_requests_or_say_why_not(file: str, data: Path) -> None:
    records = json.loads((data / file).read_text(encoding="utf-8"))
    refused: Counter[str] = Counter()
    for record in records:
        fields = record.get("requested_rewrite", record)
        text = str(fields.get("prompt", fields.get("src")))
        try:
            request = EditRequest.of(record)
        except TracerError as error:
            refused["same" if "are both" in str(error) else "absent" if "does not occur" in str(error) else "?"] += 1
            continue
        assert request.text == text.replace("{}", request.subject)
        assert request.target_true is not None
        given = next(fields[name] for name in ("target_new", "alt") if name in fields)
        assert request.target_new.strip() == (given["str"] if isinstance(given, dict) else given).strip()
    assert (len(records), refused["same"], refused["absent"], refused["?"]) == (*FILES[file], 0)


def test_contradictions_among_ten_thousand_records_are_counted(data: Path) -> None:
    """CounterFact asks for different things after the same text now and then; without those it is one batch."""
    records = json.loads((data / "counterfact/counterfact-edit.json").read_text(encoding="utf-8"))
    with pytest.raises(TracerError, match=r"requests 452 and 1091 .* so do .* and \d+ more pairs") as error:
        as_requests(records)
    first: dict[str, str] = {}
    kept = [r for r in records if first.setdefault(r["prompt"], r["target_new"]) == r["target_new"]]
    assert f"and {len(records) - len(kept) - 4} more pairs" in str(error.value)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert len(as_requests(kept)) == len(kept)
    assert len(seen) == 1
