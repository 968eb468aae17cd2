"""MeLLo's loop against the published one, and the scripted decomposition by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import goldens
import pytest
import torch

import editing
import tracer
from editing.memories import attached
from editing.multihop import Chain, accuracy, chain_of, consistent, finder, mello, overriding, saying, solved, writer
from editing.multihop.loop import NOTHING, PUBLISHED_TURNS
from editing.multihop.scripted import named
from editing.questions.record import EditRecord, Rewrite
from tracer import Model, TracerError
from tracer.facts.encoding import encode

Tiny = Callable[[str], Model]


class Script:
    """A model that writes what is in a list, and keeps what it was given."""

    def __init__(self, replies: list[str]) -> None:
        self.replies, self.prompts = iter(replies), []

    def __call__(self, prompt: str, stop: str) -> str:
        self.prompts.append(prompt)
        return next(self.replies)


@pytest.fixture(scope="module")
def theirs(golden: Path) -> goldens.Arrays:
    return goldens.arrays(golden / "retrieval" / "mello.npz")


def find_by(model: Model, facts: torch.Tensor) -> Callable[[str], int]:
    """The nearest fact by raw products with the mean of the model's last states, the encoder of the golden file."""

    def find(question: str) -> int:
        ids = torch.tensor([encode(model.tokenizer, question)[0]])
        with torch.no_grad():
            state = model.hf.transformer(ids).last_hidden_state[0].mean(0)  # type: ignore[union-attr]
        return int((facts @ state).argmax())

    return find


def test_prompts_facts_and_answers_are_the_published_ones(theirs: goldens.Arrays, golden_model: Model) -> None:
    facts = [str(each) for each in theirs["facts"]]
    find = find_by(golden_model, torch.tensor(theirs["fact_embeddings"]))
    prompts, retrieved, answers = [], [], []
    for question, script in zip(theirs["questions"], json.loads(str(theirs["scripts"])), strict=True):
        write = Script(script)
        found = mello(write, find, facts, str(question), str(theirs["task_prompt"]), turns=PUBLISHED_TURNS)
        assert list(found.prompts) == write.prompts
        prompts += found.prompts
        retrieved += found.retrieved
        answers += [found.answer] if found.answer is not None else []
    assert prompts == [str(each) for each in theirs["prompts"]]
    assert retrieved == theirs["retrieved"].tolist() and answers == [str(each) for each in theirs["answers"]]


def test_a_fifth_turn_finishes_four_hops_and_the_gate_may_find_nothing() -> None:
    script = [f"\nSubquestion: {i}?\nGenerated answer: {i}.\n" for i in range(4)] + ["\nFinal answer: Rome "]
    for turns, answer, count in ((4, None, 4), (5, "Rome", 4)):
        found = mello(Script(list(script)), lambda _: None, [], "who?", "examples", turns=turns)
        assert found.answer == answer and found.retrieved == (None,) * count and len(found.prompts) == turns
        assert found.text.count(f"Retrieved fact: {NOTHING}.") == 4
    with pytest.raises(TracerError, match="turns is 0"):
        mello(Script([]), lambda _: None, [], "who?", "examples", turns=0)


def test_a_model_may_write_and_a_memory_find(tiny: Tiny) -> None:
    model = tiny("gpt2")
    requests = [
        editing.EditRequest("{} is in", "The Space Needle", " Rome"),
        editing.EditRequest("{} is", "Ma", " old"),
    ]
    edit = editing.compute_edit(model, requests, "ike", router="string", variant="bare", known="edit", check=None)
    memory = edit.memories[0].on(None)
    assert memory is not None
    find = finder(model, memory)
    assert [find("Where is The Space Needle?"), find("Is Ma old?"), find("a")] == [0, 1, None]
    text = writer(model, 5)("a", "there is no such stop")
    assert text == tracer.generate(model, ["a"], max_new_tokens=5)[0]
    assert writer(model, 5)("a", text[1:3]) == text[: text.index(text[1:3])]


NAMES = [
    (" Rome. The city", "Rome"),
    (" the United States of America, which", "the United States of America"),
    ("\nNo", "No"),
    (' "Ada" is', "Ada"),
    ("", ""),
    ("...", ""),
    (" one two three four five six seven eight nine", "one two three four five six seven eight"),
]


@pytest.mark.parametrize(("text", "name"), NAMES)
def test_names_end_with_their_phrase(text: str, name: str) -> None:
    assert named(text) == name


def test_a_chain_puts_each_answer_into_the_next_hop() -> None:
    world = {
        "Ada was born in": " Rome. Rome is",
        "Rome is a city in": " Italy",
        "People in Italy speak": " Italian, of",
    }
    chain = Chain(
        "1", ("Ada was born in", "{} is a city in", "People in {} speak"), ("Italian", "the Italian tongue"), 1
    )
    found = solved(chain, lambda prompt: world.get(prompt, ""))
    assert found.said == ("Rome", "Italy", "Italian") and found.right
    wrong = solved(chain, lambda prompt: {**world, "Ada was born in": " Paris."}.get(prompt, ""))
    assert wrong.said == ("Paris", "") and not wrong.right
    table = accuracy([chain, Chain("2", ("who?", "{}"), ("Rome",), 0)], lambda prompt: world.get(prompt, ""))
    assert table["right"].tolist() == [True, False] and table["said"].tolist() == ["Rome | Italy | Italian", ""]


HOPS = {
    "requested_rewrite": [
        {"prompt": "{} sings for", "subject": "Ada", "target_new": {"str": "Rome"}, "target_true": {"str": "Paris"}}
    ],
    "questions": ["In which country is the place Ada sings for?"],
    "answer": "France",
    "new_answer": "Italy",
    "new_answer_alias": ["Italia"],
    "single_hops": [{"cloze": "Ada sings for", "answer": "Paris"}],
    "new_single_hops": [
        {"cloze": "Ada sings for", "answer": "Rome", "answer_alias": ["Roma"]},
        {"cloze": "The country of Rome is", "answer": "Italy"},
    ],
}


def test_chains_are_read_off_records() -> None:
    (record,) = editing.datasets.records_of([HOPS])
    chain = chain_of(record)
    assert chain is not None
    assert chain.hops == ("Ada sings for", "The country of {} is") and chain.answers == ("Italy", "Italia")
    assert chain.edits == 1
    apart: Any = {**HOPS, "new_single_hops": [HOPS["new_single_hops"][0], {"cloze": "It is in", "answer": "Italy"}]}
    assert chain_of(editing.datasets.records_of([apart])[0]) is None
    hop = next(r for r in editing.load_records("factworld", split="test") if any(q.kind == "one_hop" for q in r.asks))
    assert chain_of(hop) is None
    found = chain_of(hop, "{} is a city in")
    assert found is not None and found.hops[0] == hop.requests()[0].text and found.hops[1] == "{} is a city in"


def test_records_that_contradict_earlier_ones_are_left_out() -> None:
    def record(place: int, *facts: tuple[str, str]) -> Any:
        written = tuple(Rewrite(prompt="{} sings for", subject=who, target_new=target) for who, target in facts)
        return EditRecord(case_id=str(place), source="own", rewrites=written)

    some = [record(0, ("Ada", "Rome")), record(1, ("Ada", " rome"), ("Bo", "Oslo")), record(2, ("Bo", "Paris"))]
    assert [each.case_id for each in consistent([*some, record(3, ("Cy", "Paris"))])] == ["0", "1", "3"]
    assert consistent([]) == []


def test_an_edit_overrides_where_the_router_finds_it(tiny: Tiny) -> None:
    model = tiny("gpt2")
    request = editing.EditRequest("{} sings for", "Ada", " Rome")
    edit = editing.compute_edit(model, request, "ike", router="string", variant="bare", known="edit", check=None)
    memory = edit.memories[0].on(None)
    assert memory is not None
    ask = overriding(model, memory, 3)
    assert (
        ask("Ada sings for") == " Rome" and ask("Bo is in") == tracer.generate(model, ["Bo is in"], max_new_tokens=3)[0]
    )
    with attached(model, memory):
        assert saying(model, 3)("Bo is in") == ask("Bo is in")
